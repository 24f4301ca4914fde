"""The exact class map, and other attribution methods to compare it with."""
