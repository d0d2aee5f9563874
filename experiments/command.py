"""The flags of a run that are not part of any trial's configuration."""

import dataclasses

from model.field import Record, field

# Flags that may be given several times, and what they say.
MANY = {
  'ablate': '"FIELD=a [FIELD=b ...]": one row against the base (repeatable).',
  'sweep': '"FIELD=a b c": one axis (repeatable: product).',
}


@dataclasses.dataclass(frozen=True)
class Command(Record):
  """Run: which trials, where."""

  experiment: str = field('ladder', 'Which experiment; --list shows them.')
  seeds: int | None = field(
    None, "Seeds of each row; none is the experiment's own number.", min=1
  )
  workdir: str | None = field(
    None,
    'Where results lie; none is runs/EXPERIMENT-HASH.  Repeating a '
    'command resumes.',
  )
  only: str | None = field(None, 'Run this row alone.')
  smoke: bool = field(False, 'Tiny sizes, seconds; never for numbers.')
  list: bool = field(
    False, 'List experiments, tasks and variants; run nothing.'
  )
  plan: bool = field(
    False, 'Say what would run and what it costs; run nothing.'
  )
  evaluate: str | None = field(
    None, 'WORKDIR:TRIAL to evaluate on --task; trains nothing.'
  )
