// Numbers as the page writes them.

import assert from "node:assert/strict";
import test from "node:test";

import { formatFixed, formatPercent, formatSigned } from "../../inspector/output/frontend/numbers.js";

test("numbers have a sign, three significant digits and a true minus", () => {
  assert.equal(formatSigned(1.23456), "+1.23");
  assert.equal(formatSigned(-0.0012345), "\u22120.00123");
  assert.equal(formatSigned(120.4), "+120");
  assert.equal(formatSigned(-1.5e-9), "\u22121.5e\u22129");
});

test("zero has no sign", () => {
  assert.equal(formatSigned(0), "0");
  assert.equal(formatSigned(-0), "0");
  assert.equal(formatFixed(-0.004, 2), "0.00");
  assert.equal(formatFixed(-0.006, 2), "\u22120.01");
});

test("a share is a percentage with one decimal place", () => {
  assert.equal(formatPercent(0.12345), "12.3%");
  assert.equal(formatPercent(1), "100.0%");
});
