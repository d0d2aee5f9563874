"""One file an experiment; each defines `EXPERIMENT`."""
