"""The logit of a query and a key, before scale, mask and biases.

Imports: core.
"""
