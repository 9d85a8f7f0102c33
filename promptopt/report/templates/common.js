// Shared by the pages. Text of prompts and models is inserted only as text content, never as HTML.
const node = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.filter((child) => child !== null));
  return element;
};
const format = (value, digits = 3) => (value === null || value === undefined ? "–" : value.toFixed(digits));
const CONFIG = {
  background: null,
  font: "system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif",
  view: { stroke: null },
  axis: {
    domainColor: "var(--line)", gridColor: "var(--line)", tickColor: "var(--line)", labelColor: "var(--soft)", titleColor: "var(--soft)",
    titleFontWeight: "normal", labelFontSize: 12, titleFontSize: 12, titlePadding: 10, labelPadding: 6, ticks: false,
  },
  axisX: { grid: false },
};
const draw = (selector, layer, description) =>
  window.vegaEmbed(
    selector,
    { width: "container", height: 300, autosize: { type: "fit", contains: "padding" }, description, layer, config: CONFIG },
    // Without code from text (ast) and without a style of its own, as the policy of a served page demands.
    { renderer: "svg", actions: false, mode: "vega-lite", ast: true, defaultStyle: false, tooltip: { disableDefaultStyle: true } },
  );
