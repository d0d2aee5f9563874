"""The flags of --generate.

Apart from `generate.py`, which imports all that loads and runs a trained trial.
"""

import dataclasses
from collections.abc import Iterator

from model.core.field import FieldError, Record, field
from model.core.limits import BATCH, BEAM, LENGTH_EXPONENT
from model.decoding.decode import Sampling


@dataclasses.dataclass(frozen=True)
class Generation(Record):
  """Generation: how --generate continues each --prompt."""

  new_tokens: int = field(200, 'Tokens after the prompt.', min=1, max=BATCH)
  sampling: Sampling = field(Sampling(), 'How each token is chosen.')
  beam: int | None = field(
    None,
    'Width of a beam search for the most likely text; `none` samples a text, '
    'and translates with --task.beam of the trial.',
    min=1,
    max=BEAM,
  )
  length_penalty: float | None = field(
    None,
    'Of a translation; replaces --task.length_penalty of the trial.',
    min=-10.0,
    max=LENGTH_EXPONENT,
  )

  def problems(self) -> Iterator[FieldError]:
    """Yields errors of fields that do not go together."""
    if self.beam is not None and self.sampling != Sampling():
      yield FieldError(
        'beam', self.beam, 'draws nothing: drop --temperature, --top_k, --top_p'
      )
