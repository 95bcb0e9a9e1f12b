"""Where the rows of data sets come from: one module per source, and the writer that they share."""
