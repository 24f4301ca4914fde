// Explain the pictures of a camera, one after the other.

const NO_CAMERA = "A browser gives its camera only to pages at https or on this machine. Open the page at such an address.";
const REASONS = {
  NotAllowedError: "The camera was not allowed. Allow it for this page, in the address bar of the browser.",
  NotFoundError: "No camera was found. Connect one, or choose a photo.",
  NotReadableError: "The camera is in use by another program. Close that, or choose a photo.",
};
const MEASURED = 8; // maps over which the rate is averaged

async function openCamera() {
  if (!navigator.mediaDevices) throw new Error(NO_CAMERA);
  try {
    return await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 640 }, height: { ideal: 480 } } });
  } catch (error) {
    throw new Error(REASONS[error.name] ?? `The camera did not start: ${error.message}.`);
  }
}

const closeCamera = stream => stream.getTracks().forEach(track => track.stop());

/**
 * Start the camera. Each picture is explained as soon as the one before is shown, so none waits.
 *
 * @param look takes a picture, an ImageBitmap, and resolves when it is shown
 * @param tell takes the maps per second
 * @returns { stop(): stops and waits for the end, ended: resolves after the last picture, or is rejected with a reason }
 */
export function runCamera(video, look, tell) {
  let running = true, halt;
  const halted = new Promise(resolve => { halt = resolve; });
  const run = async () => {
    const opened = openCamera();
    await Promise.race([opened, halted]);
    if (!running) { // the browser may still ask its user, who has chosen something else
      opened.then(closeCamera, () => {});
      return;
    }
    const stream = await opened;
    try {
      video.srcObject = stream;
      await video.play();
      const times = [];
      while (running && stream.active) {
        await look(await createImageBitmap(video));
        times.push(performance.now());
        if (times.length > MEASURED) times.shift();
        if (times.length > 1) tell((times.length - 1) * 1000 / (times.at(-1) - times[0]));
      }
    } finally {
      closeCamera(stream);
      video.srcObject = null;
    }
  };
  const ended = run();
  const stop = async () => {
    running = false;
    halt();
    await ended.catch(() => {});
  };
  return { stop, ended };
}
