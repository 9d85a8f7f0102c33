const data = JSON.parse(await unpack("data"));
const candidates = new Map(data.candidates.map((candidate) => [candidate.number, candidate]));
const children = new Map(data.candidates.map(({ number }) => [number, []]));
const roots = [];
for (const { number, parent } of data.candidates) (children.get(parent) ?? roots).push(number);
const rewardOf = (number) => candidates.get(number).reward ?? -Infinity;
// Scored on fewer replies than others: a high mean over a few may be luck.
const partial = ({ cells, failed }) => cells + failed < data.replies;
const byRank = (a, b) => partial(candidates.get(a)) - partial(candidates.get(b)) || rewardOf(b) - rewardOf(a) || a - b;
for (const list of [roots, ...children.values()]) list.sort(byRank);
// The candidate and its ancestors, oldest first.
const lineage = (number) => {
  const path = [];
  for (let candidate = candidates.get(number); candidate; candidate = candidates.get(candidate.parent)) path.unshift(candidate);
  return path;
};

// ---- word diff: longest common subsequence of the part between the common prefix and suffix
const tokenize = (text) => text.match(/[\p{L}\p{N}_]+ ?|[^\s\p{L}\p{N}_] ?|\s+/gu) ?? [];
const wordDiff = (before, after) => {
  const a = tokenize(before), b = tokenize(after), chunks = [];
  const add = (kind, word) => (chunks.at(-1)?.[0] === kind ? (chunks.at(-1)[1] += word) : chunks.push([kind, word]));
  let start = 0, end = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start++;
  while (end < a.length - start && end < b.length - start && a.at(-1 - end) === b.at(-1 - end)) end++;
  const n = a.length - start - end, m = b.length - start - end, columns = m + 1;
  const common = n * m <= 6e6 ? new Uint16Array((n + 1) * columns) : null;
  if (common)
    for (let i = n - 1; i >= 0; i--)
      for (let j = m - 1; j >= 0; j--)
        common[i * columns + j] = a[start + i] === b[start + j] ? common[(i + 1) * columns + j + 1] + 1 : Math.max(common[(i + 1) * columns + j], common[i * columns + j + 1]);
  for (const word of a.slice(0, start)) add("", word);
  for (let i = 0, j = 0; i < n || j < m; ) {
    if (common && i < n && j < m && a[start + i] === b[start + j]) add("", (j++, a[start + i++]));
    else if (i < n && (j === m || !common || common[(i + 1) * columns + j] >= common[i * columns + j + 1])) add("del", a[start + i++]);
    else add("ins", b[start + j++]);
  }
  for (const word of a.slice(a.length - end)) add("", word);
  return chunks;
};
// A short unchanged word between changed words is a chance match: show it as changed, which is easier to read.
const mergeStrays = (chunks) => {
  const merged = [];
  let deleted = "", inserted = "";
  const flush = () => {
    if (deleted) merged.push(["del", deleted]);
    if (inserted) merged.push(["ins", inserted]);
    deleted = inserted = "";
  };
  for (const [i, [kind, text]] of chunks.entries()) {
    const stray = !kind && (deleted || inserted) && i + 1 < chunks.length && text.trim().length <= 3 && !text.includes("\n");
    if (!kind && !stray) flush(), merged.push(["", text]);
    if (kind === "del" || stray) deleted += text;
    if (kind === "ins" || stray) inserted += text;
  }
  flush();
  return merged;
};
const diffElement = (before, after) =>
  node("pre", {}, ...mergeStrays(wordDiff(before, after)).map(([kind, text]) => (kind ? node(kind, {}, text) : text)));

// ---- candidates: the tree, and details of the selected one
const tree = document.getElementById("tree"), detail = document.getElementById("detail");
const open = new Set(data.chosen === null ? [] : lineage(data.chosen).map(({ number }) => number));
let selected = data.chosen ?? roots[0];
const best = Math.max(...data.candidates.map(({ reward }) => reward ?? 0), 1e-9);
const tag = (number) => (number === data.chosen ? "chosen" : number === data.seed ? "seed" : "");
const row = (number, level) => {
  const candidate = candidates.get(number), hasChildren = children.get(number).length > 0;
  const bar = node("b");
  bar.style.width = `${Math.max(0, (100 * (candidate.reward ?? 0)) / best)}%`;
  const element = node(
    "div", { role: "treeitem", "aria-level": level, "aria-selected": number === selected, tabindex: number === selected ? 0 : -1, "data-number": number },
    node("span", { class: "twig", "aria-hidden": "true" }, hasChildren ? (open.has(number) ? "▾" : "▸") : ""),
    node("span", { class: "number" }, `${number}`), node("span", { class: "meter", "aria-hidden": "true" }, bar), node("span", {}, format(candidate.reward)),
    tag(number) ? node("span", { class: "tag" }, tag(number)) : null,
    partial(candidate) ? node("span", { class: "few" }, `${candidate.cells} of ${data.replies}`) : null,
  );
  const few = partial(candidate) ? ` on ${candidate.cells} of ${data.replies} replies` : "";
  element.setAttribute("aria-label", `candidate ${number}, training reward ${format(candidate.reward)}${few}${tag(number) && `, ${tag(number)}`}`);
  if (hasChildren) element.setAttribute("aria-expanded", open.has(number));
  element.style.paddingLeft = `${0.6 + 0.9 * (level - 1)}rem`;
  return element;
};
const renderTree = () => {
  const rows = [], stack = roots.map((number) => [number, 1]).reverse();
  while (stack.length) {
    const [number, level] = stack.pop();
    rows.push(row(number, level));
    const onlyChild = children.get(number).length === 1 && level > 1; // a chain of only children is not indented further
    if (open.has(number)) stack.push(...children.get(number).map((child) => [child, level + (onlyChild ? 0 : 1)]).reverse());
  }
  tree.replaceChildren(...rows);
};
const treeItem = (number) => tree.querySelector(`[data-number="${number}"]`);
const select = (number, focus = false) => {
  selected = number;
  if (!treeItem(number)) {
    for (const ancestor of lineage(number).slice(0, -1)) open.add(ancestor.number);
    renderTree();
  }
  for (const element of tree.querySelectorAll("[tabindex='0']")) (element.tabIndex = -1), element.setAttribute("aria-selected", false);
  treeItem(number).tabIndex = 0;
  treeItem(number).setAttribute("aria-selected", true);
  if (focus) treeItem(number).focus({ preventScroll: true });
  const box = tree.getBoundingClientRect(), target = treeItem(number).getBoundingClientRect();
  if (target.top < box.top || target.bottom > box.bottom) tree.scrollTop += target.top - box.top - box.height / 2;
  showDetails(candidates.get(number));
};
const toggle = (number) => {
  open.has(number) ? open.delete(number) : open.add(number);
  renderTree();
  select(number, true);
};
const link = (number) => {
  const element = node("button", { class: "link", type: "button" }, `candidate ${number}`);
  element.addEventListener("click", () => select(number));
  return element;
};
// Both with their demonstrations written out as they are sent, if the later one has them so.
const alike = (before, after) => [after.written === null && before.written !== null ? before.written : before.text, after.text];
const showDetails = (candidate) => {
  const facts = [
    ["training reward", format(candidate.reward)], ["fitness", candidate.fitness === null ? "–" : Number(candidate.fitness.toPrecision(4))], ["scored replies", `${candidate.cells}${partial(candidate) ? ` of ${data.replies}` : ""}`],
    ["validation", candidate.validation === null ? null : `${format(candidate.validation)} on ${candidate.validated}${candidate.validated < data.validated ? ` of ${data.validated}` : ""} examples`], ["tokens", candidate.length], ["step", candidate.step],
    ["calls used by then", candidate.calls?.toLocaleString("en")], ["failed replies", candidate.failed || null],
  ].filter(([, value]) => value !== null && value !== undefined);
  const parent = candidates.get(candidate.parent);
  detail.replaceChildren(
    node("h3", {}, `Candidate ${candidate.number}${tag(candidate.number) && `, the ${tag(candidate.number)} prompt`}`),
    node("dl", { class: "facts" }, ...facts.map(([name, value]) => node("div", {}, node("dt", {}, name), node("dd", {}, `${value}`)))),
    ...(parent ? [node("h3", {}, "Changes from ", link(parent.number)), diffElement(...alike(parent, candidate))] : []),
    node("h3", {}, "Prompt"), node("pre", {}, candidate.text),
  );
  detail.scrollTop = 0;
};
tree.addEventListener("click", (event) => {
  const row = event.target.closest("[role=treeitem]");
  if (!row) return;
  const number = Number(row.dataset.number);
  event.target.classList.contains("twig") && children.get(number).length ? toggle(number) : select(number, true);
});
tree.addEventListener("keydown", (event) => {
  const rows = [...tree.children].map((row) => Number(row.dataset.number)), index = rows.indexOf(selected);
  const hasChildren = children.get(selected).length > 0, isOpen = open.has(selected);
  const target = { ArrowDown: rows[index + 1], ArrowUp: rows[index - 1], Home: rows[0], End: rows.at(-1) };
  if (event.key in target) target[event.key] !== undefined && select(target[event.key], true);
  else if (event.key === "ArrowRight" && hasChildren) isOpen ? select(children.get(selected)[0], true) : toggle(selected);
  else if (event.key === "ArrowLeft") hasChildren && isOpen ? toggle(selected) : candidates.get(selected).parent !== null && select(candidates.get(selected).parent, true);
  else if ((event.key === "Enter" || event.key === " ") && hasChildren) toggle(selected);
  else return;
  event.preventDefault();
});
document.getElementById("all").addEventListener("click", () => {
  const expand = open.size < data.candidates.length;
  open.clear();
  for (const number of expand ? candidates.keys() : lineage(selected).map((ancestor) => ancestor.number)) open.add(number);
  renderTree();
  select(selected);
});
if (candidates.size) {
  renderTree();
  select(selected);
}

// ---- test examples
const callElements = ([name, inputs, reply]) => [
  node("h3", {}, name), ...inputs.map(([field, text]) => node("pre", {}, `${field}: ${text}`)), node("pre", {}, `→ ${reply}`)];
const side = (title, answer) =>
  node("div", {}, node("h3", {}, `${title}: ${format(answer.reward)}`),
    node("pre", {}, answer.finish === "failed" ? "(no reply)" : answer.text || "(no text)"),
    answer.reason || answer.finish !== "stop" ? node("p", { class: "reason" }, [answer.finish !== "stop" ? answer.finish : "", answer.reason].filter(Boolean).join(": ")) : null,
    answer.trace.length ? node("details", {}, node("summary", {}, `${answer.trace.length} calls`), ...answer.trace.flatMap(callElements)) : null);
const verdict = ({ difference }) => (difference === null ? "unscored" : difference > 0 ? "won" : difference < 0 ? "lost" : "tied");
const ORDER = { lost: 0, won: 1, unscored: 2, tied: 3 };
const exampleElement = (outcome) => {
  const kind = verdict(outcome), colourClass = { won: "good", lost: "bad" }[kind] ?? "";
  const element = node("details", { class: "example", "data-kind": kind },
    node("summary", {}, node("span", { class: colourClass }, kind), node("span", {}, outcome.id), node("span", { class: "inputs" }, outcome.inputs.map(([, text]) => text).join(" · ").slice(0, 200)),
      node("span", { class: "rewards" }, `${format(outcome.seed.reward)} → ${format(outcome.chosen.reward)}`)));
  element.addEventListener("toggle", () => {
    if (element.children.length > 1) return;
    element.append(node("div", { class: "body" },
      ...outcome.inputs.flatMap(([name, text]) => [node("h3", {}, name), node("pre", {}, text)]),
      outcome.target === null ? null : node("h3", {}, "target"), outcome.target === null ? null : node("pre", {}, outcome.target),
      node("div", { class: "pair" }, side("seed prompt", outcome.seed), side("chosen prompt", outcome.chosen))));
  });
  return element;
};
const examples = document.getElementById("examples");
if (examples) {
  const sorted = data.outcomes.map((outcome, index) => ({ outcome, index })).sort((a, b) => ORDER[verdict(a.outcome)] - ORDER[verdict(b.outcome)] || a.index - b.index);
  examples.append(...sorted.map(({ outcome }) => exampleElement(outcome)));
  const filters = document.querySelectorAll("input[name=kind]");
  const filter = (kind) => { for (const element of examples.querySelectorAll(".example")) element.hidden = kind !== "all" && element.dataset.kind !== kind; };
  for (const input of filters) {
    input.disabled = input.value !== "all" && !data.outcomes.some((outcome) => verdict(outcome) === input.value);
    input.nextElementSibling.textContent += ` ${input.value === "all" ? data.outcomes.length : data.outcomes.filter((outcome) => verdict(outcome) === input.value).length}`;
    input.addEventListener("change", () => filter(input.value));
  }
}

// ---- diff of the seed prompt and the chosen prompt, part by part
const partElement = ([label, before, after]) => {
  const state = before === null ? "added" : after === null ? "removed" : before === after ? "unchanged" : "changed";
  return node("div", { class: "part" }, node("p", {}, node("b", {}, label), ` ${state}`), diffElement(before ?? "", after ?? ""));
};
document.getElementById("changed")?.replaceChildren(
  ...data.changes.flatMap(({ name, parts }) => [name ? node("h3", {}, name) : null, node("div", { class: "panel box parts" }, ...parts.map(partElement))]).filter(Boolean),
);

// ---- copy buttons
const copied = document.getElementById("copied");
for (const button of document.querySelectorAll("button[data-copy]")) {
  const name = button.textContent;
  button.addEventListener("click", async () => {
    const source = document.getElementById(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(source.textContent);
      copied.textContent = button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(source);
      copied.textContent = button.textContent = "Selected: press Ctrl+C";
    }
    setTimeout(() => { button.textContent = name; copied.textContent = ""; }, 4000);
  });
}

document.body.dataset.ready = "yes";

// ---- charts
const drawings = [];
const points = data.candidates.filter(({ reward }) => reward !== null).map(({ text, ...point }) => point);
const tooltip = (...names) => names.map(([field, title]) => ({ field, title, type: "quantitative" }));
const chart = (selector, xField, title, lines, description) => {
  const x = { field: xField, type: "quantitative", title, ...scaled(data.axes[xField]) };
  const y = { field: "reward", type: "quantitative", title: "training reward", ...scaled(data.axes.reward) };
  const shown = tooltip(["number", "candidate"], ["reward", "reward"], ["cells", "replies"], ["calls", "calls"], ["length", "tokens"]);
  const marks = (values, mark, encoding = {}) => ({ data: { values }, mark: { opacity: 1, aria: false, cursor: "pointer", ...mark }, encoding: { x, y, tooltip: shown, ...encoding } });
  const tagged = points.filter(({ number }) => tag(number)).map((point) => ({ ...point, tag: tag(point.number) }));
  const layers = [
    marks(points.filter(partial), { type: "point", shape: "circle", filled: false, size: 30, stroke: "var(--faint)", strokeWidth: 1.2 }),
    marks(points.filter((point) => !partial(point)), { type: "circle", size: 34, color: "var(--faint)" }),
    ...lines.filter(({ values }) => values.length > 1).map(({ values, color, dash, step }) => ({
      data: { values }, mark: { type: "line", color, strokeWidth: 1.8, strokeDash: dash ?? [], interpolate: step ? "step-after" : "linear", aria: false },
      encoding: { x, y, order: { field: "order", type: "quantitative" } } })),
    marks(tagged, { type: "point", filled: true, size: 90, stroke: "var(--panel)", strokeWidth: 1.5 },
      { color: { field: "tag", type: "nominal", legend: null, scale: { domain: ["seed", "chosen"], range: ["var(--ink)", "var(--accent)"] } } }),
  ];
  return draw(selector, layers, description).then(({ view }) =>
    view.addEventListener("click", (event, hit) => hit?.datum?.number !== undefined && select(hit.datum.number)));
};
const ordered = (list) => list.filter(({ reward }) => reward !== null).map(({ calls, dollars, length, reward }, order) => ({ calls, dollars, length, reward, order }));
const drawSearch = (xField) => {
  const last = Math.max(...points.map((point) => point[xField]));
  const curve = ordered(data.curve);
  if (curve.length) curve.push({ ...curve.at(-1), [xField]: last, order: curve.length });
  const ancestors = data.chosen === null ? [] : ordered(lineage(data.chosen));
  const lines = [{ values: ancestors, color: "var(--accent)", dash: [3, 3] }, { values: curve, color: "var(--ink)", step: true }];
  return chart("#search-chart", xField, xField === "calls" ? "calls used by the run" : "dollars used by the run", lines,
    `Training reward of ${points.length} candidates by ${xField} used, and the best so far. The tree below lists the same candidates.`);
};
if (document.getElementById("search-chart")) {
  for (const input of document.querySelectorAll("input[name=axis]")) input.addEventListener("change", () => drawSearch(input.value));
  drawings.push(drawSearch("calls"));
}
if (document.getElementById("length-chart") && points.length)
  drawings.push(chart("#length-chart", "length", "prompt tokens", [{ values: ordered(data.front.map((number) => candidates.get(number))), color: "var(--ink)" }],
    `Training reward of ${points.length} candidates by prompt length in tokens, with the Pareto front.`));

// ---- the front: a chart for each objective beside the reward
const drawFront = ({ name, points: all, axes }, index) => {
  const values = all.filter(({ x, y }) => x !== null && y !== null).map((point) => ({ ...point, tag: tag(point.number) || "front" }));
  const among = data.tested ? "test" : "training and validation";
  const x = { field: "x", type: "quantitative", title: `${name}, ${among}`, ...scaled(axes.x) };
  const y = { field: "y", type: "quantitative", title: `reward, ${among}`, ...scaled(axes.y) };
  const interval = (axis, other) => ({
    data: { values: values.filter((point) => point[`${axis}_low`] !== undefined) }, mark: { type: "rule", color: "var(--faint)", strokeWidth: 1.4, aria: false },
    encoding: { [axis]: { ...(axis === "x" ? x : y), field: `${axis}_low` }, [`${axis}2`]: { field: `${axis}_high` }, [other]: other === "x" ? x : y } });
  const layers = [interval("x", "y"), interval("y", "x"), {
    data: { values }, mark: { type: "point", filled: true, size: 90, stroke: "var(--panel)", strokeWidth: 1.5, opacity: 1, aria: false, cursor: "pointer" },
    encoding: { x, y, color: { field: "tag", type: "nominal", legend: null, scale: { domain: ["front", "seed", "chosen"], range: ["var(--faint)", "var(--ink)", "var(--accent)"] } },
      tooltip: tooltip(["number", "candidate"], ["y", "reward"], ["x", name]) } },
    { data: { values }, mark: { type: "text", dx: 9, dy: -9, align: "left", color: "var(--soft)", fontSize: 11, aria: false }, encoding: { x, y, text: { field: "number", type: "nominal" } } }];
  return draw(`#front-chart-${index}`, layers, `Reward and ${name} of the ${values.length} prompts of the front and the seed prompt. The table below has the same numbers.`).then(({ view }) =>
    view.addEventListener("click", (event, hit) => hit?.datum?.number !== undefined && select(hit.datum.number)));
};
for (const [index, objective] of data.objectives.entries()) drawings.push(drawFront(objective, index));
await Promise.all(drawings);
document.body.dataset.drawn = "yes";
