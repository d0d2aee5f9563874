"""The transformer model, as data, pure functions and one Flax module.

It does not depend on flags, optimisers, devices or files.

The suffix of an array's name lists its axes, one letter each, as in an einsum:

  B batch            T query position   S key position    D model width
  N query heads      K key/value heads  H head width      F hidden width
  V vocabulary       L layers           G query heads that share a K head
  M maps of a head   I pair of a rotation or a sinusoid   1 broadcast axis
  C chunks of queries or of keys; also the width of a latent vector; classes
  R rotated units of a head; also buckets of distances
  I also the width of input vectors; O the width of predicted vectors
  E experts            W hypotheses            U width of values    X any axis

So `x_BTD` is the residual stream and `logits_BNTS` are attention logits.

Imports: architecture, attention, attention.outputs, attention.projections,
  backends, core, layers.
"""
