// The viewers of a page without a server. The data of each stand as JSON behind its element.

import { followColorScheme } from "./color_scheme.js";
import { mountViewer } from "./viewer.js";

const frame = window.frameElement; // of a notebook, which shows the page in it; it has no height of its own
document.querySelectorAll(".inspector-viewer").forEach(root => {
  const data = JSON.parse(root.nextElementSibling.textContent);
  root.classList.toggle("framed", frame !== null);
  root.hidden = false;
  mountViewer(root, data);
});

if (frame) {
  const fit = () => { frame.style.height = `${Math.ceil(document.body.getBoundingClientRect().height)}px`; };
  new ResizeObserver(fit).observe(document.body);
  followColorScheme(frame, document.documentElement);
}
