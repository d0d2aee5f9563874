"""Measures speed: `python -m experiments.bench`.

The command itself never starts JAX: what it measures runs in child processes,
which it times, so that none of them finds the device taken.  Those that are no
command of `launch.py` are in `inside`.

Imports: messages.
"""
