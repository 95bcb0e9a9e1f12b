"""LoRA adapters: in a module, in files of several formats, merged, and stacked."""
