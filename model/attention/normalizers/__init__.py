"""From the logits of a query to its weights: softmax and what stands for it.

Imports: core.
"""
