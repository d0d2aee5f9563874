"""How attention is computed, and what each way of computing it can do.

The reference, in chunks, as a recurrence, or by fused kernels of other
libraries.

Imports: attention, attention.normalizers, attention.scores, core.
"""
