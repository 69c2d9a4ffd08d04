// Runs a graph in onnxruntime for Node or for browsers. A job comes in on standard input; the
// outputs' bytes go to files, their types and sizes to standard output.

import fs from "node:fs";
import { pathToFileURL } from "node:url";

const job = JSON.parse(fs.readFileSync(0, "utf8"));
const loaded = await import(pathToFileURL(job.module));
const ort = loaded.InferenceSession ? loaded : loaded.default;
const arrays = { float32: Float32Array, uint8: Uint8Array };
if (job.wasm) {
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = fs.readFileSync(job.wasm);
}
const options = { executionProviders: [job.wasm ? "wasm" : "cpu"] };
const session = await ort.InferenceSession.create(fs.readFileSync(job.graph), options);
const bytes = fs.readFileSync(job.input.file);
const values = new arrays[job.input.type](new Uint8Array(bytes).buffer);
const images = new ort.Tensor(job.input.type, values, job.input.dims);
const outputs = await session.run({ images });
const told = {};
for (const [name, { type, dims, data }] of Object.entries(outputs)) {
  fs.writeFileSync(`${job.folder}/${name}`, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  told[name] = { type, dims };
}
console.log(JSON.stringify(told));
