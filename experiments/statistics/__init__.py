"""Which rows of a table differ, as pure functions of arrays.

Paired tests, divergence, power, and the reasons of a verdict in words.

Imports: nothing of experiments.
"""
