// A served page fetches its data; the library is a script of its own, which has run by now.
const unpack = async (id) => (await fetch(document.body.dataset[id])).text();
