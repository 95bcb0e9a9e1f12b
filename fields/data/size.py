"""The size of an image."""

Size = tuple[int, int]  # width and height of an image in pixels
