"""What a transformer is.  Knows nothing of flags, optimisers, devices, files.

Arrays carry the letters of their axes, in names and in einsum strings alike:

  B batch            T query position   S key position    D model width
  N query heads      K key/value heads  H head width      F hidden width
  V vocabulary       L layers           G query heads that share a K head
  M maps of a head   I pair of a rotation or a sinusoid   1 broadcast axis
  C chunks, of queries or of keys; or the width of a latent vector
  R rotated units, or buckets of distances

So `x_BTD` is the residual and `logits_BNTS` are attention logits.
"""
