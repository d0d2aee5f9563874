"""What a block holds beside attention.

Norms, the residual stream, feed-forwards; and what stands for embedding and
unembedding where vectors are read or predicted.

Imports: core.
"""
