// The published page: it takes photos, asks the worker for their class maps, and shows them in the viewer.

import { mountViewer } from "../../frontend/viewer.js";
import { makeElement } from "../../frontend/elements.js";
import { runCamera } from "./camera.js";
import { showLedger } from "./ledger.js";

const find = selector => document.querySelector(selector);
const viewer = find(".inspector-viewer"), status = find(".status"), problem = find(".error"), bar = find("progress");
const worker = new Worker("worker.js", { type: "module" });
const waiting = new Map(); // number of a question -> { resolve, reject, picture }
let network = null, weights = null, asked = 0, shown = null, chosen = null, camera = null;
let choices = 0; // of photos and of the camera: an answer to an earlier one comes too late
let early = null; // a file that was given before the network was open

const say = text => { status.textContent = text; };

function refuse(text) {
  problem.textContent = text;
  problem.hidden = !text;
}

/** Ask the worker to explain a photo. */
function ask(question, transfer = []) {
  const id = ++asked;
  worker.postMessage({ id, ...question }, transfer);
  return new Promise((resolve, reject) => waiting.set(id, { resolve, reject }));
}

worker.onmessage = ({ data }) => {
  if (data.progress) {
    bar.value = data.progress;
  } else if (data.picture) {
    waiting.get(data.id).picture = preparePicture(data.picture);
  } else if (data.id) {
    const { resolve, reject, picture } = waiting.get(data.id);
    waiting.delete(data.id);
    if (data.error) reject(data.error);
    else picture.then(image => resolve({ data: data.data, image }), reject);
  } else if (data.error) {
    bar.hidden = true;
    say("The network did not open.");
    refuse(data.error);
  } else {
    [network, weights] = [data.network, data.weights];
    start();
  }
};
worker.onerror = event => {
  say("The network did not open.");
  refuse(event.message || "The page's own files could not be loaded. Serve the whole folder by a web server.");
};

/** Decode the picture of a photo, so that the viewer has it at once, without a blank one in between. */
async function preparePicture(file) {
  const image = new Image();
  image.src = URL.createObjectURL(file);
  await image.decode();
  return image;
}

/** What of the choices for one photo holds for the next: colors and so on; if they are pinned, class and contrast, too. */
function keepChoices() {
  if (!chosen) return {};
  const { k, against, cell, masked, ...kept } = chosen;
  return kept.pinned ? { ...kept, k, against } : kept;
}

/** Show what the worker answered. `findState` returns what is shown at first. */
function show({ data: { shares, ...data }, image }, findState = keepChoices) {
  const before = shown;
  shown = {
    ...network.viewer, ...data, photo: image.src, subject: image.src, state: findState(), names_id: network.sha256,
    channels: { shares, weights }, masked_at_head: network.masked_at_head,
    image, // kept, so that the browser keeps the decoded picture
  };
  viewer.hidden = false;
  mountViewer(viewer, shown, { offers: ["pin"], drawn });
  if (before) URL.revokeObjectURL(before.photo);
}

function drawn(state) {
  chosen = state;
  showLedger(find(".ledger"), shown, state.k);
}

/** Explain a photo, and show it, unless another one is chosen meanwhile. `read` returns its file. */
async function explain(name, read) {
  const number = ++choices, isLate = () => number !== choices;
  await camera?.stop();
  if (isLate()) return;
  refuse("");
  say(`Reading ${name} \u2026`);
  try {
    const file = await read();
    if (isLate()) return;
    const start = performance.now(), answer = await ask({ file, name });
    if (isLate()) {
      URL.revokeObjectURL(answer.image.src);
      return;
    }
    show(answer);
    const { size: [height, width] } = network.preprocessing;
    const [photoHeight, photoWidth] = answer.data.photo_size;
    say(`${name}: ${photoWidth} \u00d7 ${photoHeight} pixels, seen by the network as ${width} \u00d7 ${height}. `
      + `Computed on this device in ${Math.round(performance.now() - start)} ms.`);
  } catch (error) {
    if (isLate()) return;
    say("");
    refuse(String(error?.message ?? error));
  }
}

async function fetchExample(file) {
  const response = await fetch(file);
  if (!response.ok) throw new Error(`${file} is missing on this server (status ${response.status}).`);
  return response.blob();
}

const explainExample = ({ caption, file }) => explain(caption, () => fetchExample(file));

function listExamples(photos) {
  find(".examples").replaceChildren(...photos.map(photo => {
    const image = makeElement("img", { src: photo.file, alt: "", loading: "lazy" });
    const button = makeElement("button", { type: "button" }, image, photo.caption);
    button.onclick = () => explainExample(photo);
    return button;
  }));
}

function describe() {
  const facts = {
    name: network.name,
    "SHA-256 of its weights": network.sha256,
    classes: String(network.viewer.names.length),
    "photos are fed": network.fed,
    head: `${network.head.pooling} pooling; class maps ${network.head.verdict}`,
    "place of the cells": network.place,
    privacy: "Photos are decoded, resized and explained on this device. None is sent or stored.",
    "made with": `Inspector ${network.inspector}, ONNX Runtime Web ${network.runtime}`,
  };
  find(".about dl").replaceChildren(...Object.entries(facts).flatMap(([name, text]) => {
    const [term, value] = [makeElement("dt"), makeElement("dd")];
    term.textContent = name;
    value.textContent = text;
    return [term, value];
  }));
  find(".about").hidden = false;
}

/** Start and stop the camera. Its maps are of the top class of each picture, until the user chooses another one. */
function connectCamera(button) {
  const label = running => {
    button.textContent = running ? "Stop the camera" : "Start the camera";
    button.classList.toggle("running", running);
    find(".rate").textContent = "";
  };
  const run = async () => {
    choices += 1;
    refuse("");
    let state = null, follows = !chosen?.pinned;
    const look = async frame => {
      const answer = await ask({ frame, name: "camera" }, [frame]);
      if (!state) say("The camera is running.");
      show(answer, () => {
        follows &&= !state || chosen.k === state.k;
        state = { ...(state ? chosen : keepChoices()), ...(follows ? { k: answer.data.top[0] } : {}) };
        if (state.against === state.k) state.against = null;
        return state;
      });
    };
    camera = runCamera(find("video"), look, rate => { find(".rate").textContent = `${rate.toFixed(1)} maps per second`; });
    label(true);
    say("Waiting for the camera \u2026");
    try {
      await camera.ended;
      say("The camera is stopped. Its last picture stays here until you choose another photo.");
    } catch (error) {
      say("");
      refuse(String(error?.message ?? error));
    }
    camera = null;
    label(false);
  };
  button.onclick = () => (camera ? camera.stop() : run());
}

function takeFiles(files) {
  const file = [...(files ?? [])][0];
  if (file && network) explain(file.name, () => file);
  else if (file) early = file;
  return Boolean(file);
}

/** Take photos that are pasted or dropped: also while the network loads, or the browser would open them in its place. */
function connectPasteAndDrop() {
  document.addEventListener("paste", event => {
    if (takeFiles(event.clipboardData.files)) event.preventDefault();
  });
  document.addEventListener("dragover", event => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  document.addEventListener("dragleave", event => {
    if (!event.relatedTarget) document.body.classList.remove("dropping");
  });
  document.addEventListener("drop", event => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    if (takeFiles(event.dataTransfer.files)) return;
    refuse("Drop a file with a photo. A picture of another page is only its address.");
  });
}

/** Begin to take photos: the network is open. */
function start() {
  bar.hidden = true;
  find("#file").disabled = find(".camera").disabled = false;
  find("#file").onchange = event => {
    takeFiles(event.target.files);
    event.target.value = ""; // the same file can be chosen again
  };
  connectCamera(find(".camera"));
  document.title = find("h1").textContent = `Class maps of ${network.name}`;
  find(".lead").textContent = `How much each part of a photo adds to the ${network.viewer.quantity} of each class. `
    + "All of it is computed on this device, and nothing is sent.";
  describe();
  listExamples(network.photos);
  say("The network is ready.");
  if (early) takeFiles([early]);
  else if (network.photos.length) explainExample(network.photos[0]);
  navigator.serviceWorker?.register("sw.js").catch(() => {}); // only the next visit without a network needs it
}

connectPasteAndDrop();
bar.hidden = false;
bar.value = 0;
say("Loading the network \u2026");
worker.postMessage({ open: true });
