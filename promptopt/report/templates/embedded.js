// The static page holds its data and its library, compressed.
const unpack = async (id) => {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
  const inflated = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(inflated).text();
};
const loadLibrary = async () => {
  const script = node("script");
  script.textContent = await unpack("library");
  document.head.append(script); // which runs it
};
// All charts are drawn at once.
const comesNear = async () => {};
