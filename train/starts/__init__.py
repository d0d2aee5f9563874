"""Initial values that are set by hand: each file adds members of a union.

Imports: core.
"""
