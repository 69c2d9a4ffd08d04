// From pixels to what a graph takes, and from what it answers to named boxes; no document in here.
//
// The resize is the one of training, evaluation and `suite predict`, byte for byte: torch's
// antialiased bilinear kernel for bytes (aten/src/ATen/native/cpu/UpSampleKernel.cpp), which rounds
// its weights to 16 bits, and its pixels to bytes after each direction. Sizes are [height, width].

const STRIDE_MULTIPLE = 32;
const WEIGHT_BITS = 15;
const MAX_PRECISION = 22;

// Return the size of the picture within the network's input.
export function pictureSize(sizing, [height, width]) {
  const [rows, columns] = sizing.canvases.length ? canvasSize(sizing, [height, width]) : [];
  if (!sizing.keep_ratio) return [rows, columns];
  let scale = Math.min(
    sizing.long_side / Math.max(height, width),
    sizing.short_side / Math.min(height, width),
  );
  if (rows) scale = Math.min(scale, rows / height, columns / width);
  return [height, width].map((side) => Math.max(1, Math.floor(side * scale + 0.5)));
}

// Return the size of the network's input for a picture.
export function canvasSize(sizing, hw) {
  const { canvases } = sizing;
  if (canvases.length) return hw[1] > hw[0] ? canvases[0] : canvases[canvases.length - 1];
  return pictureSize(sizing, hw).map((side) => Math.ceil(side / STRIDE_MULTIPLE) * STRIDE_MULTIPLE);
}

// Turn RGBA bytes into the graph's input: { type, data, dims }.
export function prepare(rgba, hw, model) {
  if (model.input.dtype === "uint8") {
    return { type: "uint8", data: dropAlpha(rgba), dims: [1, ...hw, 3] };
  }
  const [rows, columns] = canvasSize(model.sizing, hw);
  if (Math.min(rows, columns) < model.min_side) {
    throw new Error(
      `A picture of ${hw[1]} × ${hw[0]} becomes an input of ${columns} × ${rows}, which is too ` +
        `small: this detector takes at least ${model.min_side} pixels each way.`,
    );
  }
  const picture = pictureSize(model.sizing, hw);
  const data = normalise(resize(rgba, hw, picture), picture, [rows, columns], model.input);
  return { type: "float32", data, dims: [1, 3, rows, columns] };
}

// Resize RGBA bytes to RGB bytes, rows of pixels.
export function resize(rgba, [height, width], [rows, columns]) {
  const narrow = new Uint8Array(height * columns * 3);
  const across = weigh(width, columns);
  for (let y = 0; y < height; y++) {
    weightedSums(across, rgba, y * width * 4, 4, narrow, y * columns * 3, 3);
  }
  const small = new Uint8Array(rows * columns * 3);
  const down = weigh(height, rows);
  for (let x = 0; x < columns; x++) {
    weightedSums(down, narrow, x * 3, columns * 3, small, x * 3, columns * 3);
  }
  return small;
}

// Return the whole-number weights from a line of pixels to another; `precision` bits make one.
function weigh(inputs, outputs) {
  const scale = inputs / outputs;
  const support = Math.max(scale, 1);
  const lines = Array.from({ length: outputs }, (_, place) => {
    const centre = scale * (place + 0.5);
    const first = Math.max(Math.trunc(centre - support + 0.5), 0);
    const last = Math.min(Math.trunc(centre + support + 0.5), inputs);
    const weights = [];
    for (let input = first; input < last; input++) {
      weights.push(Math.max(0, 1 - Math.abs((input - centre + 0.5) / support)));
    }
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    return { first, weights: weights.map((weight) => weight / total) };
  });
  const largest = Math.max(...lines.map(({ weights }) => weights.reduce((a, b) => Math.max(a, b))));
  let precision = 0;
  const next = () => Math.trunc(0.5 + largest * 2 ** (precision + 1));
  while (precision < MAX_PRECISION && next() < 2 ** WEIGHT_BITS) precision++;
  for (const line of lines) {
    line.weights = line.weights.map((weight) => Math.trunc(weight * 2 ** precision + 0.5));
  }
  return { lines, precision };
}

// Write one line of a resize: three channels side by side, lines `step` bytes apart.
function weightedSums({ lines, precision }, source, from, step, target, to, targetStep) {
  const half = 1 << (precision - 1);
  for (const { first, weights } of lines) {
    let red = half, green = half, blue = half;
    let place = from + first * step;
    for (let k = 0; k < weights.length; k++, place += step) {
      red += weights[k] * source[place];
      green += weights[k] * source[place + 1];
      blue += weights[k] * source[place + 2];
    }
    target[to] = Math.min(255, red >> precision);
    target[to + 1] = Math.min(255, green >> precision);
    target[to + 2] = Math.min(255, blue >> precision);
    to += targetStep;
  }
}

// Lay a picture into the upper left corner of zeros: bytes × scale, minus mean, divided by std.
function normalise(rgb, [height, width], [rows, columns], { scale, mean, std }) {
  const planes = new Float32Array(3 * rows * columns);
  for (let channel = 0; channel < 3; channel++) {
    const values = Float32Array.from({ length: 256 }, (_, byte) =>
      (byte * scale - mean[channel]) / std[channel]);
    for (let y = 0; y < height; y++) {
      const line = (channel * rows + y) * columns;
      for (let x = 0; x < width; x++) {
        planes[line + x] = values[rgb[(y * width + x) * 3 + channel]];
      }
    }
  }
  return planes;
}

function dropAlpha(rgba) {
  const rgb = new Uint8Array((rgba.length / 4) * 3);
  for (let pixel = 0; pixel < rgba.length / 4; pixel++) {
    for (let channel = 0; channel < 3; channel++) {
      rgb[pixel * 3 + channel] = rgba[pixel * 4 + channel];
    }
  }
  return rgb;
}

// Return what was found in a picture, best first: { label, name, score, box }; box is x0 y0 x1 y1
// in pixels of the picture and ends at its edges. A graph may answer with anything.
export function readDetections(outputs, hw, model) {
  const picture = model.input.dtype === "uint8" ? hw : pictureSize(model.sizing, hw);
  const count = Number(outputs.num_dets.data[0]), rows = outputs.scores.data.length;
  if (!(count >= 0 && count <= rows)) {
    throw new Error(`The graph answers with ${count} detections in ${rows} rows.`);
  }
  const found = [];
  for (let row = 0; row < count; row++) {
    const label = Number(outputs.labels.data[row]);
    if (!(label in model.class_names)) {
      throw new Error(`The graph answers with label ${label}, which is none of its classes.`);
    }
    const box = [0, 1, 2, 3].map((corner) => {
      const side = 1 - (corner % 2);
      const place = outputs.boxes.data[row * 4 + corner] * (hw[side] / picture[side]);
      return Math.min(Math.max(place, 0), hw[side]);
    });
    found.push({ label, name: model.class_names[label], score: outputs.scores.data[row], box });
  }
  return found;
}
