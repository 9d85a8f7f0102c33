// Offers the labels of the chosen column, copies the command, and looks again while a run starts.
const label = document.getElementById("label"), labels = document.getElementById("labels");
label?.addEventListener("change", () => (labels.value = label.selectedOptions[0].dataset.labels));
for (const button of document.querySelectorAll("[data-copy]")) {
  if (!navigator.clipboard) continue; // only on this machine's own address, or over HTTPS
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.previousElementSibling.textContent);
    button.nextElementSibling.textContent = "copied";
  });
}
if (document.querySelector("[data-reload]")) setTimeout(() => location.reload(), 500);
document.body.dataset.ready = "yes";
