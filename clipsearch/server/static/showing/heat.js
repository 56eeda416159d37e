// A heat map over an image: how strongly each part answers a text.

export function drawHeat(canvas, map) {
  const [rows, columns] = [map.grid.length, map.grid[0].length];
  canvas.width = columns;
  canvas.height = rows;
  const all = map.grid.flat();
  const weakest = Math.min(...all);
  const range = Math.max(...all) - weakest || 1;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(columns, rows);
  all.forEach((cosine, place) => {
    const strength = (cosine - weakest) / range;
    // From clear over yellow to red: what is weak stays as it is.
    pixels.data.set([255, Math.round(220 * (1 - strength)), 0, Math.round(190 * strength ** 1.5)], 4 * place);
  });
  context.putImageData(pixels, 0, 0);
}
