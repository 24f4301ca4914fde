// Keys that move through a list, or through a grid that is filled row by row. The function does not use the DOM.

/** The index after a key is pressed at index i; null for a key that does not move. `across` items are in a row. */
export function moveInList(key, i, count, across) {
  const targets = {
    ArrowLeft: i - 1, ArrowRight: i + 1, ArrowUp: i - across, ArrowDown: i + across, Home: 0, End: count - 1,
  };
  return Object.hasOwn(targets, key) ? Math.min(Math.max(targets[key], 0), count - 1) : null;
}

/** Whether a key is pressed together with another, as for a command of the browser. */
export const hasModifier = event => event.ctrlKey || event.metaKey || event.altKey;
