// The history of the browser tab: one entry for each page that was opened.

// Streamlit adds an entry for each change of the link. Let a change replace the entry of its own page, so that one press
// of the Back button leaves the page.
export function keepOneEntryPerPage(window) {
  const { history, location } = window, push = history.pushState;
  if (push.inspector) return;
  history.pushState = (state, title, url) => {
    const isSamePage = new URL(url ?? location.href, location.href).pathname === location.pathname;
    return (isSamePage ? history.replaceState : push).call(history, state, title, url);
  };
  history.pushState.inspector = true;
}
