"""Running a configuration from its first step to its report, with Ray or as the reference loop."""
