"""The learner's ranks: processes that make one update together, with the bits of one process, however many they are."""
