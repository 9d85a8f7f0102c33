// Presses the button that a key belongs to, once for each page.
const form = document.getElementById("labelling");
let sent = false;
form.addEventListener("submit", (event) => {
  if (sent) event.preventDefault();
  sent = true;
});
addEventListener("pageshow", () => (sent = false)); // a browser keeps the page when it goes back
document.addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.altKey || event.metaKey || event.target.closest("input, select, textarea")) return;
  if (event.key === " " && event.target.closest("button, a")) return; // presses what has the focus
  const button = [...form.querySelectorAll("button[data-key]")].find(({ dataset }) => dataset.key === event.key);
  if (!button) return;
  event.preventDefault();
  button.click();
});
document.body.dataset.ready = "yes";
