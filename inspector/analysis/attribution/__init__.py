"""Attribution methods to compare the exact class map with."""
