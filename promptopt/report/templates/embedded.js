// The static page holds its data and its library, compressed.
const unpack = async (id) => {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
  const inflated = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(inflated).text();
};
const library = node("script");
library.textContent = await unpack("library");
// It runs immediately.
document.head.append(library);
