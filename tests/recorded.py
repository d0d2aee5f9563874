"""Runs of every kind, and what they came to: behaviour that must stay.

`python -m tests.recorded [NAME ...]` writes `recorded.json` anew, of the runs
that are named or of all; code that keeps behaviour leaves it as it is.  On a
machine like the one that wrote it all is equal to the last digit;
elsewhere figures are near, since another processor adds in another order.
"""

import contextlib
import hashlib
import importlib.metadata
import io
import json
import os
import pathlib
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'tests')]  # as pytest has it

from helpers import commands  # noqa: E402  # after the path is set
from session.environment import processor  # noqa: E402  # as above

RECORD = pathlib.Path(__file__).with_suffix('.json')
WORDS = ('the', 'a', 'of', 'and', 'to', 'in', 'he', 'she', 'was', 'it', 'had')
KEPT = ('status', 'steps', 'tokens', 'parameters', 'metrics', 'digest')
TINY = (
  '--steps=4',
  '--seq_len=16',
  '--batch_size=2',
  '--d_model=16',
  '--num_heads=2',
  '--eval_examples=4',
  '--eval_every=2',
  '--warmup_steps=1',
)
DECODER = ('--experiment=train', *TINY, '--task.path={text}')
ENCODER = (*DECODER, '--task=mlm', '--model=encoder', '--task.rate=0.3')
CLASSIFIER = (
  '--experiment=train',
  *TINY,
  '--task=classification',
  '--model=classifier',
  '--task.data=tsv',
  '--task.data.train={labels}',
)
TRANSLATION = (
  '--experiment=train',
  *TINY,
  '--task=translation',
  '--model=encoder_decoder',
  '--task.data=tsv',
  '--task.data.train={pairs}',
  '--task.buckets=1',
)


def _ablated(*rows: str) -> tuple[str, ...]:
  """Returns the flags of these rows."""
  return tuple(f'--ablate={row}' for row in rows)


# Rows of one command share its start; each holds choices that interact.
RUNS: dict[str, tuple[str, ...]] = {
  'ladder': ('--experiment=ladder', '--smoke', '--task.path={text}'),
  'nanogpt': ('--experiment=nanogpt', '--smoke', '--controls=false'),
  'multi30k': ('--experiment=multi30k', '--smoke'),
  'translation': ('--experiment=translation', '--smoke'),
  'train': ('--experiment=train', '--smoke', '--task.path={text}'),
  'decoder': (
    *DECODER,
    '--seeds=2',
    *_ablated(
      'position=rope norm=rmsnorm residual=post',
      'projections=mla position=none mask=causal,window mask.window=5',
      'num_kv_heads=1 position=alibi normalizer=sink output=gate',
      'output=differential position=rope projections=shared_kv',
      'output=forget,value_residual position=none scale=logn',
      'normalizer=sparsemax score=l2 position=t5 qk_norm=rms',
      'normalizer=elu position=sinusoidal feedforward=none',
      'backend=chunked position=rope normalizer=softmax1',
      'optimizer=sgd schedule=constant average=ema clip=1',
    ),
  ),
  'lanes': (
    *DECODER,
    '--lanes=vmap:4',
    '--seeds=3',
    '--steps=40',
    '--eval_every=40',
    '--eval_examples=64',
    *_ablated('learning_rate=1e-3', 'learning_rate=1e6', 'clip=0.5'),
  ),
  'judged': (
    *DECODER,
    '--seeds=3',
    '--steps=60',
    '--eval_every=60',
    '--eval_examples=64',
    '--learning_rate=1e-2',
    *_ablated('task.tokenizer=byte', 'mask=prefix', 'norm=none', 'd_model=8'),
  ),
  'tuned': (
    *DECODER,
    '--seeds=2',
    '--tune=learning_rate=1e-3 1e-2',
    *_ablated('position=rope', 'norm=none'),
  ),
  'encoder': (
    *ENCODER,
    *_ablated(
      'position=t5 normalizer=entmax15',
      'score=fixed position=learned output=talking_heads',
      'score=additive mask=window mask.window=4 position=none',
      'microbatches=2 dropout_residual=0.1',
    ),
  ),
  'classifier': (
    *CLASSIFIER,
    *_ablated(
      'model.pooling=mean position=rope',
      'score=synthesizer_dense normalizer=relu2 position=sinusoidal',
      'task.tokenizer=byte label_smoothing=0.1',
    ),
  ),
  'pairs': (
    *TRANSLATION,
    *_ablated(
      'model.cross_attention=false position=t5',
      'projections=shared_qk output=exclusive_self position=rope',
      'normalizer=topk score=dot scale=learned residual=post',
    ),
  ),
}


def write_data(folder: pathlib.Path) -> dict[str, str]:
  """Writes a text, pairs and labelled rows that are always the same.

  Returns:
    Their paths, by the names that `RUNS` has for them.
  """
  rng = np.random.default_rng(0)

  def sentence() -> str:
    return ' '.join(rng.choice(WORDS, rng.integers(3, 9)))

  lines = [sentence() for _ in range(400)]
  texts = {
    'text': '\n'.join(lines),
    'pairs': '\n'.join(f'{x}\t{x.upper()}' for x in lines[:120]),
    'labels': '\n'.join(
      f'{x}\t{"even" if len(x.split()) % 2 else "odd"}' for x in lines[:120]
    ),
  }
  paths = {}
  for name, text in texts.items():
    path = folder / f'{name}.{"txt" if name == "text" else "tsv"}'
    path.write_text(f'{text}\n')
    paths[name] = str(path)
  return paths


def machine() -> str:
  """Names what bits depend on beside code and command, as far as is known."""
  flags = os.environ.get('XLA_FLAGS', '').split()
  cpu = hashlib.sha256(processor().encode()).hexdigest()[:12]
  xla = ' '.join(x for x in flags if 'max_isa' in x)
  versions = (importlib.metadata.version(x) for x in ('jax', 'jaxlib', 'numpy'))
  return ' '.join([cpu, *versions, xla]).strip()


def recorded(name: str) -> dict[str, Any]:
  """Returns what a run comes to: its trials, and what its table says."""
  with _folder() as folder:
    paths = write_data(folder)
    argv = [x.format_map(paths) for x in RUNS[name]]
    workdir = folder / 'run'
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
      code = commands.run(*argv, f'--workdir={workdir}')
    if code:
      raise RuntimeError(f'{name} ended with {code}:\n{said.getvalue()}')
    trials = commands.trials(workdir)
    table = json.loads((workdir / 'table.json').read_text())
  return {
    'trials': {_title(x, argv): {key: x[key] for key in KEPT} for x in trials},
    'rows': {
      row['row']: {k: v for k, v in row.items() if k != 'seconds'}
      for row in table['rows']
    },
  }


def _title(trial: dict[str, Any], argv: list[str]) -> str:
  """Returns what a trial is called here: ids may change.

  A row has several of one seed where the command tries values.
  """
  tried = [x.split('=')[1] for x in argv if x.startswith('--tune=')]
  values = [f'{flag}={trial["config"][flag]}' for flag in tried]
  return ', '.join([trial['row'], f'seed {trial["seed"]}', *values])


@contextlib.contextmanager
def _folder() -> Iterator[pathlib.Path]:
  with tempfile.TemporaryDirectory() as folder:
    yield pathlib.Path(folder)


def main() -> int:
  """Writes the record of the runs that are named, of all if none is."""
  names = sys.argv[1:] or [*RUNS]
  record = json.loads(RECORD.read_text()) if sys.argv[1:] else {}
  record |= {'machine': machine()}
  record |= {name: recorded(name) for name in names}
  RECORD.write_text(json.dumps(record, indent=1, sort_keys=True) + '\n')
  return 0


if __name__ == '__main__':
  sys.exit(main())
