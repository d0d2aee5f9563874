"""From the logits of a next token to sequences.

Sampling and beam search, which know nothing of the model that gives the logits.

Imports: core.
"""
