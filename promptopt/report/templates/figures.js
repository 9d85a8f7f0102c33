const data = JSON.parse(await unpack("data"));
for (const [i, { layers, description }] of data.figures.entries()) await draw(`#figure-${i}`, layers, description);
document.body.dataset.ready = "yes";
