"""An experiment as data: a claim, its source, a base and rows to compare."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Literal, TypeVar

from experiments.claims.published import Control, PublishedValue
from model.core.field import FieldError
from train.config.config import Config
from train.core.metric import VAL_LOSS
from train.flags.schema import override

BASE = 'base'
T = TypeVar('T')


@dataclasses.dataclass(frozen=True)
class Row:
  """One row of an ablation table: a name, and the flags it changes."""

  name: str
  changes: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class ExperimentBlock:
  """A part of an experiment with its own base: a task, a size, a data set.

  Rows are compared with the base of their block only.

  Attributes:
    name: lower-case letters, digits, - and _, because it names a folder.
    changes: flags that its base changes in the base of the experiment.
    rows: rows of this block; None takes the rows of the experiment.
  """

  name: str
  changes: Mapping[str, str]
  rows: tuple[Row, ...] | None = None

  def __post_init__(self) -> None:
    if not re.fullmatch(r'[a-z0-9][a-z0-9_-]{0,39}', self.name):
      rule = 'must be of lower-case letters, digits, - and _'
      raise ValueError(f'the name of block {self.name!r} {rule}')


@dataclasses.dataclass(frozen=True)
class Experiment:
  """One question, or one published table.

  Attributes:
    name: the value of --experiment.
    title: the question, as the report prints it.
    claim: the statement that it tests.
    citation: the paper that makes the claim.
    kind: 'A' (reproduced at the paper's scale), 'A-init' (a property at
      initialisation), 'B' (reproduced in shape, at a reduced scale) or 'own'
      (a question of ours).
    cost: how long it takes, in words.
    base: the configuration that rows change.
    rows: the rows to compare, with the base.
    seeds: number of seeds per row.
    smoke: flags of a tiny run (--smoke).
    published: the published values that it should reproduce.
    controls: rows whose outcome is known; reported apart from `rows`.
    metric: compares the rows, unless --metric names another one.
    blocks: parts with a table each; published values then name a row as
      'BLOCK: ROW'.
    block: the name of the block, if this is one block of an experiment.
  """

  name: str
  title: str
  claim: str
  citation: str
  kind: Literal['A', 'A-init', 'B', 'own']
  cost: str
  base: Config
  rows: tuple[Row, ...]
  seeds: int
  smoke: Mapping[str, str]
  published: tuple[PublishedValue, ...] = ()
  controls: tuple[Control, ...] = ()
  metric: str = VAL_LOSS.name
  blocks: tuple[ExperimentBlock, ...] = ()
  block: str | None = None

  def __post_init__(self) -> None:
    if twice := _duplicate([block.name for block in self.blocks]):
      raise ValueError(f'block {twice!r} occurs twice')
    names: list[str] = []
    for block, rows in self._tables():
      own = [row.name for row in rows]
      own += [control.row for control in self.controls]
      if twice := _duplicate(own):
        raise ValueError(f'row {twice!r} occurs twice')
      read = [row for c in self.controls for row in c.rule.others]
      _check_rows_exist(read, own)
      names += [full_name(block, name) for name in own]
    _check_rows_exist([row for t in self.published for row in t.rows], names)

  @property
  def parts(self) -> tuple['Experiment', ...]:
    """Returns one experiment per block; without blocks, only this one.

    Raises:
      FieldError: the changes of a block break a rule.
    """
    return tuple(map(self._part, self.blocks)) or (self,)

  @property
  def row_names(self) -> tuple[str, ...]:
    """Returns the names of all rows, as 'BLOCK: ROW' if there are blocks."""
    return tuple(
      full_name(block, row.name)
      for block, rows in self._tables()
      for row in rows
    )

  def own(self, found: Mapping[str, T]) -> dict[str, T]:
    """Returns the entries of the rows of this block, without its prefix."""
    start = full_name(self.block, '')
    return {
      name.removeprefix(start): value
      for name, value in found.items()
      if name.startswith(start)
    }

  def check(self) -> None:
    """Builds the configuration of each row, control and published value.

    Raises:
      FieldError: a flag is unknown, or its value is invalid.
    """
    for part in self.parts:
      for name in part._changes:
        part._row(name, {})
    for target in self.published:
      for name in target.rows:
        self.at_scale(target, name)

  def at_scale(self, target: PublishedValue, row: str) -> Config:
    """Returns the configuration of a row at the scale of a published value."""
    return next(
      part._row(name, target.scale)
      for part in self.parts
      for name in part._changes
      if full_name(part.block, name) == row
    )

  def _tables(self) -> list[tuple[str | None, tuple[Row, ...]]]:
    """Returns the name and the rows of each block, or of the single table."""
    blocks = [(b.name, b.rows or self.rows) for b in self.blocks]
    return [*blocks] or [(self.block, self.rows)]

  def _part(self, block: ExperimentBlock) -> 'Experiment':
    """Returns a block as an experiment, without published values."""
    try:
      base = override(self.base, block.changes)
    except FieldError as e:
      rule = f'{e.rule} (in block {block.name!r})'
      raise FieldError(e.path, e.value, rule) from None
    return dataclasses.replace(
      self,
      title=f'{self.title}: {block.name}',
      base=base,
      rows=block.rows or self.rows,
      published=(),
      blocks=(),
      block=block.name,
    )

  @property
  def _changes(self) -> dict[str, Mapping[str, str]]:
    """Returns the flags that each row and control changes, by name."""
    rows = {row.name: row.changes for row in self.rows}
    return rows | {own.row: own.changes for own in self.controls}

  def _row(self, name: str, more: Mapping[str, str]) -> Config:
    """Returns the configuration of a row or control with additional flags.

    Raises:
      FieldError: names the row.
    """
    try:
      return override(self.base, {**self._changes[name], **more})
    except FieldError as e:
      rule = f'{e.rule} (in row {full_name(self.block, name)!r})'
      raise FieldError(e.path, e.value, rule) from None


def full_name(block: str | None, row: str) -> str:
  """Returns 'BLOCK: ROW', or the name of the row if there is no block."""
  return row if block is None else f'{block}: {row}'


def _duplicate(names: Sequence[str]) -> str | None:
  """Returns a name that occurs more than once, or None."""
  return min((n for n in names if names.count(n) > 1), default=None)


def _check_rows_exist(read: Sequence[str], names: Sequence[str]) -> None:
  """Raises a ValueError if a rule reads a row that does not exist."""
  if absent := [row for row in read if row not in names]:
    raise ValueError(f'a rule reads row {absent[0]!r}, which is not there')


# What --help shows if the file of the requested experiment cannot be imported.
DEFAULTS = Experiment(
  name='train',
  title='One configuration, trained',
  claim='',
  citation='',
  kind='own',
  cost='',
  base=Config(),
  rows=(Row(BASE, {}),),
  seeds=1,
  smoke={},
)
