"""Class maps of whole data sets: write them into Parquet tables, and summarize the tables."""
