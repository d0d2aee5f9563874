"""Score: the logit of a query and a key, before scale, cap and biases."""

import dataclasses
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp

from model.field import FieldError, field, unchecked
from model.limits import REAL
from model.parameter import Dims, Kind, Param, Params, Part, add_bias, param


class Reads(NamedTuple):
  """What a score is a function of; projections make nothing else."""

  query: bool = True
  key: bool = True


@dataclasses.dataclass(frozen=True)
class Dot(Part, tag='dot'):
  """q . k (Luong et al. 2015; Vaswani et al. 2017, section 3.2.1).

  Attributes:
    reads: what the score is a function of.
    positive: a logit may be above 0.
  """

  reads: ClassVar[Reads] = Reads()
  positive: ClassVar[bool] = True

  def directed(self, sees_future: bool) -> 'Dot':
    """Returns the variant in a stack whose queries see later keys, or not."""
    del sees_future
    return self

  def problem(self, dims: Dims) -> FieldError | None:
    """Returns why the variant does not fit these sizes, if it does not."""
    del dims
    return None

  def logits(
    self,
    params: Params,
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    x_BTD: jax.Array,
    t_T: jax.Array,
    s_S: jax.Array,
  ) -> jax.Array:
    """Returns logits_BNTS of some queries and some keys, at least float32.

    It is called with chunks of both, so that nothing may depend on how many
    there are.  What is not in `reads` comes with H = 0.

    Args:
      params: as `params(dims)` lists them; H is there the width of a query.
      q_BTNH: queries, rotated.
      k_BSKH: keys, rotated; N / K query heads in a row share one.
      x_BTD: what the queries were made of.
      t_T: positions of the queries.
      s_S: positions of the keys.
    """
    del params, x_BTD, t_T, s_S
    wide = jnp.promote_types(q_BTNH.dtype, jnp.float32)
    if q_BTNH.shape[2] == k_BSKH.shape[2]:
      # Not as groups of one: XLA would sum those in another order.
      k_BSNH = k_BSKH
      return jnp.einsum(
        'BTNH,BSNH->BNTS', q_BTNH, k_BSNH, preferred_element_type=wide
      )
    logits_BKGTS = jnp.einsum(
      'BTKGH,BSKH->BKGTS',
      grouped(q_BTNH, k_BSKH.shape[2]),
      k_BSKH,
      preferred_element_type=wide,
    )
    return ungrouped(logits_BKGTS)


@dataclasses.dataclass(frozen=True)
class Additive(Dot, tag='additive'):
  """v . tanh(q + k), v of a head trained (Bahdanau et al. 2015, A.1.2).

  W_Q and W_K are the paper's W_a and U_a.  The paper has --scale=none.
  """

  def params(self, dims: Dims) -> dict[str, Param]:
    """Returns v."""
    return {'vector': param('H->N', Kind.MATRIX, dims)}

  def logits(
    self,
    params: Params,
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    x_BTD: jax.Array,
    t_T: jax.Array,
    s_S: jax.Array,
  ) -> jax.Array:
    """Returns v . tanh(q + k)."""
    del x_BTD, t_T, s_S
    q_BTKGH = grouped(q_BTNH, k_BSKH.shape[2])
    q_BT1KGH, k_B1SK1H = q_BTKGH[:, :, None], k_BSKH[:, None, :, :, None]
    hidden_BTSKGH = jnp.tanh(q_BT1KGH + k_B1SK1H)
    vector_HKG = params['vector'].reshape(
      *params['vector'].shape[:1], *q_BTKGH.shape[2:4]
    )
    wide = jnp.promote_types(q_BTNH.dtype, jnp.float32)
    logits_BKGTS = jnp.einsum(
      'BTSKGH,HKG->BKGTS',
      hidden_BTSKGH,
      vector_HKG,
      preferred_element_type=wide,
    )
    return ungrouped(logits_BKGTS)


@dataclasses.dataclass(frozen=True)
class L2(Dot, tag='l2'):
  """-|q - k|^2: near keys count (Kim et al. 2021, arXiv:2006.04710).

  Equation 10, with --scale=rsqrt.  Departures: W_Q = W_K, on which the paper's
  Lipschitz bound rests, is --projections=shared_qk; values are not multiplied
  by W_Q W_Q^T besides.
  """

  positive: ClassVar[bool] = False

  def logits(
    self,
    params: Params,
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    x_BTD: jax.Array,
    t_T: jax.Array,
    s_S: jax.Array,
  ) -> jax.Array:
    """Returns 2 q . k - |q|^2 - |k|^2."""
    dot_BNTS = super().logits(params, q_BTNH, k_BSKH, x_BTD, t_T, s_S)
    q_BNT = jnp.moveaxis(_square(q_BTNH, dot_BNTS.dtype), 1, -1)
    k_BKS = jnp.moveaxis(_square(k_BSKH, dot_BNTS.dtype), 1, -1)
    k_BNS = jnp.repeat(k_BKS, q_BNT.shape[1] // k_BKS.shape[1], axis=1)
    return 2.0 * dot_BNTS - q_BNT[..., None] - k_BNS[:, :, None]


@dataclasses.dataclass(frozen=True)
class SynthesizerDense(Dot, tag='synthesizer_dense'):
  """W_2 relu(W_1 x), a logit for each place (Tay et al. 2021).

  arXiv:2005.00743, section 3.1: the input alone says where to look, and no key
  is read.  W_2 gives --seq_len logits.  The hidden layer is as wide as a head;
  biases by --use_bias.  The paper has --scale=none.
  """

  reads: ClassVar[Reads] = Reads(query=False, key=False)

  def params(self, dims: Dims) -> dict[str, Param]:
    """Returns W_1 and W_2 of each head."""
    table = {
      'up': param('D->NH', Kind.MATRIX, dims),
      'down': param('H->NT', Kind.MATRIX, dims),
    }
    if dims.use_bias:
      table['up_bias'] = param('->NH', Kind.BIAS, dims)
      table['down_bias'] = param('->NT', Kind.BIAS, dims)
    return table

  def logits(
    self,
    params: Params,
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    x_BTD: jax.Array,
    t_T: jax.Array,
    s_S: jax.Array,
  ) -> jax.Array:
    """Returns the logits of places s."""
    del q_BTNH, k_BSKH, t_T
    hidden_BTNH = jnp.einsum('BTD,DNH->BTNH', x_BTD, params['up'])
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
class SynthesizerRandom(Dot, tag='synthesizer_random'):
  """A trained logit for each pair of places (Tay et al. 2021).

  arXiv:2005.00743, section 3.2: nothing of the input is read.  With
  --freeze=score/table the paper's fixed form.  The paper has --scale=none.
  """

  reads: ClassVar[Reads] = Reads(query=False, key=False)

  def params(self, dims: Dims) -> dict[str, Param]:
    """Returns the logits of each head, --seq_len squared."""
    places = {'S': dims.seq_len}
    return {'table': param('NT->S', Kind.EMBEDDING, dims, places)}

  def logits(
    self,
    params: Params,
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    x_BTD: jax.Array,
    t_T: jax.Array,
    s_S: jax.Array,
  ) -> jax.Array:
    """Returns the logits of places t and s, the same for all examples."""
    del q_BTNH, k_BSKH
    logits_NTS = params['table'][:, t_T[:, None], s_S[None, :]]
    wide = jnp.promote_types(x_BTD.dtype, jnp.float32)
    return jnp.broadcast_to(
      logits_NTS.astype(wide), (x_BTD.shape[0], *logits_NTS.shape)
    )


@dataclasses.dataclass(frozen=True)
class Fixed(Dot, tag='fixed'):
  """A bell around a fixed place: hard-coded heads (You et al. 2020).

  -(s - c)^2 / (2 std^2), arXiv:2005.00742, section 3.  Heads take the places c
  in turn: t - 1, t + 1 (in an encoder), t and, of Raganato et al. 2020
  (arXiv:2002.10260), the first.  A place that is hidden leaves its neighbours.
  The paper has --scale=none and std 1.
  """

  reads: ClassVar[Reads] = Reads(query=False, key=False)
  positive: ClassVar[bool] = False

  places: Literal['auto', 'past', 'both'] = field(
    'auto',
    'No head looks ahead, or the second does; auto: where the mask of its '
    'stack shows later keys:',
  )
  std: float = field(1.0, 'Width of the bell.', min=0.01, max=REAL, traced=True)

  def directed(self, sees_future: bool) -> 'Fixed':
    """Returns the variant in a stack whose queries see later keys, or not."""
    if self.places != 'auto':
      return self
    return unchecked(self, {'places': 'both' if sees_future else 'past'})

  def problem(self, dims: Dims) -> FieldError | None:
    """Returns why the variant does not fit these sizes, if it does not."""
    if self.places != 'both' or dims.num_heads > 1:
      return None
    return FieldError(
      'score.places',
      self.places,
      'has no effect on one head: try --num_heads=2',
    )

  def logits(
    self,
    params: Params,
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


Score = Dot | Additive | L2 | SynthesizerDense | SynthesizerRandom | Fixed


def _square(x_BTNH: jax.Array, dtype: jnp.dtype) -> jax.Array:
  """Returns |x|^2 of each head."""
  return jnp.square(x_BTNH.astype(dtype)).sum(-1)


def grouped(x_BTNH: jax.Array, num_kv_heads: int) -> jax.Array:
  """Returns x_BTKGH: query head n stands in group n // G, at n % G."""
  *front, num_heads, width = x_BTNH.shape
  return x_BTNH.reshape(*front, num_kv_heads, num_heads // num_kv_heads, width)


def ungrouped(logits_BKGTS: jax.Array) -> jax.Array:
  """Returns logits_BNTS."""
  return logits_BKGTS.reshape(len(logits_BKGTS), -1, *logits_BKGTS.shape[3:])
