"""Class maps of whole data sets: Parquet tables, and summaries of them."""
