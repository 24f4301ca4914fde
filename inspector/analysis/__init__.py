"""Analyses of class maps: single cells, channels, layers, masking, other attribution methods, faithfulness."""
