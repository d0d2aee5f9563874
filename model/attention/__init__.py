"""Attention as pure functions.

Masks, the factor of the logits, norms of queries and keys, and how these parts
and those of the folders in it compose.

Imports: attention.normalizers, attention.outputs, attention.projections,
  attention.scores, core, layers, position.
"""
