"""The flags of a run that are not part of any trial's configuration."""

import dataclasses
import shlex
from collections.abc import Iterator
from typing import Literal

from experiments.shards import parse_shard
from model.field import FieldError, Record, field
from model.limits import COUNT, PLANNED, REAL, Limit
from train.figure import COMMON, VAL_LOSS

# Flags that may be given several times, and what they say.
MANY = {
  'ablate': '"FIELD=a [FIELD=b ...]": one row against the base (repeatable).',
  'sweep': '"FIELD=a b c", "FIELD=log(a,b)": one axis (repeatable: product).',
  'zip': '"FIELD=a b; FIELD=x y": one axis that moves both (repeatable).',
  'tune': '"FIELD=a b c": each row takes its own best of these, found on other '
  'seeds (repeatable: product).',
}

PROMPT = 'Text that --generate goes on from (repeatable); none is a new line.'


@dataclasses.dataclass(frozen=True)
class Command(Record):
  """Run: which trials, where."""

  experiment: str = field('ladder', 'Which experiment; --list shows them.')
  seeds: int | None = field(
    None,
    "Seeds of each row; none is the experiment's own number.",
    min=1,
    max=PLANNED,
  )
  workdir: str | None = field(
    None,
    'Where results lie; none is runs/EXPERIMENT-HASH.  Repeating a '
    'command resumes.',
  )
  workers: int = field(
    1,
    'Processes that share the trials, on the cores of this machine.',
    min=1,
    max=Limit(1024, 'each is a process'),
  )
  shard: str | None = field(
    None,
    'I/N: run the I-th of N parts of the trials, counted from 1, each on a '
    'machine of its own.',
  )
  merge: str | None = field(
    None, '"DIR DIR ...": take the trials from there, and train nothing.'
  )
  rerun: bool = field(
    False,
    'Train trials of other code anew; what they left is moved to '
    'WORKDIR/replaced.',
  )
  keep: bool = field(
    False, 'Take trials of other code as they are; the table says which.'
  )
  only: str | None = field(None, 'Run this row alone.')
  ablate_from: str | None = field(
    None,
    'A row, or "FIELD=a FIELD=b": that preset, and it without each choice.',
  )
  add_one: str | None = field(
    None, 'A row, or "FIELD=a FIELD=b": the base with each choice alone.'
  )
  trials: int | None = field(
    None,
    'Points to draw from --sweep ranges such as log(1e-4,1e-2).',
    min=1,
    max=PLANNED,
  )
  search_seed: int = field(
    0,
    'Of these draws.',
    min=0,
    max=Limit(2**64 - 1, 'the generator takes 64 bits'),
  )
  tune_seeds: int | None = field(
    None,
    'Seeds that --tune and --halving select on; none is 2.',
    min=1,
    max=PLANNED,
  )
  halving: int | None = field(
    None,
    'Stop rows that train badly: 1/N of them go on at each rung, N times as '
    'far; none trains all to the end.',
    min=2,
    max=COUNT,
  )
  match: Literal['params', 'flops', 'none'] = field(
    'none', "Solve widths so that each row has the base's size in:"
  )
  margin: float = field(
    0.01,
    "Difference that counts as none, of the base's --metric.",
    min=0.0,
    max=REAL,
  )
  metric: str = field(
    VAL_LOSS.name,
    'What verdicts, --tune and --halving compare, each in its direction: '
    f'{", ".join(figure.name for figure in COMMON)}, or what the task measures '
    'besides, such as bleu or sacrebleu (see --list).',
  )
  smoke: bool = field(False, 'Tiny sizes, seconds; never for numbers.')
  list: bool = field(
    False, 'List experiments, tasks and variants; run nothing.'
  )
  plan: bool = field(
    False, 'Say what would run and what it costs; run nothing.'
  )
  generate: str | None = field(
    None, 'WORKDIR:TRIAL to write on from each --prompt; trains nothing.'
  )
  evaluate: str | None = field(
    None, 'WORKDIR:TRIAL to evaluate on --task; trains nothing.'
  )

  def problems(self) -> Iterator[FieldError]:
    """Yields what is wrong with a field, or between fields."""
    if self.shard is not None:
      parse_shard(self.shard)
    if self.rerun and self.keep:
      yield FieldError(
        'rerun', self.rerun, 'is the opposite of --keep: drop one'
      )
    if self.merge is None:
      return
    if self.rerun:
      yield FieldError(
        'rerun', self.rerun, 'has no effect beside --merge: drop it'
      )
    try:
      names = shlex.split(self.merge)
    except ValueError as e:  # a quote that does not end
      yield FieldError('merge', self.merge, str(e))
      return
    if not names:
      yield FieldError('merge', self.merge, 'must name directories')
    if self.shard is not None:
      yield FieldError(
        'shard', self.shard, 'has no effect beside --merge: drop it'
      )
