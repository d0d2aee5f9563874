"""What is said to the user: terminal, streams, formats of numbers, refusals.

Imports: nothing of experiments.
"""
