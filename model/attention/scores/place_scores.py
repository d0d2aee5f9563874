"""Scores that read no keys, but the input or the positions alone."""

import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from model.attention.scores.base import ScoreBase, ScoreInputs, ScoreTraits
from model.core.field import FieldError, field, replace_unchecked
from model.core.limits import REAL
from model.core.linear import linear
from model.core.parameter import (
  Dims,
  Param,
  ParamRole,
  PartParams,
  add_bias,
  param,
)

NEITHER = ScoreInputs(query=False, key=False)


@dataclasses.dataclass(frozen=True)
class SynthesizerDense(ScoreBase, tag='synthesizer_dense'):
  """W_2 relu(W_1 x), a logit for each position (Tay et al. 2021).

  arXiv:2005.00743, section 3.1: the input at the query alone decides where to
  attend.  W_2 has --seq_len outputs.  The hidden layer is as wide as a head;
  biases by --use_bias.  The paper has --scale=none.
  """

  traits: ClassVar[ScoreTraits] = ScoreTraits(NEITHER)

  def params(self, dims: Dims) -> dict[str, Param]:
    """Returns W_1 and W_2 of each head."""
    table = {
      'up': param('D->NH', ParamRole.MATRIX, dims),
      'down': param('H->NT', ParamRole.MATRIX, dims),
    }
    if dims.use_bias:
      table['up_bias'] = param('->NH', ParamRole.BIAS, dims)
      table['down_bias'] = param('->NT', ParamRole.BIAS, dims)
    return table

  def logits(
    self,
    params: PartParams,
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    x_BTD: jax.Array,
    t_T: jax.Array,
    s_S: jax.Array,
  ) -> jax.Array:
    """Returns the logits of positions s."""
    del q_BTNH, k_BSKH, t_T
    hidden_BTNH = linear(x_BTD, params['up'])
    hidden_BTNH = jax.nn.relu(add_bias(hidden_BTNH, params, 'up_bias'))
    down_HNS = params['down'][..., s_S]
    wide = jnp.promote_types(x_BTD.dtype, jnp.float32)
    logits_BNTS = jnp.einsum(
      'BTNH,HNS->BNTS', hidden_BTNH, down_HNS, preferred_element_type=wide
    )
    if 'down_bias' in params:
      logits_BNTS += params['down_bias'][:, None, s_S]
    return logits_BNTS


@dataclasses.dataclass(frozen=True)
class SynthesizerRandom(ScoreBase, tag='synthesizer_random'):
  """A trained logit for each pair of positions (Tay et al. 2021).

  arXiv:2005.00743, section 3.2: the input is not read.  --freeze=score/table
  gives the paper's fixed form.  The paper has --scale=none.
  """

  traits: ClassVar[ScoreTraits] = ScoreTraits(NEITHER)

  def params(self, dims: Dims) -> dict[str, Param]:
    """Returns the logits of each head, --seq_len x --seq_len."""
    places = {'S': dims.seq_len}
    return {'table': param('NT->S', ParamRole.EMBEDDING, dims, places)}

  def logits(
    self,
    params: PartParams,
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    x_BTD: jax.Array,
    t_T: jax.Array,
    s_S: jax.Array,
  ) -> jax.Array:
    """Returns the logits of positions t and s, the same for all examples."""
    del q_BTNH, k_BSKH
    logits_NTS = params['table'][:, t_T[:, None], s_S[None, :]]
    wide = jnp.promote_types(x_BTD.dtype, jnp.float32)
    return jnp.broadcast_to(
      logits_NTS.astype(wide), (x_BTD.shape[0], *logits_NTS.shape)
    )


@dataclasses.dataclass(frozen=True)
class Fixed(ScoreBase, tag='fixed'):
  """A Gaussian around a fixed position: hard-coded heads (You et al. 2020).

  -(s - c)^2 / (2 std^2), arXiv:2005.00742, section 3.  Heads take turns with
  the centre c: t - 1, t + 1 (in an encoder), t, and the first position, which
  is from Raganato et al. 2020 (arXiv:2002.10260).  If the centre is masked, the
  weight goes to its neighbours.  The paper has --scale=none and std 1.
  """

  traits: ClassVar[ScoreTraits] = ScoreTraits(NEITHER, positive=False)

  places: Literal['auto', 'past', 'both'] = field(
    'auto',
    'past: no head looks ahead; both: the second head does; auto: it does if '
    'the mask of its stack shows later keys:',
  )
  std: float = field(
    1.0, 'Standard deviation of the Gaussian.', min=0.01, max=REAL, traced=True
  )

  def for_direction(self, sees_future: bool) -> 'Fixed':
    """Returns the variant to use in a stack that does or does not see ahead."""
    if self.places != 'auto':
      return self
    return replace_unchecked(
      self, {'places': 'both' if sees_future else 'past'}
    )

  def problem(self, dims: Dims) -> FieldError | None:
    """Returns an error if the variant does not fit these sizes, or `None`."""
    if self.places != 'both' or dims.num_heads > 1:
      return None
    return FieldError(
      'score.places',
      self.places,
      'has no effect on one head: try --num_heads=2',
    )

  def logits(
    self,
    params: PartParams,
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    x_BTD: jax.Array,
    t_T: jax.Array,
    s_S: jax.Array,
  ) -> jax.Array:
    """Returns the logits, the same for all examples."""
    del params, k_BSKH
    after = [t_T + 1] if self.places == 'both' else []
    centers = [t_T - 1, *after, t_T, jnp.zeros_like(t_T)]
    batch, _, num_heads, _ = q_BTNH.shape
    center_NT = jnp.stack([centers[n % len(centers)] for n in range(num_heads)])
    away_NTS = (s_S - center_NT[..., None]).astype(
      jnp.promote_types(x_BTD.dtype, jnp.float32)
    )
    logits_NTS = -jnp.square(away_NTS / self.std) / 2.0
    return jnp.broadcast_to(logits_NTS, (batch, *logits_NTS.shape))
