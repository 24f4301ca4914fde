// The address of a channel on the page Layers.

// Parameters of the address that the page Layers has, too.
const KEPT = ["network", "example", "upload", "size", "class", "reading", "against", "grid"];

/** Return the address of a channel on the page Layers, with the network and the photo of this page's address. */
export function linkChannel(search, channel) {
  const link = new URLSearchParams({ view: "channels", channel });
  for (const [name, value] of new URLSearchParams(search)) {
    if (KEPT.includes(name)) link.append(name, value);
  }
  return `layers?${link}`;
}
