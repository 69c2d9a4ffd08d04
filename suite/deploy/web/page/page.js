// What is seen: pictures in, boxes, times and the model card out. Pictures are not sent at all, and
// the page's Content-Security-Policy lets nothing go to another host. Texts of the model are only
// ever set as text.

import { prepare, readDetections } from "./detect.js";

const MAX_PIXELS = 2 ** 26; // of a canvas, in the most generous browsers
const MAX_THREADS = 4;
const LINE_WIDTH = 2.5;
const DRAWN_SCORE = 0.3; // from which on boxes are drawn at first, as by `suite predict`

const element = (id) => document.getElementById(id);
const state = { model: null, ort: null, session: null, picture: null, found: [] };

start().catch((error) => fail(`This page cannot start. ${describe(error)}`));

async function start() {
  state.model = await (await load("model.json")).json();
  showCard(state.model);
  say("Loading the detector …");
  state.ort = await import("./ort.js");
  state.session = await openSession(state.ort);
  connect();
  element("file").disabled = false;
  say("Ready.");
}

async function openSession(ort) {
  if (typeof WebAssembly !== "object") {
    throw new Error("WebAssembly is switched off in this browser, and the detector needs it.");
  }
  ort.env.wasm.wasmPaths = { mjs: new URL("ort-wasm.js", import.meta.url).href };
  // Fetched here, so that the type a server gives to .wasm does not matter.
  ort.env.wasm.wasmBinary = await (await load("ort-wasm.wasm")).arrayBuffer();
  // Without cross-origin isolation there is no shared memory, and so one thread.
  const cores = navigator.hardwareConcurrency || 1;
  ort.env.wasm.numThreads = crossOriginIsolated ? Math.min(MAX_THREADS, cores) : 1;
  const graph = new Uint8Array(await (await load("model.onnx")).arrayBuffer());
  return ort.InferenceSession.create(graph, { executionProviders: ["wasm"] });
}

async function load(name) {
  const answer = await fetch(new URL(name, import.meta.url));
  if (!answer.ok) throw new Error(`${name} is missing beside the page (HTTP ${answer.status}).`);
  return answer;
}

function connect() {
  const file = element("file"), drop = element("drop"), threshold = element("threshold");
  file.addEventListener("change", () => {
    if (file.files.length) take(file.files[0]);
    file.value = ""; // so that the same file may be chosen again
  });
  // A picture that is dropped beside the field would else replace the page.
  for (const name of ["dragover", "drop"]) {
    addEventListener(name, (event) => event.preventDefault());
  }
  addEventListener("dragover", () => drop.classList.add("over"));
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) drop.classList.remove("over");
  });
  addEventListener("drop", (event) => {
    drop.classList.remove("over");
    const dropped = event.dataTransfer.files[0];
    if (dropped) take(dropped);
    else fail("That was no file. Drop a picture that is stored on this device.");
  });
  const lowest = Math.floor(state.model.postprocess.score_threshold * 100) / 100;
  threshold.min = lowest;
  threshold.value = Math.max(DRAWN_SCORE, lowest);
  threshold.addEventListener("input", show);
  element("again").addEventListener("click", () => run(detect));
  element("detections").addEventListener("mouseover", (event) => {
    const row = event.target.closest("tr");
    if (row) draw(state.found[row.dataset.index]);
  });
  element("detections").addEventListener("mouseleave", () => draw());
  addEventListener("resize", () => state.picture && draw());
}

// Do one thing at a time; the page stays as it was where it fails.
async function run(work) {
  const controls = [element("file"), element("again")];
  if (controls[0].disabled) return;
  controls.forEach((control) => { control.disabled = true; });
  element("error").hidden = true;
  try {
    await work();
  } catch (error) {
    fail(describe(error));
  } finally {
    controls.forEach((control) => { control.disabled = false; });
  }
}

function take(file) {
  return run(async () => {
    say(`Reading ${file.name} …`);
    const picture = await read(file);
    await detect(picture);
  });
}

// Decode as `suite predict` does: upright, colours as they are stored.
async function read(file) {
  const options = { imageOrientation: "from-image", premultiplyAlpha: "none",
                    colorSpaceConversion: "none" };
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, options);
  } catch {
    throw new Error(
      `${file.name} is not a picture that this browser can read. ` +
        "Choose a JPEG, PNG, WebP, AVIF, GIF or BMP file.",
    );
  }
  const { width, height } = bitmap;
  if (width * height > MAX_PIXELS) {
    const most = Math.floor(MAX_PIXELS / 1e6);
    throw new Error(`${file.name} has ${width} × ${height} pixels; at most ${most} million fit.`);
  }
  const canvas = new OffscreenCanvas(width, height);
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.drawImage(bitmap, 0, 0);
  const pixels = pen.getImageData(0, 0, width, height).data;
  return { name: file.name, bitmap, pixels, hw: [height, width] };
}

async function detect(picture = state.picture) {
  say("Detecting …");
  await painted(); // the network keeps this thread busy
  const { ort, session, model } = state;
  const begin = performance.now();
  const { type, data, dims } = prepare(picture.pixels, picture.hw, model);
  const prepared = performance.now();
  const outputs = await session.run({ images: new ort.Tensor(type, data, dims) });
  const finished = performance.now();
  state.picture = picture;
  state.found = readDetections(outputs, picture.hw, model);
  element("preparation-time").textContent = milliseconds(prepared - begin);
  element("network-time").textContent = milliseconds(finished - prepared);
  show();
  say("Done.");
}

const painted = () => new Promise((resolve) => {
  requestAnimationFrame(() => setTimeout(resolve));
});

function show() {
  const threshold = Number(element("threshold").value);
  const seen = visible();
  element("threshold-value").textContent = threshold.toFixed(2);
  element("found-title").textContent = `${seen.length} found`;
  element("nothing").hidden = seen.length > 0;
  element("detections").replaceChildren(...seen.map(buildRow));
  const { name, hw } = state.picture;
  element("caption").textContent = `${name}, ${hw[1]} × ${hw[0]} pixels`;
  element("picture").setAttribute("aria-label", `${name} with ${seen.length} boxes drawn on it`);
  element("result").hidden = false;
  draw();
}

function visible() {
  const [value, lowest] = ["value", "min"].map((name) => Number(element("threshold")[name]));
  // At its lowest the slider shows all that the graph found, however its threshold is rounded.
  return value <= lowest ? state.found : state.found.filter(({ score }) => score >= value);
}

function buildRow(detection, index) {
  const row = document.createElement("tr");
  row.dataset.index = index;
  // In full, for whoever reads the page by a program.
  row.dataset.box = detection.box.join(" ");
  row.dataset.score = detection.score;
  const swatch = document.createElement("span");
  swatch.className = "swatch";
  swatch.style.backgroundColor = css(colour(detection.label));
  const box = detection.box.map((side) => Math.round(side)).join(", ");
  [detection.name, detection.score.toFixed(2), box].forEach((text) => {
    row.insertCell().textContent = text;
  });
  row.cells[0].prepend(swatch);
  return row;
}

// Draw the picture and its boxes, the best on top, or one of them alone.
function draw(only) {
  const { bitmap } = state.picture;
  const canvas = element("picture");
  const pen = canvas.getContext("2d");
  Object.assign(canvas, { width: bitmap.width, height: bitmap.height });
  pen.drawImage(bitmap, 0, 0);
  const seen = only ? [only] : visible();
  // Lines and letters keep their size on the screen, however far the picture is scaled down.
  const line = LINE_WIDTH * Math.max(1, canvas.width / canvas.clientWidth);
  [...seen].reverse().forEach((detection) => drawBox(pen, detection, line));
  const tags = [];
  for (const detection of seen) tags.push(placeTag(pen, detection, line, tags));
  [...tags].reverse().forEach((tag) => drawTag(pen, tag));
}

function drawBox(pen, { box: [x0, y0, x1, y1], label }, line) {
  pen.lineJoin = "round";
  // A thin dark rim keeps a bright line visible on a bright ground.
  for (const [style, width] of [["rgb(0 0 0 / 55%)", line * 1.7], [css(colour(label)), line]]) {
    pen.strokeStyle = style;
    pen.lineWidth = width;
    pen.strokeRect(x0, y0, x1 - x0, y1 - y0);
  }
}

// Return where a tag goes: above its box, inside, or below, wherever no better one stands.
function placeTag(pen, { box: [x0, y0, x1, y1], label, name, score }, line, taken) {
  const size = line * 5;
  const font = `600 ${size}px system-ui, sans-serif`;
  pen.font = font;
  const text = `${name} ${score.toFixed(2)}`;
  const width = pen.measureText(text).width + size * 0.7, height = size * 1.35;
  const inside = (place, room) => Math.max(0, Math.min(place, room));
  const starts = [x0 - line / 2, x1 + line / 2 - width];
  const tops = [y0 - height, y0, y1, y1 - height];
  const places = starts.flatMap((left) => tops.map((top) => [left, top])).map(([left, top]) => ({
    left: inside(left, pen.canvas.width - width),
    top: inside(top, pen.canvas.height - height),
    width, height, size, font, text, label,
  }));
  const apart = (a, b) => a.left >= b.left + b.width || b.left >= a.left + a.width ||
    a.top >= b.top + b.height || b.top >= a.top + a.height;
  return places.find((place) => taken.every((other) => apart(place, other))) ?? places[0];
}

function drawTag(pen, { left, top, width, height, size, font, text, label }) {
  pen.fillStyle = css(colour(label));
  pen.beginPath();
  pen.roundRect(left, top, width, height, size * 0.2);
  pen.fill();
  pen.fillStyle = readableOn(colour(label));
  pen.font = font;
  pen.textBaseline = "middle";
  pen.fillText(text, left + size * 0.35, top + height / 2);
}

const colour = (label) => state.model.palette[label % state.model.palette.length];
const css = (rgb) => `rgb(${rgb.join(" ")})`;

// WCAG's relative luminance; black and white contrast equally with 0.179.
function readableOn(rgb) {
  const linear = rgb.map((value) => ((value / 255 + 0.055) / 1.055) ** 2.4);
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] > 0.179 ? "black" : "white";
}

function showCard(model) {
  const title = `${model.detector} · ${model.dataset}`;
  document.title = title;
  element("title").textContent = title;
  const { score_threshold, iou_threshold, max_detections } = model.postprocess;
  const entries = [
    ["Detector", `${model.detector}, width ${model.width}`],
    ["Trained on", `${model.dataset}, to step ${model.step}`],
    ["Recipe", model.recipe],
    ["Network's input", describeInput(model)],
    ["Thresholds", `score ${score_threshold}, overlap ${iou_threshold}, at most ${max_detections}`],
    ["Precision", model.precision],
    ["Size of the graph", `${(model.num_bytes / 1e6).toFixed(1)} MB, opset ${model.opset}`],
    ["Written by", Object.entries(model.software).map((pair) => pair.join(" ")).join(", ")],
    [`${model.num_classes} classes`, model.class_names.join(", "), "wide"],
    ["sha256 of the graph", model.sha256, "wide digest"],
    ["sha256 of the checkpoint", model.checkpoint_sha256, "wide digest"],
  ];
  element("card").replaceChildren(...entries.map(buildEntry));
}

function describeInput({ image_hw: [height, width], input, min_side }) {
  const size = height ? `${width} × ${height}` : `free, from ${min_side} pixels each way`;
  return `${size}; ${input.resize}`;
}

function buildEntry([term, text, classes = ""]) {
  const entry = document.createElement("div");
  entry.className = classes.split(" ")[0];
  const parts = [["dt", term, ""], ["dd", text, classes.split(" ")[1] ?? ""]];
  for (const [tag, content, className] of parts) {
    entry.append(Object.assign(document.createElement(tag), { textContent: content, className }));
  }
  return entry;
}

const milliseconds = (time) => `${time < 10 ? time.toFixed(1) : Math.round(time)} ms`;
const describe = (error) => String(error?.message ?? error).split("\n")[0];

function say(text) {
  element("status").textContent = text;
}

function fail(text) {
  say("");
  Object.assign(element("error"), { textContent: text, hidden: false });
}
