const data = JSON.parse(await unpack("data"));
const colours = ["var(--accent)", "#c77d1e", "var(--good)", "#8a63d2", "var(--bad)", "#2b9aa8", "#a0678b", "var(--soft)"];
const colour = (i) => colours[i % colours.length];
const dash = (i) => [[], [5, 3], [1, 3]][Math.floor(i / colours.length) % 3];
if (document.getElementById("curves")) {
  const end = data.calls.at(-1);
  const layers = data.curves.map(({ name, points }, i) => {
    const values = points.filter((point) => point.calls <= end).map((point) => ({ ...point, name }));
    if (values.length) values.push({ ...values.at(-1), calls: end });
    return {
      data: { values }, mark: { type: "line", interpolate: "step-after", color: colour(i), strokeDash: dash(i), strokeWidth: 1.8, point: { size: 20, color: colour(i) }, aria: false },
      encoding: {
        x: { field: "calls", type: "quantitative", title: "calls used by the run", scale: { domain: [0, end], nice: false }, axis: { tickCount: 6, format: ",.0f" } },
        y: { field: "reward", type: "quantitative", title: "best training reward so far", scale: { zero: false, nice: true }, axis: { tickCount: 5 } },
        tooltip: [{ field: "name", title: "run" }, { field: "calls" }, { field: "reward" }],
      },
    };
  });
  const legend = document.getElementById("legend");
  for (const [i, { name }] of data.curves.entries()) {
    const swatch = node("i", { class: "bar" });
    swatch.style.background = colour(i);
    legend.append(node("span", {}, swatch, name));
  }
  await draw("#curves", layers, "Best training reward so far of each run, by calls used. The table above lists the values at four points.");
}
document.body.dataset.ready = "yes";
