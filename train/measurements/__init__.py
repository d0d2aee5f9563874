"""What is measured of a model: each file adds members of a union.

Imports: core, tasks.
"""
