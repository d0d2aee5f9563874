"""What the comparisons with other implementations share.

Each compares one attention sub-layer in float64: its outputs, and the gradients
with respect to its input and to each parameter.  What an implementation does in
float32 inside sets the tolerance.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.architecture.architecture import Architecture
from model.attention_layer import AttentionLayer
from model.core.inputs import Positions
from model.interfaces import CallContext, LayerInputs
from spec.architectures import BASE, dims_of, drawn_params, draws
from spec.tolerance import assert_close

torch = pytest.importorskip('torch', exc_type=ImportError)

PEER = dataclasses.replace(BASE, d_model=16, num_heads=2, head_dim=8)
X_BTD, PULL_BTD = draws(2, 6, 16), draws(2, 6, 16, seed=1)

Tables = Mapping[str, Mapping[str, np.ndarray]]
Weights = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Sublayer:
  """One attention of a block, as we compute it.

  Attributes:
    arch: the choices.
    layer: number of the block.
    segments_BT: documents, if the masks read them.
    first_BTKH: values of the first layer, if an output reads them.
    fixed: parameters that are not drawn, by part.
  """

  arch: Architecture
  layer: int = 0
  segments_BT: np.ndarray | None = None
  first_BTKH: np.ndarray | None = None
  fixed: Tables = dataclasses.field(default_factory=dict)

  def drawn(self) -> dict[str, dict[str, np.ndarray]]:
    """Returns numbers for each part of a block, and for positions."""
    dims = dims_of(self.arch)
    tables = self.arch.block_tables(dims)
    tables['position'] = self.arch.position.params(dims)
    return {
      part: drawn_params(table) | dict(self.fixed.get(part, {}))
      for part, table in tables.items()
    }

  def apply(self, tables: Any, x_BTD: jax.Array) -> jax.Array:
    """Returns what the sub-layer gives."""
    arch = self.arch
    mixer = AttentionLayer(
      arch, dims_of(arch), arch.parts, tables, arch.backend
    )
    at = Positions(jnp.arange(6), self.segments_BT)
    context = CallContext(at, tables['position'], None, jnp.asarray(0), None)
    layer = LayerInputs(jnp.asarray(self.layer), None, None, None, None)
    return mixer(x_BTD, self.first_BTKH, layer, context, None).out_BTD


def assert_agrees(
  sublayer: Sublayer,
  peer: Any,
  weights: Callable[[Tables], Weights],
  run: Callable[[Any], Any],
  exact: bool = False,
) -> None:
  """Fails unless outputs and gradients are those of a module.

  Args:
    sublayer: ours.
    peer: the module.
    weights: all that it has, of our parameters.
    run: calls the module with x.
    exact: it computes in float64 throughout.
  """
  tables = sublayer.drawn()

  @jax.jit
  def ours(tables: Any, x_BTD: jax.Array) -> tuple[jax.Array, Any]:
    out_BTD, pull = jax.vjp(sublayer.apply, tables, x_BTD)
    return out_BTD, pull(jnp.asarray(PULL_BTD))

  with jax.enable_x64(True):
    given = jax.tree.map(jnp.asarray, tables)
    mine_BTD, (slopes, slope_BTD) = ours(given, jnp.asarray(X_BTD))
    slopes = jax.tree.map(np.asarray, slopes)
  load(peer, weights(tables))
  x_BTD = torch.tensor(X_BTD, requires_grad=True)
  theirs_BTD = run(x_BTD)
  theirs_BTD.backward(torch.tensor(PULL_BTD))
  dtype = np.float64 if exact else np.float32

  def compare(actual: Any, expected: Any) -> None:
    assert_close(np.asarray(actual, dtype), expected, 64)

  compare(mine_BTD, theirs_BTD.detach().numpy())
  compare(slope_BTD, x_BTD.grad.numpy())
  compare(*paired(tables, slopes, sublayer.fixed, peer, weights))


def paired(
  tables: Tables,
  slopes: Tables,
  fixed: Tables,
  peer: Any,
  weights: Callable[[Tables], Weights],
) -> tuple[list[float], list[float]]:
  """Returns our and their derivative along one direction of each parameter.

  A weight of theirs can be a sum of ours, or stand for several.
  """
  before = weights(tables)
  mine, theirs = [], []
  for part, table in tables.items():
    for name in table.keys() - fixed.get(part, {}).keys():
      step = draws(*table[name].shape, seed=4)
      moved = {**tables, part: {**table, name: table[name] + step}}
      after = weights(moved)
      mine.append(float((slopes[part][name] * step).sum()))
      found = 0.0
      for path, weight in peer.named_parameters():
        if weight.grad is not None:
          change = after[path] - before[path]
          found += float((weight.grad.numpy() * change).sum())
      theirs.append(found)
  return mine, theirs


def matrix(kernel: np.ndarray, inputs: int = 1) -> np.ndarray:
  """Returns the weight of a torch.nn.Linear."""
  width = int(np.prod(kernel.shape[:inputs]))
  return kernel.reshape(width, -1).T


def load(peer: Any, weights: Weights, own: tuple[str, ...] = ()) -> Any:
  """Returns a module in float64 with these weights, which must be all it has.

  Args:
    peer: the module.
    weights: by the names that the module gives them.
    own: names of weights that it keeps.
  """
  peer.double().eval()
  kept = {name: peer.state_dict()[name] for name in own}
  given = {name: torch.tensor(x.copy()) for name, x in weights.items()}
  peer.load_state_dict(given | kept)
  return peer
