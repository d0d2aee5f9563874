"""Masks: which key positions a query may attend to, as predicates."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from model.field import Variant


@dataclasses.dataclass(frozen=True)
class Full(Variant, tag='full'):
  """Every position attends to every position (Vaswani et al. 2017)."""

  def allowed(self, t_T1: jax.Array, s_1S: jax.Array) -> jax.Array:
    """Returns True where the query at t may see the key at s."""
    return (t_T1 == t_T1) & (s_1S == s_1S)


@dataclasses.dataclass(frozen=True)
class Causal(Variant, tag='causal'):
  """A position attends to itself and the past (Vaswani et al. 2017, 3.2.3)."""

  def allowed(self, t_T1: jax.Array, s_1S: jax.Array) -> jax.Array:
    """Returns True where the query at t may see the key at s."""
    return s_1S <= t_T1


@dataclasses.dataclass(frozen=True)
class ExcludeSelf(Variant, tag='exclude_self'):
  """A position does not attend to itself (Kitaev et al. 2020, section 2).

  Departure: the Reformer lets a position that sees nothing else see itself;
  here such a row of attention weights is zero.
  """

  def allowed(self, t_T1: jax.Array, s_1S: jax.Array) -> jax.Array:
    """Returns True where the query at t may see the key at s."""
    return s_1S != t_T1


Mask = Causal | Full | ExcludeSelf


def allowed(masks: Sequence[Mask], t_T: jax.Array, s_S: jax.Array) -> jax.Array:
  """Returns mask_TS, True where every mask lets query t see key s."""
  mask_TS = jnp.ones((t_T.size, s_S.size), bool)
  for mask in masks:
    mask_TS &= mask.allowed(t_T[:, None], s_S[None, :])
  return mask_TS
