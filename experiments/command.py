"""The flags of a run that are not part of any trial's configuration."""

import dataclasses
import shlex
from collections.abc import Iterator
from typing import Literal

from experiments.shards import parse_shard
from model.core.field import FieldError, Record, field
from model.core.limits import COUNT, PLANNED, REAL, Limit
from train.core.metric import COMMON

# Flags that may be repeated, and their help texts.
MANY = {
  'ablate': '"FIELD=a [FIELD=b ...]": one row against the base (repeatable).',
  'sweep': '"FIELD=a b c", "FIELD=log(a,b)": one axis of a grid (repeatable: '
  'product).',
  'zip': '"FIELD=a b; FIELD=x y": one axis that moves both (repeatable).',
  'tune': '"FIELD=a b c": each row uses its own best value of these, selected '
  'on other seeds than the verdict (repeatable: product).',
}

# The only flag of a process that trains for another one, followed by its work.
WORKER_FLAG = '--internal_worker'
PROMPT = 'Text that --generate continues (repeatable); default: a newline.'


@dataclasses.dataclass(frozen=True)
class Command(Record):
  """Run: which trials to train, and where."""

  experiment: str = field('ladder', 'Name of the experiment; see --list.')
  seeds: int | None = field(
    None,
    "Number of seeds per row; `none`: the experiment's own number.",
    min=1,
    max=PLANNED,
  )
  workdir: str | None = field(
    None,
    'Directory of the results; `none`: runs/EXPERIMENT-HASH.  Repeating a '
    'command resumes it.',
  )
  workers: int = field(
    1,
    'Number of processes that share the trials, on the cores of this machine.',
    min=1,
    max=Limit(1024, 'each is a process'),
  )
  shard: str | None = field(
    None,
    'I/N: run the I-th of N parts of the trials (I counts from 1), one part '
    'per machine; --merge joins them.',
  )
  merge: str | None = field(
    None, '"DIR DIR ...": take the trials of these directories; trains nothing.'
  )
  rerun: bool = field(
    False,
    'Retrain the trials that ran with other code than the present one; their '
    'old files move to WORKDIR/replaced.',
  )
  keep: bool = field(
    False,
    'Keep the trials that ran with other code than the present one; the table '
    'marks them.',
  )
  only: str | None = field(None, 'Run only this row.')
  block: str | None = field(
    None, 'Run only this block of the experiment; `none` runs all blocks.'
  )
  controls: bool = field(
    True, "Run the experiment's controls too: rows whose outcome is known."
  )
  result: str | None = field(
    None, 'Save the metrics to results/NAME.json, which --digest reads.'
  )
  digest: bool = field(
    False, 'Write RESULTS.md from results/*.json; trains nothing.'
  )
  ablate_from: str | None = field(
    None,
    'A row, or "FIELD=a FIELD=b": leave one out, that is this preset, and the '
    'preset without each of its choices.',
  )
  add_one: str | None = field(
    None,
    'A row, or "FIELD=a FIELD=b": the base, and the base with each of these '
    'choices alone.',
  )
  trials: int | None = field(
    None,
    'Number of points to draw from --sweep ranges such as log(1e-4,1e-2).',
    min=1,
    max=PLANNED,
  )
  search_seed: int = field(
    0,
    'Random seed of the points that --trials draws.',
    min=0,
    max=Limit(2**64 - 1, 'the generator takes 64 bits'),
  )
  tune_seeds: int | None = field(
    None,
    'Number of seeds that --tune and --halving select on; `none`: 2.',
    min=1,
    max=PLANNED,
  )
  halving: int | None = field(
    None,
    'Successive halving: at each rung the best 1/N of the rows go on, N times '
    'as far; `none` trains all rows to the end.',
    min=2,
    max=COUNT,
  )
  match: Literal['params', 'flops', 'none'] = field(
    'none', 'Adjust the widths of each row until it equals the base in:'
  )
  margin: float = field(
    0.01,
    "Largest difference that counts as equivalent, as a share of the base's "
    '--metric.',
    min=0.0,
    max=REAL,
  )
  metric: str | None = field(
    None,
    'Metric that verdicts, --tune and --halving compare: '
    f'{", ".join(figure.name for figure in COMMON)}, or one that the task '
    "adds, such as bleu or sacrebleu (see --list); `none`: the experiment's.",
  )
  smoke: bool = field(
    False, 'Run tiny sizes in seconds, to try a command; numbers mean nothing.'
  )
  list: bool = field(
    False, 'List experiments, tasks and variants; run nothing.'
  )
  plan: bool = field(
    False, 'Print what would run and what it would cost; run nothing.'
  )
  generate: str | None = field(
    None, 'WORKDIR:TRIAL that continues each --prompt; trains nothing.'
  )
  evaluate: str | None = field(
    None, 'WORKDIR:TRIAL to evaluate on --task; trains nothing.'
  )
  at: str = field(
    'last',
    'Checkpoint to --evaluate: last, a step, or all that were kept, one line '
    'each (see --keep_every).',
  )

  def problems(self) -> Iterator[FieldError]:
    """Yields the error of each invalid field or combination of fields."""
    if self.shard is not None:
      parse_shard(self.shard)
    if self.rerun and self.keep:
      yield FieldError(
        'rerun', self.rerun, 'is the opposite of --keep: drop one'
      )
    if self.at not in ('last', 'all') and not self.at.isdecimal():
      yield FieldError('at', self.at, 'must be last, all or a step')
    if self.at != 'last' and self.evaluate is None:
      yield FieldError(
        'at', self.at, 'has no effect without --evaluate=WORKDIR:TRIAL: drop it'
      )
    if self.merge is None:
      return
    if self.rerun:
      yield FieldError(
        'rerun', self.rerun, 'has no effect beside --merge: drop it'
      )
    try:
      names = shlex.split(self.merge)
    except ValueError as e:  # an unclosed quote
      yield FieldError('merge', self.merge, str(e))
      return
    if not names:
      yield FieldError('merge', self.merge, 'must name directories')
    if self.shard is not None:
      yield FieldError(
        'shard', self.shard, 'has no effect beside --merge: drop it'
      )
