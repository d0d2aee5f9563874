"""Measurements that need JAX in their own process.

`python -m experiments.bench.inside NAME JSON` prints a line of JSON for each
figure as soon as it is known.

Imports: record.
"""
