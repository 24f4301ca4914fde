// The viewer as a widget of anywidget. It answers in the browser; a kernel, if there is one, gets what is shown.

import { followColorScheme } from "./color_scheme.js";
import { mountViewer } from "./viewer.js";

function render({ model, el }) {
  const root = document.createElement("div");
  root.className = "inspector-viewer";
  // Jupyter takes arrow keys and Enter as its own, unless the element that has the focus says this.
  root.addEventListener("focusin", ({ target }) => { target.dataset.lmSuppressShortcuts = "true"; });
  el.append(root);
  const report = state => {
    model.set("state", state);
    model.save_changes();
  };
  const draw = () => mountViewer(root, model.get("data"), { report });
  draw();
  model.on("change:data", draw);
  const unfollow = followColorScheme(el, root);
  return () => {
    model.off("change:data", draw);
    unfollow();
  };
}

export default { render };
