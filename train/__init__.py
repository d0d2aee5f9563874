"""How a transformer is trained: flags, data, step, loop, checkpoints."""
