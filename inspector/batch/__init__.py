"""A data set at once: the class maps of every image in Parquet (`pipeline`), and what they say (`survey`)."""
