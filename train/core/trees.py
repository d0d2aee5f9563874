"""Parameters as a nested tree, and as a flat mapping from path to array."""

from collections.abc import Mapping
from typing import Any

from model.core.parameter import unflatten

__all__ = ['ArrayTree', 'flatten', 'unflatten']

ArrayTree = Any  # nested arrays: parameters, their gradients, or a state


def flatten(params: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a nested tree of parameters as `{path: value}`."""
  found: dict[str, Any] = {}
  for name, node in params.items():
    if isinstance(node, Mapping):
      found |= {f'{name}/{path}': x for path, x in flatten(node).items()}
    else:
      found[name] = node
  return found
