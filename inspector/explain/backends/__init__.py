"""Run a network through another inference runtime, and export it with its class maps."""
