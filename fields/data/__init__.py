"""Rows of training data: Parquet buckets, the images in them, and the sizes that they ask for."""
