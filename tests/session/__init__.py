"""What a run of pytest has: its environment, its costs, and its parts."""
