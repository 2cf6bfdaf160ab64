"""How fast a family is on this machine: what `eft-gguf bench` measures, and how it is shown."""
