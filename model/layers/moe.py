"""Mixture of experts: a router picks a few of many feed-forwards per token.

  p = softmax(x W_r),  y = sum over the k chosen e of gate_e f(x W_1e) W_2e

(Shazeer et al. 2017, arXiv:1701.06538, section 2.)  Only the chosen experts are
computed: choices, which are pairs of a token and an expert, are sorted by
expert into groups of equal size, and each group is multiplied by the matrices
of its expert, as in MegaBlocks (Gale et al. 2022, arXiv:2211.15841).

So the output at a token depends on that token alone, in every layout, packed or
not, and with a cache.  The exception is --feedforward.capacity, which bounds
how many choices an expert takes from a sequence.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from model.core.field import FieldError, field
from model.core.limits import COUNT, WIDTH, Limit
from model.core.linear import linear
from model.core.parameter import (
  Dims,
  Param,
  ParamRole,
  PartParams,
  add_bias,
  param,
)
from model.core.side_output import Aux
from model.layers.activations import activated
from model.layers.balance import (
  DROPPED_CHOICES,
  LOAD,
  PROBABILITY,
  BalanceBase,
  SequenceBalance,
)
from model.layers.feedforward import FeedForwardBase

_EXPERTS = Limit(2**14, 'no memory holds so many feed-forwards')

# A group has at most a quarter as many rows as an expert has choices under even
# load, so that partly filled groups cost at most a quarter more.
_GROUPS_PER_SHARE = 4


@dataclasses.dataclass(frozen=True)
class Moe(FeedForwardBase, tag='moe'):
  """Mixture of experts: a router picks a few per token (Shazeer et al. 2017).

  arXiv:1701.06538.  Gates are those of Mixtral (Jiang et al. 2024,
  arXiv:2401.04088), or p itself as in Switch (Fedus et al. 2021,
  arXiv:2101.03961).
  """

  experts: int = field(8, 'Number of experts.', min=2, max=_EXPERTS)
  top_k: int = field(2, 'Experts per token.', min=1, max=_EXPERTS)
  renormalize: bool = field(
    True, 'Divide the gates of a token by their sum; false leaves them at p.'
  )
  balance: BalanceBase = field(
    SequenceBalance(), 'How the load is spread over the experts:'
  )
  capacity: float | None = field(
    None,
    'Choices that an expert takes from a sequence, as a multiple of the even '
    'share; later ones are dropped.  `none` takes all.',
    min=0.01,
    max=COUNT,
  )
  activation: Literal['relu', 'gelu'] = field(
    'gelu', 'f: max(0, x), or the exact x Phi(x) (arXiv:1606.08415):'
  )
  width: int | None = field(
    None,
    'Hidden units of an expert; `none` is 4 x --d_model.',
    min=1,
    max=WIDTH,
  )

  def problems(self) -> Iterator[FieldError]:
    """Yields an error for each rule that the fields break together."""
    if self.top_k > self.experts:
      yield FieldError(
        'top_k',
        self.top_k,
        f'must be at most --feedforward.experts={self.experts}',
      )
    if self.top_k == 1 and self.renormalize:
      yield FieldError(
        'renormalize',
        True,
        'makes the gate of a single expert 1, so the router gets no gradient '
        'from the loss: try --feedforward.renormalize=false',
      )

  def batch_problem(self) -> FieldError | None:
    """Returns an error if the penalty needs the whole batch, else `None`."""
    if not self.balance.reads_batch:
      return None
    return FieldError(
      'balance',
      self.balance,
      'needs the whole batch, which micro-batches do not see: try '
      '--feedforward.balance=sequence, or --microbatches=1',
    )

  @property
  def order_dependence(self) -> FieldError | None:
    """Returns --feedforward.capacity, if it is set."""
    if self.capacity is None:
      return None
    rule = 'counts the choices of earlier positions'
    return FieldError('capacity', self.capacity, rule)

  def params(self, dims: Dims) -> dict[str, Param]:
    """Returns W_r, and W_1 and W_2 of each expert, with biases by --use_bias.

    W_r, the matrix of the router, never has a bias.
    """
    sizes = {'F': self.width or 4 * dims.d_model, 'E': self.experts}
    used = self.top_k / self.experts

    def own(axes: str, kind: ParamRole) -> Param:
      return dataclasses.replace(param(axes, kind, dims, sizes), used=used)

    table = {
      'router': param('D->E', ParamRole.MATRIX, dims, sizes),
      'up': own('E|D->F', ParamRole.MATRIX),
      'down': own('E|F->D', ParamRole.RESIDUAL),
    }
    if self.balance.bias_rate is not None:
      table['choice_bias'] = param('->E', ParamRole.STATE, dims, sizes)
    if dims.use_bias:
      table['up_bias'] = own('E|->F', ParamRole.BIAS)
      table['down_bias'] = own('E|->D', ParamRole.BIAS)
    return table

  def apply(
    self,
    params: PartParams,
    x_BTD: jax.Array,
    rngs_B: jax.Array | None,
    segments_BT: jax.Array | None,
  ) -> tuple[jax.Array, Aux]:
    """Returns the sum over the chosen experts of gate_e f(x W_1e) W_2e."""
    del rngs_B
    wide = jnp.promote_types(x_BTD.dtype, jnp.float32)
    logits_BTE = linear(x_BTD, params['router'], dtype=wide)
    p_BTE = jax.nn.softmax(logits_BTE)
    ranked_BTE = add_bias(p_BTE, params, 'choice_bias')
    _, chosen_BTJ = jax.lax.top_k(ranked_BTE, self.top_k)
    gates_BTJ = jnp.take_along_axis(p_BTE, chosen_BTJ, -1)
    if self.renormalize:
      gates_BTJ = gates_BTJ / gates_BTJ.sum(-1, keepdims=True)
    real_BT = jnp.ones(x_BTD.shape[:2], wide)
    if segments_BT is not None:
      real_BT = (segments_BT != 0).astype(wide)
    picked_BTJE = jax.nn.one_hot(chosen_BTJ, self.experts, dtype=wide)
    picked_BTJE = picked_BTJE * real_BT[:, :, None, None]
    dropped_BTJ = self._over_capacity(picked_BTJE)
    gates_BTJ = gates_BTJ * (1 - dropped_BTJ)
    y_BTD = self._run_experts(params, x_BTD, chosen_BTJ, gates_BTJ)
    return y_BTD, {
      LOAD: picked_BTJE.sum((1, 2)),
      PROBABILITY: (p_BTE * real_BT[..., None]).sum(1),
      DROPPED_CHOICES: dropped_BTJ.sum((1, 2)),
    }

  def penalty_B(
    self, aux: Aux, sum_over_devices: Callable[[jax.Array], jax.Array]
  ) -> jax.Array | None:
    """Returns the penalty of --feedforward.balance, by example."""
    load_LBE = aux[LOAD]
    choices_LB1 = jnp.maximum(load_LBE.sum(-1, keepdims=True), 1.0)
    return self.balance.penalty_B(
      load_LBE / choices_LB1 * self.experts,
      aux[PROBABILITY] / choices_LB1 * self.top_k,
      sum_over_devices,
    )

  def after_update(
    self, params: PartParams, sums: Mapping[str, Any]
  ) -> PartParams:
    """Adjusts the biases of the experts to their load, if they have biases.

    b_e <- b_e + rate sign(mean load - load_e)
    """
    if self.balance.bias_rate is None:
      return params
    load_LE = sums[LOAD.name]
    error_LE = load_LE.mean(-1, keepdims=True) - load_LE
    bias_LE = params['choice_bias'] + self.balance.bias_rate * jnp.sign(
      error_LE
    )
    return {**params, 'choice_bias': bias_LE}

  def figures(self, sums: Mapping[str, Any]) -> dict[str, float]:
    """Returns `router_imbalance` and, with a capacity, `dropped_choices`.

    The imbalance is the load of the busiest expert over the even load, less 1,
    averaged over layers (MaxVio of Wang et al. 2024, arXiv:2408.15664, section
    4).  The other is the share of choices that were dropped.
    """
    load_LE = np.asarray(sums[LOAD.name], np.float64)
    total_L = np.maximum(load_LE.sum(-1), 1.0)
    busiest_L = load_LE.max(-1) * self.experts / total_L
    found = {'router_imbalance': float(busiest_L.mean() - 1)}
    if self.capacity is not None:
      dropped_L = np.asarray(sums[DROPPED_CHOICES.name], np.float64)
      found['dropped_choices'] = float(dropped_L.sum() / total_L.sum())
    return found

  def _over_capacity(self, picked_BTJE: jax.Array) -> jax.Array:
    """Returns dropped_BTJ, 1 where a choice exceeds the capacity, else 0.

    Room goes to earlier positions first, so that no position depends on later
    ones.
    """
    batch, length, top_k, experts = picked_BTJE.shape
    if self.capacity is None:
      return jnp.zeros(picked_BTJE.shape[:-1], picked_BTJE.dtype)
    room = math.ceil(self.capacity * length * top_k / experts)
    picked_BME = picked_BTJE.reshape(batch, length * top_k, experts)
    dropped_BME = picked_BME * (jnp.cumsum(picked_BME, 1) > room)
    return dropped_BME.sum(-1).reshape(batch, length, top_k)

  def _run_experts(
    self,
    params: PartParams,
    x_BTD: jax.Array,
    chosen_BTJ: jax.Array,
    gates_BTJ: jax.Array,
  ) -> jax.Array:
    """Returns the outputs of the chosen experts, weighted by their gates."""
    expert_M = chosen_BTJ.reshape(-1)
    grouped = _group_by_expert(expert_M, self.experts)
    # Rows without a choice are computed as well, and their results ignored.
    x_XD = x_BTD.reshape(-1, x_BTD.shape[-1])
    x_GRD = x_XD[grouped.choice_GR // self.top_k]
    names = ('up', 'down', 'up_bias', 'down_bias')
    own = {name: params[name] for name in names if name in params}
    own_G = jax.tree.map(lambda p_E: p_E[grouped.expert_G], own)

    def expert(own: PartParams, x_RD: jax.Array) -> jax.Array:
      h_RF = jnp.einsum('RD,DF->RF', x_RD, own['up'])
      h_RF = activated(add_bias(h_RF, own, 'up_bias'), self.activation)
      y_RD = jnp.einsum('RF,FD->RD', h_RF, own['down'])
      return add_bias(y_RD, own, 'down_bias')

    y_GRD = jax.vmap(expert)(own_G, x_GRD)
    y_MD = y_GRD.reshape(-1, y_GRD.shape[-1])[grouped.row_M]
    y_BTJD = y_MD.reshape(*chosen_BTJ.shape, -1)
    gates_BTJ = gates_BTJ.astype(y_BTJD.dtype)
    return jnp.einsum('BTJD,BTJ->BTD', y_BTJD, gates_BTJ)


@dataclasses.dataclass(frozen=True)
class _Groups:
  """Choices, sorted by expert into groups of R rows.

  Attributes:
    expert_G: expert of each group.
    choice_GR: index of the choice in each row; 0 in a row without a choice.
    row_M: row of each choice, counted over all groups.
  """

  expert_G: jax.Array
  choice_GR: jax.Array
  row_M: jax.Array


def _group_by_expert(expert_M: jax.Array, experts: int) -> _Groups:
  """Sorts choices into groups, each for one expert.

  Args:
    expert_M: expert of each choice.
    experts: number of experts.
  """
  count = expert_M.size
  rows = count // (_GROUPS_PER_SHARE * experts)
  choice_M = jnp.arange(count, dtype=jnp.int32)
  if rows <= 1:  # too few choices: each is a group
    return _Groups(expert_M, choice_M[:, None], choice_M)
  groups = count // rows + experts  # upper bound of the groups needed
  picked_ME = jax.nn.one_hot(expert_M, experts, dtype=jnp.int32)
  before_ME = jnp.cumsum(picked_ME, 0) - picked_ME
  rank_M = jnp.take_along_axis(before_ME, expert_M[:, None], 1)[:, 0]
  needed_E = -(-picked_ME.sum(0) // rows)
  end_E = jnp.cumsum(needed_E)
  row_M = (end_E - needed_E)[expert_M] * rows + rank_M
  group_G = jnp.arange(groups)
  expert_G = jnp.searchsorted(end_E, group_G, side='right')
  choice_GR = jnp.zeros(groups * rows, jnp.int32).at[row_M].set(choice_M)
  return _Groups(
    jnp.minimum(expert_G, experts - 1), choice_GR.reshape(groups, rows), row_M
  )
