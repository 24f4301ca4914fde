// Light or dark, as the page is on which something is shown: notebooks have themes of their own.

/** "dark" if the text at an element is light, as on a dark page; else "light". */
function findColorScheme(element) {
  const context = new OffscreenCanvas(1, 1).getContext("2d");
  context.fillStyle = getComputedStyle(element).color; // in whatever notation
  context.fillRect(0, 0, 1, 1);
  const [red, green, blue] = context.getImageData(0, 0, 1, 1).data;
  return 0.299 * red + 0.587 * green + 0.114 * blue > 128 ? "dark" : "light";
}

/** Give `target` the color scheme of the page around `element`, also when its theme changes. Returns what ends this. */
export function followColorScheme(element, target) {
  const update = () => { target.style.colorScheme = findColorScheme(element); };
  let timer = 0;
  // A theme's style sheet may arrive after the attribute that names the theme.
  const observer = new MutationObserver(() => {
    clearTimeout(timer);
    timer = setTimeout(update, 300);
  });
  const { documentElement, body } = element.ownerDocument;
  [documentElement, body].forEach(one => observer.observe(one, { attributes: true }));
  // A notebook fills an element before it puts it on the page, where it gets its color and its size.
  const sizes = new ResizeObserver(update);
  sizes.observe(element);
  return () => {
    observer.disconnect();
    sizes.disconnect();
  };
}
