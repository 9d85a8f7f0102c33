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
const look = async () => {
  const answer = await fetch(location.href);
  if (answer.redirected) location.replace(answer.url);
  else if (!(await answer.text()).includes("data-waits")) location.reload();
  else setTimeout(look, 500);
};
if (document.querySelector("[data-waits]")) setTimeout(look, 500);
document.body.dataset.ready = "yes";
