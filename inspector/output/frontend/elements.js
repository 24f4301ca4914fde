// Functions that make elements of the page.

/** Make an element with attributes and children. */
export function makeElement(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  Object.entries(attributes).forEach(([name, value]) => element.setAttribute(name, value));
  element.append(...children);
  return element;
}

/** Add or remove children at the end until a parent has `count`. The others stay, so they keep the focus. */
export function setChildCount(parent, count, makeChild) {
  while (parent.children.length > count) parent.lastChild.remove();
  while (parent.children.length < count) parent.append(makeChild());
}

/** The element that has the focus, also where an element lies in the shadow tree of another. */
export const findFocused = element => element.getRootNode().activeElement;
