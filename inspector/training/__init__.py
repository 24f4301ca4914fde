"""Train heads on backbones and compare the runs."""
