// What the page draws of the outputs of a network, against the viewer's data that Python makes.

import assert from "node:assert/strict";
import test from "node:test";

import { checkSums } from "../../../inspector/output/publish/page/evidence.js";
import { findGray } from "../../../inspector/output/publish/page/drawing.js";
import { splitLogit } from "../../../inspector/output/publish/page/ledger.js";
import { fitSize } from "../../../inspector/output/publish/page/placement.js";
import { makeViewerData } from "../../../inspector/output/publish/page/viewer_data.js";
import { makeOpaque, readBytes, readExpected, readFloats } from "./expected.mjs";

const { viewers = [], sizes = [] } = readExpected();

const readOutcome = ({ logits, maps, features, grid }) => ({
  logits: readFloats(logits), maps: readFloats(maps), features: readFloats(features), grid,
});

const readHead = ({ network, weight }) => ({
  ...network.head, bias: Float32Array.from(network.head.bias), weight: weight && readFloats(weight),
});

function assertClose(found, expected, tolerance, what) {
  assert.equal(found.length, expected.length, what);
  found.forEach((value, i) => assert.ok(Math.abs(value - expected[i]) <= tolerance, `${what} ${i}: ${value} ${expected[i]}`));
}

for (const one of viewers) {
  const head = readHead(one), outcome = readOutcome(one.outcome), network = { ...one.network, head };
  const photo = { pixels: makeOpaque(readBytes(one.pixels)), size: one.crop.photo_size };

  test(`the viewer of ${one.title} gets the numbers of Python`, () => {
    const { data } = one, shown = { url: data.photo, name: data.photo_name, gray: findGray(photo, one.crop) };
    const { classes, shares, ...found } = { ...network.viewer, ...makeViewerData(network, outcome, shown, one.crop, one.side) };
    for (const [name, value] of Object.entries(found)) {
      if (["rows", "columns"].includes(name)) {
        value.forEach((extent, i) => assertClose(extent, data[name][i], 0.0051, name)); // Python sends two decimals
      } else if (["down", "across", "crop"].includes(name)) {
        assertClose(value, data[name], 1e-9, name);
      } else if (name === "residual") {
        assert.ok(Math.abs(value - data.residual) <= 1e-5);
      } else {
        assert.deepEqual(value, data[name], name);
      }
    }
    assert.deepEqual(Object.keys({ ...found, classes }).sort(), Object.keys(data).sort());
    assert.deepEqual(Object.keys(classes).sort(), Object.keys(data.classes).sort());
    for (const [k, { contributions, scores, ...numbers }] of Object.entries(data.classes)) {
      assertClose(classes[k].contributions, readFloats(contributions), 1e-6, "contributions");
      assert.equal(classes[k].scores === null, scores === null);
      if (scores) assertClose(classes[k].scores, readFloats(scores), 1e-5, "scores");
      for (const [name, value] of Object.entries(numbers)) {
        if (value === null) assert.equal(classes[k][name], null, name);
        else assert.ok(Math.abs(classes[k][name] - value) <= 1e-6, `${name} of ${k}`);
      }
    }
  });

  test(`the channels of ${one.title} and the bias sum to the logit`, () => {
    const { shares } = makeViewerData(network, outcome, {}, one.crop, one.side), area = outcome.grid[0] * outcome.grid[1];
    one.parts.forEach((parts, k) => {
      const width = head.weight === null ? head.bias.length : head.weight.length / head.bias.length;
      const weight = head.weight === null
        ? new Float32Array(width).fill(1, k, k + 1) : head.weight.subarray(k * width, (k + 1) * width);
      const found = splitLogit(shares, weight, area);
      found.forEach(([c, value]) => assert.ok(Math.abs(value - parts[c]) <= 1e-5));
      const sum = found.reduce((total, [, value]) => total + value, head.bias[k]);
      assert.ok(Math.abs(sum - outcome.logits[k]) <= 1e-4);
    });
  });

  test(`a sum of ${one.title} that is wrong by a thousandth is not exact`, () => {
    assert.equal(checkSums(outcome, head).verdict, one.network.head.verdict);
    for (const name of ["logits", "maps"]) {
      const changed = outcome[name].slice();
      changed[0] += 1e-3 * (1 + outcome.maps.reduce((sum, value) => sum + Math.abs(value), 0));
      assert.equal(checkSums({ ...outcome, [name]: changed }, head).verdict, "not exact", name);
    }
    const broken = outcome.maps.map((value, i) => (i ? value : NaN));
    assert.equal(checkSums({ ...outcome, maps: broken }, head).verdict, "not exact");
    assert.ok(Number.isNaN(checkSums({ ...outcome, maps: broken }, head).residual));
  });
}

test("the drawing of a photo has the size of Python", () => {
  assert.ok(viewers.length > 0 && sizes.length > 0);
  for (const { photo, side, size } of sizes) assert.deepEqual(fitSize(photo, side), size);
});
