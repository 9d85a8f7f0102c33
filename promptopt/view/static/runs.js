// Sorts and filters the list of runs in the page.
const table = document.getElementById("runs");
if (table) {
  const body = table.tBodies[0], rows = [...body.rows];
  const filter = document.getElementById("filter"), status = document.getElementById("status"), count = document.getElementById("count");
  const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  const apply = () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let left = 0;
    for (const row of rows) {
      const matches = words.every((word) => texts.get(row).includes(word)) && (!status.value || row.dataset.status === status.value);
      row.hidden = !matches;
      left += matches;
    }
    count.textContent = left === rows.length ? `${left} runs` : `${left} of ${rows.length} runs`;
  };
  filter.addEventListener("input", apply);
  status.addEventListener("change", apply);
  document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());

  const headers = [...table.tHead.rows[0].cells];
  const compare = (a, b) => {
    if (a === b) return 0;
    if (a === "" || b === "") return a === "" ? 1 : -1; // unknown values are last
    const numbers = [Number(a), Number(b)];
    return numbers.some(Number.isNaN) ? a.localeCompare(b) : numbers[0] - numbers[1];
  };
  for (const [column, header] of headers.entries())
    header.querySelector("button").addEventListener("click", () => {
      const ascending = header.getAttribute("aria-sort") !== "ascending";
      for (const other of headers) other.removeAttribute("aria-sort");
      header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      const value = (row) => row.cells[column].dataset.value;
      rows.sort((a, b) => (value(a) === "" || value(b) === "" ? compare(value(a), value(b)) : (ascending ? 1 : -1) * compare(value(a), value(b))));
      body.append(...rows);
    });
  apply(); // a browser keeps what was typed when it goes back
}
document.body.dataset.ready = "yes";
