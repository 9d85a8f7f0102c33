const data = JSON.parse(await unpack("data"));
const candidates = new Map(data.candidates.map((one) => [one.number, one]));
const children = new Map(data.candidates.map((one) => [one.number, []]));
const roots = [];
for (const one of data.candidates) (children.get(one.parent) ?? roots).push(one.number);
const worth = (number) => candidates.get(number).reward ?? -Infinity;
for (const list of [roots, ...children.values()]) list.sort((a, b) => worth(b) - worth(a) || a - b);
const line = (number) => {
  const out = [];
  for (let at = candidates.get(number); at; at = candidates.get(at.parent)) out.unshift(at);
  return out;
};

// ---- words that differ: the longest common subsequence, between what both ends share
const words = (text) => text.match(/[\p{L}\p{N}_]+ ?|[^\s\p{L}\p{N}_] ?|\s+/gu) ?? [];
const pieces = (before, after) => {
  const a = words(before), b = words(after), out = [];
  const say = (kind, word) => (out.at(-1)?.[0] === kind ? (out.at(-1)[1] += word) : out.push([kind, word]));
  let start = 0, end = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start++;
  while (end < a.length - start && end < b.length - start && a.at(-1 - end) === b.at(-1 - end)) end++;
  const n = a.length - start - end, m = b.length - start - end, wide = m + 1;
  const common = n * m <= 6e6 ? new Uint16Array((n + 1) * wide) : null;
  if (common)
    for (let i = n - 1; i >= 0; i--)
      for (let j = m - 1; j >= 0; j--)
        common[i * wide + j] = a[start + i] === b[start + j] ? common[(i + 1) * wide + j + 1] + 1 : Math.max(common[(i + 1) * wide + j], common[i * wide + j + 1]);
  for (const word of a.slice(0, start)) say("", word);
  for (let i = 0, j = 0; i < n || j < m; ) {
    if (common && i < n && j < m && a[start + i] === b[start + j]) say("", (j++, a[start + i++]));
    else if (i < n && (j === m || !common || common[(i + 1) * wide + j] >= common[i * wide + j + 1])) say("del", a[start + i++]);
    else say("ins", b[start + j++]);
  }
  for (const word of a.slice(a.length - end)) say("", word);
  return out;
};
// A stray short word that both have by chance, amid words that changed, is easier to read as changed too.
const calmed = (found) => {
  const out = [];
  let gone = "", come = "";
  const flush = () => {
    if (gone) out.push(["del", gone]);
    if (come) out.push(["ins", come]);
    gone = come = "";
  };
  for (const [i, [kind, text]] of found.entries()) {
    const stray = !kind && (gone || come) && i + 1 < found.length && text.trim().length <= 3 && !text.includes("\n");
    if (!kind && !stray) flush(), out.push(["", text]);
    if (kind === "del" || stray) gone += text;
    if (kind === "ins" || stray) come += text;
  }
  flush();
  return out;
};
const difference = (before, after) =>
  node("pre", {}, ...calmed(pieces(before, after)).map(([kind, text]) => (kind ? node(kind, {}, text) : text)));

// ---- candidates: the tree, and the one that is looked at
const tree = document.getElementById("tree"), detail = document.getElementById("detail");
const open = new Set(data.chosen === null ? [] : line(data.chosen).map((one) => one.number));
let selected = data.chosen ?? roots[0];
const best = Math.max(...data.candidates.map((one) => one.reward ?? 0), 1e-9);
const mark = (number) => (number === data.chosen ? "chosen" : number === data.seed ? "seed" : "");
const row = (number, level) => {
  const one = candidates.get(number), has = children.get(number).length > 0;
  const bar = node("b");
  bar.style.width = `${Math.max(0, (100 * (one.reward ?? 0)) / best)}%`;
  const made = node(
    "div", { role: "treeitem", "aria-level": level, "aria-selected": number === selected, tabindex: number === selected ? 0 : -1, "data-number": number },
    node("span", { class: "twig", "aria-hidden": "true" }, has ? (open.has(number) ? "▾" : "▸") : ""),
    node("span", { class: "number" }, `${number}`), node("span", { class: "meter", "aria-hidden": "true" }, bar), node("span", {}, shown(one.reward)),
    mark(number) ? node("span", { class: "tag" }, mark(number)) : null,
  );
  made.setAttribute("aria-label", `candidate ${number}, training reward ${shown(one.reward)}${mark(number) && `, ${mark(number)}`}`);
  if (has) made.setAttribute("aria-expanded", open.has(number));
  made.style.paddingLeft = `${0.6 + 0.9 * (level - 1)}rem`;
  return made;
};
const grow = () => {
  const rows = [], waiting = roots.map((number) => [number, 1]).reverse();
  while (waiting.length) {
    const [number, level] = waiting.pop();
    rows.push(row(number, level));
    const only = children.get(number).length === 1 && level > 1; // a chain of only children is not indented further
    if (open.has(number)) waiting.push(...children.get(number).map((child) => [child, level + (only ? 0 : 1)]).reverse());
  }
  tree.replaceChildren(...rows);
};
const item = (number) => tree.querySelector(`[data-number="${number}"]`);
const select = (number, focus = false) => {
  selected = number;
  if (!item(number)) {
    for (const one of line(number).slice(0, -1)) open.add(one.number);
    grow();
  }
  for (const one of tree.querySelectorAll("[tabindex='0']")) (one.tabIndex = -1), one.setAttribute("aria-selected", false);
  item(number).tabIndex = 0;
  item(number).setAttribute("aria-selected", true);
  if (focus) item(number).focus({ preventScroll: true });
  const box = tree.getBoundingClientRect(), place = item(number).getBoundingClientRect();
  if (place.top < box.top || place.bottom > box.bottom) tree.scrollTop += place.top - box.top - box.height / 2;
  look(candidates.get(number));
};
const fold = (number) => {
  open.has(number) ? open.delete(number) : open.add(number);
  grow();
  select(number, true);
};
const link = (number) => {
  const made = node("button", { class: "link", type: "button" }, `candidate ${number}`);
  made.addEventListener("click", () => select(number));
  return made;
};
const look = (one) => {
  const facts = [
    ["training reward", shown(one.reward)], ["fitness", one.fitness === null ? "–" : Number(one.fitness.toPrecision(4))], ["replies", one.cells],
    ["validation", one.validation === null ? null : `${shown(one.validation)} on ${one.validated}`], ["tokens", one.length], ["step", one.step],
    ["calls so far", one.calls?.toLocaleString("en")], ["failed replies", one.failed || null],
  ].filter(([, value]) => value !== null && value !== undefined);
  const parent = candidates.get(one.parent);
  detail.replaceChildren(
    node("h3", {}, `Candidate ${one.number}${mark(one.number) && `, the ${mark(one.number)} prompt`}`),
    node("dl", { class: "facts" }, ...facts.map(([name, value]) => node("div", {}, node("dt", {}, name), node("dd", {}, `${value}`)))),
    ...(parent ? [node("h3", {}, "What changed from ", link(parent.number)), difference(parent.text, one.text)] : []),
    node("h3", {}, "Prompt"), node("pre", {}, one.text),
  );
  detail.scrollTop = 0;
};
tree.addEventListener("click", (event) => {
  const at = event.target.closest("[role=treeitem]");
  if (!at) return;
  const number = Number(at.dataset.number);
  event.target.classList.contains("twig") && children.get(number).length ? fold(number) : select(number, true);
});
tree.addEventListener("keydown", (event) => {
  const rows = [...tree.children].map((one) => Number(one.dataset.number)), at = rows.indexOf(selected);
  const has = children.get(selected).length > 0, isOpen = open.has(selected);
  const to = { ArrowDown: rows[at + 1], ArrowUp: rows[at - 1], Home: rows[0], End: rows.at(-1) };
  if (event.key in to) to[event.key] !== undefined && select(to[event.key], true);
  else if (event.key === "ArrowRight" && has) isOpen ? select(children.get(selected)[0], true) : fold(selected);
  else if (event.key === "ArrowLeft") has && isOpen ? fold(selected) : candidates.get(selected).parent !== null && select(candidates.get(selected).parent, true);
  else if ((event.key === "Enter" || event.key === " ") && has) fold(selected);
  else return;
  event.preventDefault();
});
document.getElementById("all").addEventListener("click", () => {
  const all = open.size < data.candidates.length;
  open.clear();
  for (const number of all ? candidates.keys() : line(selected).map((one) => one.number)) open.add(number);
  grow();
  select(selected);
});
if (candidates.size) {
  grow();
  select(selected);
}

// ---- charts
const points = data.candidates.filter((one) => one.reward !== null).map(({ text, ...one }) => one);
const tip = (...names) => names.map(([field, title]) => ({ field, title, type: "quantitative" }));
const chart = (place, x, title, lines, description) => {
  const at = { field: x, type: "quantitative", title, axis: { tickCount: 6, format: x === "dollars" ? "$~g" : ",.0f" }, scale: { zero: x !== "length", nice: false, padding: 8 } };
  const y = { field: "reward", type: "quantitative", title: "training reward", scale: { zero: false, nice: true, padding: 6 }, axis: { tickCount: 5 } };
  const ends = points.filter((one) => mark(one.number)).map((one) => ({ ...one, mark: mark(one.number) }));
  const layers = [
    { data: { values: points }, mark: { type: "circle", size: 34, color: "var(--faint)", opacity: 0.75, aria: false, cursor: "pointer" },
      encoding: { x: at, y, tooltip: tip(["number", "candidate"], ["reward", "reward"], ["calls", "calls"], ["length", "tokens"]) } },
    ...lines.filter(({ values }) => values.length > 1).map(({ values, color, dash, step }) => ({
      data: { values }, mark: { type: "line", color, strokeWidth: 1.8, strokeDash: dash ?? [], interpolate: step ? "step-after" : "linear", aria: false },
      encoding: { x: at, y, order: { field: "order", type: "quantitative" } } })),
    { data: { values: ends }, mark: { type: "point", filled: true, size: 90, stroke: "var(--panel)", strokeWidth: 1.5, opacity: 1, aria: false, cursor: "pointer" },
      encoding: { x: at, y, color: { field: "mark", type: "nominal", legend: null, scale: { domain: ["seed", "chosen"], range: ["var(--ink)", "var(--accent)"] } },
        tooltip: tip(["number", "candidate"], ["reward", "reward"], ["calls", "calls"], ["length", "tokens"]) } },
  ];
  return draw(place, layers, description).then(({ view }) =>
    view.addEventListener("click", (event, hit) => hit?.datum?.number !== undefined && select(hit.datum.number)));
};
const ordered = (list) => list.filter((one) => one.reward !== null).map(({ calls, dollars, length, reward }, order) => ({ calls, dollars, length, reward, order }));
const search = (x) => {
  const last = Math.max(...points.map((one) => one[x]));
  const curve = ordered(data.curve);
  if (curve.length) curve.push({ ...curve.at(-1), [x]: last, order: curve.length });
  const way = data.chosen === null ? [] : ordered(line(data.chosen));
  const lines = [{ values: way, color: "var(--accent)", dash: [3, 3] }, { values: curve, color: "var(--ink)", step: true }];
  return chart("#search-chart", x, x === "calls" ? "calls used by the run" : "dollars used by the run", lines,
    `Training reward of ${points.length} candidates by ${x} used, and the best so far; the same candidates stand in the tree below.`);
};
if (document.getElementById("search-chart")) {
  for (const input of document.querySelectorAll("input[name=axis]")) input.addEventListener("change", () => search(input.value));
  await search("calls");
}
if (document.getElementById("length-chart") && points.length)
  await chart("#length-chart", "length", "tokens of the prompt", [{ values: ordered(data.front.map((number) => candidates.get(number))), color: "var(--ink)" }],
    `Training reward of ${points.length} candidates by their length in tokens, and those that no other beats in both.`);

// ---- test items
const side = (title, answer) =>
  node("div", {}, node("h3", {}, `${title}: ${shown(answer.reward)}`),
    node("pre", {}, answer.finish === "failed" ? "(no reply)" : answer.text || "(no text)"),
    answer.reason || answer.finish !== "stop" ? node("p", { class: "reason" }, [answer.finish !== "stop" ? answer.finish : "", answer.reason].filter(Boolean).join(": ")) : null);
const verdict = (one) => (one.difference === null ? "gap" : one.difference > 0 ? "won" : one.difference < 0 ? "lost" : "same");
const sorts = { lost: 0, won: 1, gap: 2, same: 3 };
const example = (one) => {
  const kind = verdict(one), colour = { won: "good", lost: "bad" }[kind] ?? "";
  const made = node("details", { class: "item", "data-kind": kind },
    node("summary", {}, node("span", { class: colour }, kind), node("span", {}, one.id), node("span", { class: "what" }, one.inputs.map(([, text]) => text).join(" · ").slice(0, 200)),
      node("span", { class: "rewards" }, `${shown(one.seed.reward)} → ${shown(one.chosen.reward)}`)));
  made.addEventListener("toggle", () => {
    if (made.children.length > 1) return;
    made.append(node("div", { class: "body" },
      ...one.inputs.flatMap(([name, text]) => [node("h3", {}, name), node("pre", {}, text)]),
      one.target === null ? null : node("h3", {}, "wanted"), one.target === null ? null : node("pre", {}, one.target),
      node("div", { class: "pair" }, side("seed prompt", one.seed), side("chosen prompt", one.chosen))));
  });
  return made;
};
const items = document.getElementById("items");
if (items) {
  const list = data.outcomes.map((one, order) => ({ one, order })).sort((a, b) => sorts[verdict(a.one)] - sorts[verdict(b.one)] || a.order - b.order);
  items.append(...list.map(({ one }) => example(one)));
  const filters = document.querySelectorAll("input[name=kind]");
  const filter = (kind) => { for (const made of items.querySelectorAll(".item")) made.hidden = kind !== "all" && made.dataset.kind !== kind; };
  for (const input of filters) {
    input.disabled = input.value !== "all" && !data.outcomes.some((one) => verdict(one) === input.value);
    input.nextElementSibling.textContent += ` ${input.value === "all" ? data.outcomes.length : data.outcomes.filter((one) => verdict(one) === input.value).length}`;
    input.addEventListener("change", () => filter(input.value));
  }
}

// ---- the two prompts
const changed = difference(...data.texts);
changed.className = "box";
document.getElementById("changed").replaceChildren(changed);
document.body.dataset.ready = "yes";
