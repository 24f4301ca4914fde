// The viewer of class maps as a component of the app: its state goes to the server, which answers what needs the network.

import { mountViewer } from "../../../output/frontend/viewer.js";
import { linkChannel } from "./channel_link.js";

const OFFERS = ["classes", "cell", "mask", "winners", "finer", "boxes", "pin"];

export default function ({ data: [data], parentElement, setStateValue, setTriggerValue }) {
  const root = parentElement.querySelector(".inspector-viewer");
  const viewer = mountViewer(root, data, {
    offers: OFFERS,
    report: state => setStateValue("state", state),
    openChannel: channel => setTriggerValue("channel", channel),
    linkChannel: channel => linkChannel(location.search, channel),
    // class_strip.js listens, and draws its maps in the same way.
    drawn: state => document.dispatchEvent(new CustomEvent("inspector-view", { detail: state })),
  });
  // Remove the handler of the run before, because it would draw its own, older maps.
  document.removeEventListener("inspector-change", root.listen);
  root.listen = ({ detail }) => viewer.change(detail);
  document.addEventListener("inspector-change", root.listen);
  return () => document.removeEventListener("inspector-change", root.listen);
}
