"""Pictures and files: overlays, figures, reports, exports that can be rebuilt."""
