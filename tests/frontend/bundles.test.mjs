// Each component is one string of JavaScript for Streamlit; tests/ui/test_frontend.py writes them as files into the
// folder that $INSPECTOR_BUNDLES names.

import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import test from "node:test";
import { pathToFileURL } from "node:url";

const folder = process.env.INSPECTOR_BUNDLES;
const skip = folder ? false : "run by tests/ui/test_frontend.py, which makes the bundles";

test("every bundle is a module without imports, whose default is a function", { skip }, async () => {
  const bundles = readdirSync(folder);
  assert.ok(bundles.length > 0);
  for (const bundle of bundles) {
    const module = await import(pathToFileURL(join(folder, bundle)));
    assert.deepEqual(Object.keys(module), ["default"], bundle);
    assert.equal(typeof module.default, "function", bundle);
  }
});
