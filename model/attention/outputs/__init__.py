"""What is done to attention beside the weighted sum of values.

Gates, mixtures of heads, differences of two maps.

Imports: core, layers.
"""
