"""What a user writes: the sections of a run configuration, reading them from YAML, and their errors."""
