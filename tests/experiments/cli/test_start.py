"""What --help, --list and a refusal import: they are to be quick."""

import json
import subprocess
import sys

import pytest

from helpers.source import ROOT

# Each takes a tenth of a second or more to import.
HEAVY = {
  'flax',
  'optax',
  'orbax',
  'scipy.special',
  'scipy.optimize',
  'sacrebleu',
  'jinja2',
  'PIL',
  'tokenizers',
  'train.loop',
  'model.network',
  'experiments.run',
}
SHOWN = """
import contextlib, io, json, sys
from absl import flags
sys.path.insert(0, sys.argv[1])
from experiments.cli.main import main
with contextlib.redirect_stdout(io.StringIO()):
  code = main(['launch.py', sys.argv[2]], flags.FlagValues(), '')
print(json.dumps([code, sorted(sys.modules)]))
"""


@pytest.mark.parametrize(
  ('word', 'code'), [('--help', 0), ('--num_heads=3', 2)]
)
def test_a_command_that_trains_nothing_imports_little(
  word: str, code: int
) -> None:
  done = subprocess.run(
    [sys.executable, '-c', SHOWN, str(ROOT), word],
    capture_output=True,
    text=True,
    check=True,
  )
  found, modules = json.loads(done.stdout)
  assert found == code
  assert not HEAVY.intersection(modules)
