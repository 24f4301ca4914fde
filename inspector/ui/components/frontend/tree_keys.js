// Moves through a tree whose nodes are a list, each before the nodes that it contains. The functions do not use the DOM.

/** Index of the node that contains node i; -1 for a node at the top. */
export function findParent(nodes, i) {
  let parent = i - 1;
  while (parent >= 0 && nodes[parent].level >= nodes[i].level) parent--;
  return parent;
}

/** Whether node i contains others. */
export function hasChildren(nodes, i) {
  return i + 1 < nodes.length && nodes[i + 1].level > nodes[i].level;
}

/** Indices of all nodes that contain node i, the nearest first. */
export function listAncestors(nodes, i) {
  const ancestors = [];
  for (let parent = findParent(nodes, i); parent >= 0; parent = findParent(nodes, parent)) ancestors.push(parent);
  return ancestors;
}

/** Indices of the nodes that are visible if the nodes whose labels are in the set `open` show what they contain. */
export function listVisible(nodes, open) {
  const visible = [];
  let closed = Infinity; // level of the closed node that the following nodes lie in
  nodes.forEach(({ label, level }, i) => {
    if (level > closed) return;
    visible.push(i);
    closed = hasChildren(nodes, i) && !open.has(label) ? level : Infinity;
  });
  return visible;
}

/**
 * What a key does at node i, as in trees of file managers: the node to move to, or the node to open or close.
 *
 * Returns { move: index } or { toggle: index }; null for a key that has no effect.
 */
export function moveInTree(key, i, nodes, open) {
  const visible = listVisible(nodes, open), place = visible.indexOf(i);
  const parent = findParent(nodes, i), isGroup = hasChildren(nodes, i), isOpen = open.has(nodes[i].label);
  const to = index => index === undefined || index < 0 ? null : { move: index };
  switch (key) {
    case "ArrowDown": return to(visible[place + 1]);
    case "ArrowUp": return to(visible[place - 1]);
    case "ArrowRight": return !isGroup ? null : isOpen ? to(i + 1) : { toggle: i };
    case "ArrowLeft": return isGroup && isOpen ? { toggle: i } : to(parent);
    case "Home": return to(visible[0]);
    case "End": return to(visible.at(-1));
    default: return null;
  }
}
