// Shows the state of a run whenever the server sends it. The server has escaped all texts in it.
const live = document.getElementById("live");
let source = null;
const follow = () => {
  source?.close();
  source = null;
  if (document.hidden) return; // a browser keeps six connections to a server, for all tabs together
  source = new EventSource(live.dataset.events);
  source.addEventListener("panel", ({ data }) => (live.innerHTML = data));
  source.addEventListener("end", () => {
    source.close();
    location.reload(); // the same address now shows the report
  });
};
document.addEventListener("visibilitychange", follow);
follow();
document.body.dataset.ready = "yes";
