// A served page fetches its data after its first paint, and the library of charts as a script of its own.
const painted = new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
const unpack = async (id) => {
  await painted;
  return (await fetch(document.body.dataset[id])).text();
};
// A chart is drawn when the reader comes near it: 10,000 candidates take seconds.
const comesNear = (element) =>
  new Promise((done) => {
    const observer = new IntersectionObserver((entries) => {
      if (!entries.some(({ isIntersecting }) => isIntersecting)) return;
      observer.disconnect();
      done();
    }, { rootMargin: "50%" });
    observer.observe(element);
  });
const loadLibrary = () =>
  new Promise((done, fail) => {
    const script = node("script", { src: document.body.dataset.library });
    script.addEventListener("load", done);
    script.addEventListener("error", fail);
    document.head.append(script);
  });
