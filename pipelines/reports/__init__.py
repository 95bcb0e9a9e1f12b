"""Tables, charts and self-contained pages about a run."""
