"""Model families: each turns one kind of model into the uniform velocity field. `fields/registry.py` names them."""
