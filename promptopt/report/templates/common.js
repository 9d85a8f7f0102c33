// What the pages share. Texts of prompts and models reach the page through textContent alone.
const node = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children.filter((child) => child !== null));
  return made;
};
const shown = (value, digits = 3) => (value === null || value === undefined ? "–" : value.toFixed(digits));
const unpack = async (id) => {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
  const plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(plain).text();
};
const library = node("script");
library.textContent = await unpack("library");
document.head.append(library); // runs at once
const LOOK = {
  background: null,
  font: "system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif",
  view: { stroke: null },
  axis: {
    domainColor: "var(--line)", gridColor: "var(--line)", tickColor: "var(--line)", labelColor: "var(--soft)", titleColor: "var(--soft)",
    titleFontWeight: "normal", labelFontSize: 12, titleFontSize: 12, titlePadding: 10, labelPadding: 6, ticks: false,
  },
  axisX: { grid: false },
};
const draw = (place, layer, description) =>
  window.vegaEmbed(
    place,
    { width: "container", height: 300, autosize: { type: "fit", contains: "padding" }, description, layer, config: LOOK },
    { renderer: "svg", actions: false, mode: "vega-lite", tooltip: { disableDefaultStyle: true } },
  );
