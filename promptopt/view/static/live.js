// Shows the state of a run whenever the server sends it. The server has escaped all texts in it.
const live = document.getElementById("live");
const source = new EventSource(live.dataset.events);
source.addEventListener("panel", ({ data }) => (live.innerHTML = data));
source.addEventListener("end", () => {
  source.close();
  location.reload(); // the same address now shows the report
});
document.body.dataset.ready = "yes";
