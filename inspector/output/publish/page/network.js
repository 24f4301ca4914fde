// The network of the page: its facts, its graph in ONNX Runtime Web, and the maps of a photo.

import { dimPhoto, findGray } from "./drawing.js";
import { makeView, normalize } from "./preprocessing.js";
import { makeViewerData } from "./viewer_data.js";

/** Fetch a file of the page; `count` is called with numbers of bytes as they come. */
async function fetchBytes(file, count) {
  const response = await fetch(file);
  if (!response.ok) throw new Error(`${file} is missing on this server (status ${response.status}). Copy the whole folder.`);
  const reader = response.body.getReader(), parts = [];
  for (let got = await reader.read(); !got.done; got = await reader.read()) {
    parts.push(got.value);
    count(got.value.length);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

/** Open the network. `ort` is the module of ONNX Runtime Web; `progress` takes which part of it has come. */
export async function openNetwork(ort, progress) {
  const network = JSON.parse(new TextDecoder().decode(await fetchBytes("network.json", () => {}))), { head } = network;
  let received = 0;
  const count = bytes => progress((received += bytes) / network.bytes);
  const graph = await fetchBytes("network.onnx", count);
  head.bias = Float32Array.from(head.bias);
  head.weight = await readWeight(head.weight, graph, count);
  ort.env.wasm.numThreads = 1; // more would need headers that static hosts do not send
  ort.env.wasm.wasmPaths = { wasm: new URL("ort-wasm-simd-threaded.wasm", self.location.href).href };
  const session = await ort.InferenceSession.create(graph, { executionProviders: ["wasm"] });
  return { network, session, Tensor: ort.Tensor };
}

/** Read the weight of the head (K, P) from the file that holds it, which may be the graph. */
async function readWeight(place, graph, count) {
  if (place === null) return null;
  const bytes = place.file === "network.onnx" ? graph : await fetchBytes(place.file, count);
  const [classes, width] = place.shape;
  return new Float32Array(bytes.slice(place.offset, place.offset + 4 * classes * width).buffer);
}

/** Return the weights of the pooled values by class, as the viewer takes them. */
export function listWeights({ weight, bias }) {
  const classes = bias.length, width = weight === null ? classes : weight.length / classes;
  return Object.fromEntries(Array.from({ length: classes }, (_, k) => [
    k, weight === null ? new Float32Array(width).fill(1, k, k + 1) : weight.subarray(k * width, (k + 1) * width),
  ]));
}

/**
 * Run the network on a photo { pixels, size, name }, and return the data of the viewer. `show` takes the drawing of the
 * photo before the network runs, so that the page can prepare it meanwhile.
 */
export async function explainPhoto({ network, session, Tensor }, photo, show) {
  const { preprocessing, side } = network, view = makeView(photo, preprocessing);
  show(dimPhoto(photo, view.crop, side));
  const input = normalize(view.pixels, preprocessing), shape = [1, preprocessing.mean.length, ...preprocessing.size];
  const results = await session.run({ inputs: new Tensor("float32", input, shape) });
  const { logits, maps, feature_maps_0: features } = results;
  const outcome = { logits: logits.data, maps: maps.data, features: features.data, grid: maps.dims.slice(2) };
  const shown = { url: "", name: photo.name, gray: findGray(photo, view.crop) };
  return makeViewerData(network, outcome, shown, view.crop, side);
}
