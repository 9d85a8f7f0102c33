// A served page fetches its data after its first paint, and the library of charts as a script of its own.
const painted = new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
const unpack = async (id) => {
  await painted;
  return (await fetch(document.body.dataset[id])).text();
};
const loadLibrary = () =>
  new Promise((done, fail) => {
    const script = node("script", { src: document.body.dataset.library });
    script.addEventListener("load", done);
    script.addEventListener("error", fail);
    document.head.append(script);
  });
