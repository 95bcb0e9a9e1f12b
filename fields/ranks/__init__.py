"""The ranks of a model: processes that update or compute it together, with the bits of one process, however many they are."""
