"""What a run will hold in memory: its own code, run on tensors that have sizes and no contents."""
