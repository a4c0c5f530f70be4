"""How much memory a run will need: its own code is run on the meta device, whose tensors have no data."""
