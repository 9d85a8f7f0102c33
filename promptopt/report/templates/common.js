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
// An axis with ticks that were computed with the data.
const scaled = ({ values, format }) => ({ scale: { domain: [values[0], values.at(-1)], nice: false, zero: false }, axis: { values, format } });
let library; // of charts: loaded with the first of them
const draw = async (selector, layer, description) => {
  await comesNear(document.querySelector(selector));
  await (library ??= loadLibrary());
  return window.vegaEmbed(
    selector,
    { width: "container", height: 300, autosize: { type: "fit", contains: "padding" }, description, layer, config: CONFIG },
    { renderer: "svg", actions: false, mode: "vega-lite", ast: true, defaultStyle: false, tooltip: { disableDefaultStyle: true } },
  );
};
