"""How a transformer is trained: flags, data, the step, the loop, checkpoints."""
