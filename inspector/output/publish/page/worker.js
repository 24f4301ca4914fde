// Decode photos and run the network beside the page, which stays responsive.
//
//     { open: true }              ->  { progress: 0-1 } ..., then { network, weights }
//     { id, file | frame, name }  ->  { id, picture }, then { id, data }; or { id, error: one sentence }

import * as ort from "./ort.wasm.bundle.min.js";
import { readBitmap, readPhoto } from "./decode.js";
import { makePicture } from "./drawing.js";
import { explainPhoto, listWeights, openNetwork } from "./network.js";

let opened = null;

async function open() {
  opened = await openNetwork(ort, progress => postMessage({ progress }));
  const { network } = opened, { weight, bias, ...head } = network.head;
  postMessage({ network: { ...network, head: { ...head, bias } }, weights: listWeights(network.head) });
}

async function explain({ id, file, frame, name }) {
  const photo = frame ? readBitmap(frame, name) : await readPhoto(file, name);
  const data = await explainPhoto(opened, photo, drawing => postMessage({ id, picture: makePicture(drawing) }));
  postMessage({ id, data });
}

self.onmessage = async ({ data }) => {
  try {
    await (data.open ? open() : explain(data));
  } catch (error) {
    postMessage({ id: data.id, error: error?.message ?? String(error) });
  }
};
