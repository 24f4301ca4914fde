"""What the app keeps between runs of a page: selection, caches, background jobs."""
