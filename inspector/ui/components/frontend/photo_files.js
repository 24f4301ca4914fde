// Files that the visitor drops or pastes, and the name of the browser tab.

const TAB = "inspector-tab";

// The image files of a drop or paste; a pasted screenshot has a name without a time, so it gets one.
export function findFiles(transfer, now = new Date()) {
  const files = [...(transfer?.files ?? [])].filter(file => file.type.startsWith("image/") || /\.(tiff?|jfif)$/i.test(file.name));
  return files.map(file => (file.name === "image.png" ? renameFile(file, now) : file));
}

function renameFile(file, now) {
  const time = now.toTimeString().slice(0, 8).replaceAll(":", ".");
  return new File([file], `pasted ${time}.png`, { type: file.type });
}

// Return the name under which the server keeps what this tab uploaded. The first name that a tab gets is kept.
export function keepTab(storage, offered) {
  try {
    const kept = storage.getItem(TAB);
    if (kept === null) storage.setItem(TAB, offered);
    return kept ?? offered;
  } catch {
    return offered; // the browser keeps nothing for this page
  }
}
