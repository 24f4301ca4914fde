// The viewers of a page without a server. The data of each stand as JSON behind its element.

import { mountViewer } from "./viewer.js";

document.querySelectorAll(".inspector-viewer").forEach(root => {
  const data = JSON.parse(root.nextElementSibling.textContent);
  root.hidden = false;
  mountViewer(root, data);
});
