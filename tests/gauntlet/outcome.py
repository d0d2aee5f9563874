"""What an attempt to mislead came to, and the table of all of them."""

import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Kind = Literal['found', 'harmless', 'silent', 'traceback']
KINDS: tuple[Kind, ...] = ('found', 'harmless', 'silent', 'traceback')
BAD: tuple[Kind, ...] = ('silent', 'traceback')
WIDTH = 80


class Outcome(NamedTuple):
  """What one attempt came to.

  Attributes:
    kind: `found` where it was said or refused, `harmless` where nothing
      changed, `silent` where a figure or a text changed and nothing was said,
      `traceback` where a command ended as none may.
    about: what was done, and what came of it, in one line.
    tried: how many things were done; a life of a run may have many kills.
  """

  kind: Kind
  about: str
  tried: int = 1


# An attempt by its seed: the same seed does the same.
Attempt = Callable[[int], Outcome]


@dataclass
class Tally:
  """What the attempts of one part came to.

  `bad` holds, by the seed that repeats it, what must not be.
  """

  part: str
  asked: int
  counts: dict[Kind, int] = field(
    default_factory=lambda: dict.fromkeys(KINDS, 0)
  )
  bad: dict[int, Outcome] = field(default_factory=dict)
  seconds: float = 0.0

  @property
  def tried(self) -> int:
    """Returns how much was done."""
    return sum(self.counts.values())

  def add(self, seed: int, outcome: Outcome) -> None:
    """Counts an attempt; where many things were tried, one of them failed."""
    if outcome.kind in BAD:
      self.counts[outcome.kind] += 1
      self.counts['harmless'] += max(outcome.tried - 1, 0)
      self.bad[seed] = outcome
    else:
      self.counts[outcome.kind] += outcome.tried


_COLUMNS = ('asked', 'tried', *KINDS, 'seconds')


def _width(column: str) -> int:
  """Returns how wide a column of the table is."""
  return max(9, len(column) + 1)


def table(tallies: Sequence[Tally]) -> Iterator[str]:
  """Yields the lines of the table, and then what must not be."""
  yield f'{"part":<12}' + ''.join(f'{n:>{_width(n)}}' for n in _COLUMNS)
  for one in tallies:
    cells = [one.asked, one.tried, *(one.counts[kind] for kind in KINDS)]
    cells.append(round(one.seconds))
    numbers = zip(_COLUMNS, cells, strict=True)
    line = ''.join(f'{cell:>{_width(name)},}' for name, cell in numbers)
    yield f'{one.part:<12}{line}'
  for one in tallies:
    if one.tried < one.asked:
      yield f'{one.part}: {one.tried:,} of {one.asked:,} in the time there was'
  for one in tallies:
    for seed, outcome in one.bad.items():
      yield f'{outcome.kind}: --only={one.part}:{seed}'
      yield from textwrap.wrap(
        outcome.about, WIDTH, initial_indent='  ', subsequent_indent='  '
      )
