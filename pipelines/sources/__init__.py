"""Where the rows of data sets come from: one file a source, and the writer that they share."""
