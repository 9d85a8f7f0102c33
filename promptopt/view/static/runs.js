// Sorts and filters the list of runs, and keeps it as the server says it is. The server has escaped all texts in it.
const table = document.getElementById("runs"), body = table.tBodies[0], headers = [...table.tHead.rows[0].cells];
const filter = document.getElementById("filter"), status = document.getElementById("status"), count = document.getElementById("count");
const listing = document.getElementById("listing"), empty = document.getElementById("empty");

const apply = () => {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean), rows = [...body.rows];
  let left = 0;
  for (const row of rows) {
    const text = row.textContent.toLowerCase();
    const matches = words.every((word) => text.includes(word)) && (!status.value || row.dataset.status === status.value);
    row.hidden = !matches;
    left += matches;
  }
  const summary = left === rows.length ? `${left} runs` : `${left} of ${rows.length} runs`;
  if (count.textContent !== summary) count.textContent = summary; // a change is read aloud
  listing.hidden = rows.length === 0;
  empty.hidden = rows.length > 0;
};
filter.addEventListener("input", apply);
status.addEventListener("change", apply);
document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());

// ---- sorting
const compare = (a, b) => {
  if (a === b) return 0;
  if (a === "" || b === "") return a === "" ? 1 : -1; // unknown values are last
  const numbers = [Number(a), Number(b)];
  return numbers.some(Number.isNaN) ? a.localeCompare(b) : numbers[0] - numbers[1];
};
const sort = () => {
  const column = headers.findIndex((header) => header.ariaSort), sign = headers[column].ariaSort === "ascending" ? 1 : -1;
  const value = (row) => row.cells[column].dataset.value;
  body.append(...[...body.rows].sort((a, b) => (value(a) === "" || value(b) === "" ? 1 : sign) * compare(value(a), value(b))));
};
for (const header of headers)
  header.querySelector("button").addEventListener("click", () => {
    const ascending = header.ariaSort !== "ascending";
    for (const other of headers) other.ariaSort = null;
    header.ariaSort = ascending ? "ascending" : "descending";
    sort();
  });

// ---- what the server sends: all rows, then those that change
const read = (html) => {
  const template = document.createElement("template");
  template.innerHTML = html;
  return [...template.content.children];
};
const put = (row, old) => {
  if (!old) return body.append(row);
  row.hidden = old.hidden;
  if (row.isEqualNode(old)) return;
  const focused = old.contains(document.activeElement);
  old.replaceWith(row);
  if (focused) row.querySelector("a").focus();
};
const show = (rows) => {
  const before = new Map([...body.rows].map((row) => [row.dataset.id, row]));
  for (const row of rows) put(row, before.get(row.dataset.id));
  if (body.rows.length > before.size) sort();
  apply();
};
const drop = (gone) => {
  for (const row of [...body.rows]) if (gone(row.dataset.id)) row.remove();
  apply();
};
let source = null;
const follow = () => {
  source?.close();
  source = null;
  if (document.hidden) return; // a browser keeps six connections to a server, for all tabs together
  source = new EventSource(table.dataset.rows);
  source.addEventListener("all", ({ data }) => {
    const rows = read(data), ids = new Set(rows.map((row) => row.dataset.id));
    drop((id) => !ids.has(id));
    show(rows);
    document.body.dataset.ready = "yes";
  });
  source.addEventListener("changed", ({ data }) => show(read(data)));
  source.addEventListener("gone", ({ data }) => {
    const ids = new Set(data.split("\n"));
    drop((id) => ids.has(id));
  });
};
document.addEventListener("visibilitychange", follow);
requestAnimationFrame(() => setTimeout(follow)); // after the first paint
