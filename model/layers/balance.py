"""Balance: what keeps a router from sending all tokens to few experts."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from model.core.field import Variant, field
from model.core.limits import REAL
from model.core.side_output import SideOutput

# For each sequence: how often each expert was chosen, its probability summed
# over positions, and how many choices were dropped.  Padding does not count.
LOAD = SideOutput('router_load', 'BE')
PROBABILITY = SideOutput('router_probability', 'BE')
DROPPED_CHOICES = SideOutput('dropped_choices', 'B')


class BalanceBase(Variant):
  """Base of all ways to balance the load of the experts."""

  def penalty_B(
    self,
    share_LBE: jax.Array,
    probability_LBE: jax.Array,
    sum_over_devices: Callable[[jax.Array], jax.Array],
  ) -> jax.Array | None:
    """Returns a penalty for each sequence, or `None` if there are none.

    Args:
      share_LBE: share of each expert in the choices of a sequence, times the
        number of experts, so that even load is 1.
      probability_LBE: probability of each expert, averaged over the sequence.
      sum_over_devices: sums an array over the devices that share the batch.
    """
    del share_LBE, probability_LBE, sum_over_devices
    return None

  @property
  def reads_batch(self) -> bool:
    """Returns whether a penalty reads more than one sequence at a time."""
    return False

  @property
  def bias_rate(self) -> float | None:
    """Returns the change of a bias at each update, or `None` without biases."""
    return None


@dataclasses.dataclass(frozen=True)
class SequenceBalance(BalanceBase, tag='sequence'):
  """weight E sum_e share_e p_e of each sequence (DeepSeek-V2, 2024).

  arXiv:2405.04434, equations 23 to 25.  The penalties of sequences add up, so
  micro-batches and devices do not change it.
  """

  weight: float = field(
    0.01, 'Factor of the penalty.', min=0.0, max=REAL, traced=True
  )

  def penalty_B(
    self,
    share_LBE: jax.Array,
    probability_LBE: jax.Array,
    sum_over_devices: Callable[[jax.Array], jax.Array],
  ) -> jax.Array | None:
    """Returns the penalty of each sequence, summed over layers."""
    del sum_over_devices
    return self.weight * (share_LBE * probability_LBE).sum((0, 2))


@dataclasses.dataclass(frozen=True)
class BatchBalance(BalanceBase, tag='batch'):
  """weight E sum_e share_e p_e, both over the batch (Fedus et al. 2021).

  arXiv:2101.03961, equations 4 to 6.  Each sequence counts once.
  """

  weight: float = field(
    0.01, 'Factor of the penalty.', min=0.0, max=REAL, traced=True
  )

  def penalty_B(
    self,
    share_LBE: jax.Array,
    probability_LBE: jax.Array,
    sum_over_devices: Callable[[jax.Array], jax.Array],
  ) -> jax.Array | None:
    """Returns penalties whose mean over sequences is that of the batch."""
    count = sum_over_devices(jnp.asarray(share_LBE.shape[1], share_LBE.dtype))
    share_L1E = sum_over_devices(share_LBE.sum(1, keepdims=True)) / count
    return self.weight * (share_L1E * probability_LBE).sum((0, 2))

  @property
  def reads_batch(self) -> bool:
    """Returns True: the shares are those of the whole batch."""
    return True


@dataclasses.dataclass(frozen=True)
class BiasBalance(BalanceBase, tag='bias'):
  """A bias on the choice of experts, adjusted by their load (Wang et al. 2024).

  The experts with the k largest p + b are chosen, and weighted by p.  After
  each update, b_e grows by the rate if expert e had less than the mean load of
  the batch, and falls by it if it had more (arXiv:2408.15664, algorithm 1).
  There is no penalty.
  """

  rate: float = field(
    1e-3, 'Change of a bias at each update.', min=0.0, max=REAL, traced=True
  )

  @property
  def bias_rate(self) -> float | None:
    """Returns the rate."""
    return self.rate


@dataclasses.dataclass(frozen=True)
class NoBalance(BalanceBase, tag='none'):
  """No balancing (Shazeer et al. 2017 without its penalties)."""
