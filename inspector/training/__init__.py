"""Train networks from recipes, put new heads on backbones, and compare the finished runs."""
