"""Optimisers, schedules, objectives and averages.

How gradients change parameters. Each file adds members of a union.

Imports: core, flags.
"""
