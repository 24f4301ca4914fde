"""Read photos safely and turn them into the network's input."""
