"""Parts of pages: the photo with its map, lists, grids, charts."""
