"""Concepts of a data set: what the network reads for each class, which of it is a shortcut, and a repaired head."""
