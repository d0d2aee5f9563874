"""Parameters as a nested tree, and as a flat mapping from path to array."""

from collections.abc import Mapping
from typing import Any

from flax import traverse_util

ArrayTree = Any  # nested arrays: parameters, their gradients, or a state


def unflatten(by_path: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a flat `{path: value}` as a nested tree."""
  return traverse_util.unflatten_dict(by_path, sep='/')


def flatten(params: Any) -> dict[str, Any]:
  """Returns a nested tree of parameters as `{path: value}`."""
  return traverse_util.flatten_dict(params, sep='/')
