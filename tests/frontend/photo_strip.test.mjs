// What the bar does in the browser: files, the name of the tab, the history.

import assert from "node:assert/strict";
import test from "node:test";

import { keepOneEntryPerPage } from "../../inspector/ui/components/frontend/page_history.js";
import { findFiles, keepTab } from "../../inspector/ui/components/frontend/photo_files.js";

const file = (name, type) => new File(["x"], name, { type });

test("only images are taken, whatever else is dropped with them", () => {
  const files = [file("a.jpg", "image/jpeg"), file("b.txt", "text/plain"), file("c.JFIF", ""), file("d.tif", "")];
  assert.deepEqual(findFiles({ files }).map(one => one.name), ["a.jpg", "c.JFIF", "d.tif"]);
  assert.deepEqual(findFiles(null), []);
  assert.deepEqual(findFiles({}), []);
});

test("a pasted screenshot gets the time as its name", () => {
  const [pasted] = findFiles({ files: [file("image.png", "image/png")] }, new Date(2026, 0, 2, 3, 4, 5));
  assert.equal(pasted.name, "pasted 03.04.05.png");
  assert.equal(pasted.type, "image/png");
});

test("a tab keeps its first name", () => {
  const kept = new Map();
  const storage = { getItem: key => kept.get(key) ?? null, setItem: (key, value) => kept.set(key, value) };
  assert.equal(keepTab(storage, "one"), "one");
  assert.equal(keepTab(storage, "two"), "one");
  const closed = { getItem() { throw new Error("SecurityError"); } };
  assert.equal(keepTab(closed, "two"), "two");
});

test("the history has one entry per page", () => {
  const calls = [], location = { href: "http://a/layers?x=1", get pathname() { return new URL(this.href).pathname; } };
  const history = {
    pushState: (state, title, url) => calls.push(["push", url]),
    replaceState: (state, title, url) => calls.push(["replace", url]),
  };
  keepOneEntryPerPage({ history, location });
  keepOneEntryPerPage({ history, location });
  history.pushState({}, "", "?x=2");
  history.pushState({}, "", "/compare?x=2");
  history.pushState({}, "");
  assert.deepEqual(calls, [["replace", "?x=2"], ["push", "/compare?x=2"], ["replace", undefined]]);
});
