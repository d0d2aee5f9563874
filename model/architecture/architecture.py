"""The architecture of a model as one value; each of its fields is a flag."""

import dataclasses
from collections.abc import Iterator

from model.architecture import rules
from model.architecture.choices import ArchitectureFields
from model.core.field import FieldError


@dataclasses.dataclass(frozen=True)
class Architecture(ArchitectureFields):
  """Architecture: a transformer of blocks (Vaswani et al. 2017)."""

  def problems(self) -> Iterator[FieldError]:
    """Yields an error for each rule that the choices break."""
    return rules.problems(self)
