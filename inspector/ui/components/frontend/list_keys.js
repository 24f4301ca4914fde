// Keys that walk a list, or a grid that is filled row by row. No DOM.

/** The index that a key moves to from index i of count items, `across` in a row; null for any other key. */
export function moveInList(key, i, count, across) {
  const targets = {
    ArrowLeft: i - 1, ArrowRight: i + 1, ArrowUp: i - across, ArrowDown: i + across, Home: 0, End: count - 1,
  };
  return Object.hasOwn(targets, key) ? Math.min(Math.max(targets[key], 0), count - 1) : null;
}
