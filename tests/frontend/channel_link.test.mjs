// The links to channels.

import assert from "node:assert/strict";
import test from "node:test";

import { linkChannel } from "../../inspector/ui/components/frontend/channel_link.js";

test("the link of a channel keeps network and photo, and nothing that only the page Image has", () => {
  const link = linkChannel("?network=a+b&example=Cat&position=1,2&opacity=0.5", 7);
  assert.equal(link, "layers?view=channels&channel=7&network=a+b&example=Cat");
});
