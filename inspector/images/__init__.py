"""Read photos safely and make the network's input."""
