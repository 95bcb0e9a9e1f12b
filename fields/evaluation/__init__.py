"""What students and experts are examined by: sheets of rows with fixed noise, metrics, image grids."""
