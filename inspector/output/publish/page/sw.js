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

self.addEventListener("fetch", event => {
  event.respondWith(caches.match(event.request, { ignoreSearch: true }).then(found => found ?? fetch(event.request)));
});
