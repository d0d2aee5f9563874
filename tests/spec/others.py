"""Of many cases, few in the default suite: the others are slow."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def others_slow(cases: Iterable[Any], kept: Collection[Any]) -> list[Any]:
  """Returns the cases, marked slow but for those that are kept."""
  return [
    case if case in kept else pytest.param(case, marks=pytest.mark.slow)
    for case in cases
  ]
