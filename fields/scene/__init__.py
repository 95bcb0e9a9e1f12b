"""The scene world: small images of coloured shapes with an exact checker, a transformer, and its experts."""
