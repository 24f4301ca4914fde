// Maps over one photo, side by side.

import { makeElement, setChildCount } from "../../../output/frontend/elements.js";
import { drawMap } from "../../../output/frontend/map_drawing.js";

const makeFigure = () => makeElement(
  "figure", {}, makeElement("div", {}, makeElement("img", { alt: "" }), makeElement("canvas", { role: "img" })),
  makeElement("figcaption", {}, makeElement("b"), " ", makeElement("i"), makeElement("span")),
);

export default function ({ data: [data], parentElement }) {
  const figures = parentElement.querySelector(".inspector-drawings");
  figures.style.gridTemplateColumns = `repeat(auto-fit, minmax(${data.min_width}, 1fr))`;
  setChildCount(figures, data.drawings.length, makeFigure);
  const paint = (figure, drawing) => {
    const image = figure.querySelector("img"), canvas = figure.querySelector("canvas");
    if (image.getAttribute("src") !== data.photo) image.src = data.photo;
    canvas.setAttribute("aria-label", drawing.alt);
    drawMap(canvas, data.frame, drawing.cells);
    figure.querySelector("figcaption").hidden = !drawing.name && !drawing.line;
    figure.querySelector("b").textContent = drawing.name;
    figure.querySelector("i").textContent = drawing.note;
    figure.querySelector("span").textContent = drawing.line;
  };
  data.drawings.forEach((drawing, i) => paint(figures.children[i], drawing));
  // Remove the handler of the run before, because it would draw its own, older maps.
  document.removeEventListener("inspector-channel", figures.preview);
  figures.preview = ({ detail }) => {
    if (detail in data.previews) paint(figures.firstChild, data.previews[detail]);
  };
  document.addEventListener("inspector-channel", figures.preview);
  return () => document.removeEventListener("inspector-channel", figures.preview);
}
