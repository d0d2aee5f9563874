"""Short trials that are trained side by side."""

import functools
import pathlib
from collections.abc import Sequence

import jax
import numpy as np

from helpers import alone
from spec.tolerance import tolerance
from train import loop
from train.config.config import Config
from train.devices.parallel import Layout, parse_layout
from train.flags.schema import override
from train.tasks.base import Data
from train.text.tokenizer import CharTokenizer
from train.trial import Options, Result, Trial

TINY = {
  'd_model': '16',
  'num_heads': '2',
  'seq_len': '16',
  'batch_size': '4',
  'steps': '9',
  'eval_every': '4',
  'warmup_steps': '2',
  'learning_rate': '1e-2',
  # XLA optimises layers one after another otherwise for several devices.
  'scan_layers': 'true',
}
EXACT = ('devices:2', 'map:2', 'devices:2,map:2')
LAYOUTS = (*EXACT, 'vmap:2', 'devices:2,vmap:2')


@functools.cache
def data() -> Data:
  """Returns a short text."""
  text = 'the cat sat on the mat and the dog saw the cat. ' * 40
  vocabulary = CharTokenizer().train(lambda: [text])
  ids = vocabulary.encode(text)
  return Data(
    {'train': ids[:1500], 'validation': ids[1500:]}, vocabulary, '', ''
  )


def trials(
  folder: pathlib.Path, changes: Sequence[dict[str, str]]
) -> list[Trial]:
  """Returns a trial for each change, in directories of their own."""
  return [
    Trial(
      str(n), override(Config(), TINY | own), folder / 'runs' / str(n), data()
    )
    for n, own in enumerate(changes)
  ]


def layout_of(text: str) -> Layout:
  """Returns a layout over the virtual devices of the tests."""
  return parse_layout(text, jax.local_devices(backend='cpu'))


def run(mine: Sequence[Trial], text: str) -> dict[str, Result]:
  """Trains trials side by side, and returns their results by id."""
  listener = alone.Listener()
  loop.run(iter(mine), Options(log_every=1), layout_of(text), listener)
  return listener.results


def timeless(result: Result) -> Result:
  """Returns a result without what a clock gave."""
  return result._replace(clock={})


def assert_near(result: Result, expected: Result) -> None:
  """Asserts that two results agree to rounding."""
  assert result.steps == expected.steps
  loss, near = (r.metrics['val_loss'] for r in (result, expected))
  assert loss is not None
  assert near is not None
  assert abs(loss - near) < tolerance(np.float32, 16 * 9) * near
