"""Optimisers, schedules, objectives and averages.

How gradients change parameters. Each file adds members of a union.

Optax takes half a second to import, and the flags are found by importing this
folder: its files import Optax in the functions that build an update.

Imports: core, flags.
"""
