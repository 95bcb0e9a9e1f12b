"""What a forward and a backward take of a GPU, measured without one: on networks without values (the meta device)."""
