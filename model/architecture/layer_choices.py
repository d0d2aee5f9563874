"""The choices in which one layer of a pattern differs from the others."""

import dataclasses
from typing import Any

from model.attention.mask import MaskBase
from model.attention.normalizers.base import NormalizerBase
from model.attention.outputs.base import OutputBase
from model.attention.projections.base import ProjectionsBase
from model.attention.qk_norm import QkNormBase
from model.attention.scale import ScaleBase
from model.attention.scores.base import ScoreBase
from model.backends.base import BackendBase
from model.core.field import Record, Variant, field
from model.core.flag_text import to_flags
from model.layers.feedforward import FeedForwardBase
from model.layers.norm import NormBase
from model.position.base import PositionBase


@dataclasses.dataclass(frozen=True)
class LayerChoices(Record):
  """Choices of one layer of --pattern; `None` takes that of all layers.

  Sizes, the residual, and everything outside of blocks cannot differ.
  """

  mask: tuple[MaskBase, ...] | None = field(None, 'For this layer.')
  position: PositionBase | None = field(None, 'For this layer.')
  projections: ProjectionsBase | None = field(None, 'For this layer.')
  qk_norm: QkNormBase | None = field(None, 'For this layer.')
  score: ScoreBase | None = field(None, 'For this layer.')
  scale: ScaleBase | None = field(None, 'For this layer.')
  normalizer: NormalizerBase | None = field(None, 'For this layer.')
  output: tuple[OutputBase, ...] | None = field(None, 'For this layer.')
  backend: BackendBase | None = field(None, 'For this layer.')
  norm: NormBase | None = field(None, 'For this layer.')
  feedforward: FeedForwardBase | None = field(None, 'For this layer.')

  @property
  def chosen(self) -> dict[str, Any]:
    """Returns the fields that are not `None`, by name."""
    return {k: v for k, v in vars(self).items() if v is not None}

  def __str__(self) -> str:
    """Returns "name=value&name=value", in the form of --pattern."""
    defaults: dict[str, str] = {}
    for name, value in self.chosen.items():
      for one in value if isinstance(value, tuple) else (value,):
        assert isinstance(one, Variant)
        defaults |= to_flags(type(one)(), f'{name}.')
    changed = {
      path: text
      for path, text in to_flags(self).items()
      if path.partition('.')[0] in self.chosen and defaults.get(path) != text
    }
    return '&'.join(f'{path}={text}' for path, text in changed.items())
