"""The values of one attention: its choices, queries, keys, and results."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax

from model.attention.mask import MaskBase
from model.attention.normalizers.base import NormalizerBase
from model.attention.outputs.base import OutputBase
from model.attention.projections.heads import Widths
from model.attention.scale import ScaleBase
from model.attention.scores.base import ScoreBase
from model.core.field import TRACED, Record, bind, split
from model.core.inputs import Positions
from model.core.parameter import PartParams
from model.position.base import PositionBase


class AttentionParts(NamedTuple):
  """The choices that one attention is composed of.

  `dropout` is the rate for attention weights, `dtype` the type of queries, keys
  and values, `widths` their widths.
  """

  score: ScoreBase
  scale: ScaleBase
  logit_cap: float | None
  position: PositionBase
  mask: tuple[MaskBase, ...]
  normalizer: NormalizerBase
  output: tuple[OutputBase, ...]
  dropout: float
  dtype: str
  widths: Widths

  @property
  def counts(self) -> bool:
    """Returns whether a part depends on the number of keys a query sees."""
    return self.scale.traits.counts or self.normalizer.traits.counts

  @property
  def maps(self) -> int:
    """Returns the number of attention maps per head."""
    return max(output.traits.maps for output in self.output)

  def split(self) -> tuple['AttentionParts', 'PartNumbers']:
    """Splits off the numbers that may be tracers; `bind` is the inverse.

    A function with a gradient of its own takes them as arguments, because
    within a scan JAX cannot compile a tracer that such a function closes over.
    """
    halves = [split(record) for record in self._records()]
    cap = None if self.logit_cap is None else TRACED
    static = self._with([record for record, _ in halves], cap)
    return static, PartNumbers(
      [numbers for _, numbers in halves], self.logit_cap
    )

  def bind(self, numbers: 'PartNumbers') -> 'AttentionParts':
    """Returns the choices with the numbers that `split` gave."""
    pairs = zip(self._records(), numbers.by_record, strict=True)
    return self._with([bind(*pair) for pair in pairs], numbers.logit_cap)

  def _records(self) -> Iterator[Record]:
    yield from (self.score, self.scale, self.position, self.normalizer)
    yield from self.mask
    yield from self.output

  def _with(self, records: list[Any], logit_cap: Any) -> 'AttentionParts':
    score, scale, position, normalizer, *lists = records
    return self._replace(
      score=score,
      scale=scale,
      logit_cap=logit_cap,
      position=position,
      mask=tuple(lists[: len(self.mask)]),
      normalizer=normalizer,
      output=tuple(lists[len(self.mask) :]),
    )


class PartNumbers(NamedTuple):
  """The numbers of the choices of one attention that may be tracers.

  Attributes:
    by_record: of each choice that is a record, its numbers by path.
    logit_cap: that of the choices.
  """

  by_record: list[dict[str, Any]]
  logit_cap: Any


class Queries(NamedTuple):
  """Queries with what attention needs to know of them, along an axis T.

  Attributes:
    q_BTNH: queries, normalised and rotated.
    x_BTD: input that the queries were computed from.
    at: their positions.
    running_BTN: running sums by the tag of the output (`OutputBase.running`).
  """

  q_BTNH: jax.Array
  x_BTD: jax.Array
  at: Positions
  running_BTN: Mapping[str, jax.Array]


class Keys(NamedTuple):
  """Keys with what attention needs to know of them, along an axis S.

  Attributes:
    k_BSKH: keys, normalised and rotated.
    v_BSKH: values.
    at: their positions.
    running_BSN: running sums by the tag of the output (`OutputBase.running`).
  """

  k_BSKH: jax.Array
  v_BSKH: jax.Array
  at: Positions
  running_BSN: Mapping[str, jax.Array]


class HeadOutputs(NamedTuple):
  """The outputs of the heads, and the weights if the backend has them."""

  out_BTNH: jax.Array
  weights_BNTS: jax.Array | None


# The parameters of a block, and of positions, by part.
ParamTables = Mapping[str, PartParams]


def part_of(output: OutputBase) -> str:
  """Returns the name of the part that holds the parameters of an output."""
  return f'output_{output.tag}'
