// Keep the files of the page, so that it opens without a network. Before this line, publishing writes VERSION and FILES.

const NAME = `inspector ${VERSION} ${self.registration.scope}`;

self.addEventListener("install", event => {
  // Ask the server whether its files have changed: files of two versions would not fit together.
  const requests = FILES.map(file => new Request(file, { cache: "no-cache" }));
  event.waitUntil(caches.open(NAME).then(cache => cache.addAll(requests)));
});

self.addEventListener("activate", event => {
  const isOld = name => name.startsWith("inspector ") && name.endsWith(` ${self.registration.scope}`) && name !== NAME;
  event.waitUntil(caches.keys().then(names => Promise.all(names.filter(isOld).map(name => caches.delete(name)))));
});

/** Find a kept file, whatever the host's headers say of what its answer varies with. */
async function findKept(request) {
  const found = await caches.match(request, { ignoreSearch: true, ignoreVary: true });
  // Some hosts redirect index.html to the folder; a browser opens no page from an answer that is marked as redirected.
  return found?.redirected ? new Response(found.body, { headers: found.headers }) : found;
}

self.addEventListener("fetch", event => {
  event.respondWith(findKept(event.request).then(found => found ?? fetch(event.request)));
});
