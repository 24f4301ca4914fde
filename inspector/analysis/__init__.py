"""Questions to class maps: cells, channels, layers, masking, other methods, faithfulness."""
