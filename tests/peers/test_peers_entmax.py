"""Sparse normalisers of the package entmax, where it is installed.

Its functions are exact ones of a sort, as ours are.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.attention.normalizers.base import NormalizerBase
from model.attention.normalizers.sparse import Entmax15, Sparsemax
from peers.layers import torch
from spec.architectures import draws

source = pytest.importorskip('entmax')

CASES = {
  'sparsemax': (Sparsemax(), source.sparsemax),
  'entmax15': (Entmax15(), source.entmax15),
}


@pytest.mark.parametrize('name', CASES)
@pytest.mark.parametrize('size', [0.1, 1.0, 10.0])
def test_weights_and_gradients(name: str, size: float) -> None:
  """From all keys with a weight to one; keys that are not seen have none."""
  variant, theirs = CASES[name]
  logits_BNTS, pull_BNTS = size * draws(2, 3, 4, 9), draws(2, 3, 4, 9, seed=1)
  seen_B1TS = np.arange(9) < np.array([9, 7, 3, 1])[:, None]
  seen_B1TS = np.broadcast_to(seen_B1TS, (2, 1, 4, 9))
  weights, gradient = _ours(variant, logits_BNTS, seen_B1TS, pull_BNTS)
  hidden = torch.tensor(~seen_B1TS)
  given = torch.tensor(logits_BNTS, requires_grad=True)
  peer = theirs(given.masked_fill(hidden, -1e9), dim=-1)
  peer.backward(torch.tensor(pull_BNTS))
  np.testing.assert_allclose(weights, peer.detach(), rtol=0, atol=1e-12)
  np.testing.assert_allclose(gradient, given.grad, rtol=0, atol=1e-10)


def _ours(
  variant: NormalizerBase,
  logits_BNTS: np.ndarray,
  seen_B1TS: np.ndarray,
  pull_BNTS: np.ndarray,
) -> tuple[Any, Any]:
  """Returns weights, and the gradient by the logits along `pull_BNTS`."""
  n_B1T1 = seen_B1TS.sum(-1, keepdims=True)
  with jax.enable_x64(True):
    weights, pull = jax.vjp(
      lambda x: variant.weights({}, x, seen_B1TS, n_B1T1),
      jnp.asarray(logits_BNTS),
    )
    return weights, pull(jnp.asarray(pull_BNTS))[0]
