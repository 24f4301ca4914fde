"""Draw class maps and write files: overlays, figures, reports, and exports that can be made again later."""
