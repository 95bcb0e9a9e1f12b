"""From a configuration to the parts of a run, and the check that its files fit together."""
