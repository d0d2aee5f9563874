"""The walk of docs/architecture.md is what a step of training runs."""

import json
import re
import subprocess
import sys
from pathlib import Path

from helpers.processes import write_text

ROOT = Path(__file__).resolve().parents[2]
MAX_STOPS, MAX_LINES = 12, 1800  # so that the walk can be read in an hour
# Prints the files on the stack where a step is traced first, and those that it
# calls: of this project, in the order of the calls.
TRACE = """
import json, os, sys
from absl import flags
root, *words = sys.argv[1:]
sys.path.insert(0, root)
from experiments.cli.main import main
HOUSE = 'model', 'train', 'experiments'
step = os.path.join(root, 'train/programs/step.py')
stack, found, called, depth = [], [], {}, [0]

def path(frame):
  name = os.path.relpath(frame.f_code.co_filename, root)
  return name if name.split(os.sep)[0] in HOUSE else ''

def note(frame, event, _):
  name = frame.f_code.co_filename
  is_step = name == step and frame.f_code.co_name == 'train_step'
  if event == 'call':
    if is_step:
      depth[0] += 1
      above = frame
      while above and not found:
        stack.insert(0, path(above))
        above = above.f_back
      found.append(True)
    elif depth[0]:
      called[path(frame)] = None
  elif event == 'return' and is_step:
    depth[0] -= 1
    if not depth[0]:  # What follows is no part of the step.
      sys.setprofile(None)
      print(json.dumps([list(dict.fromkeys(stack)), list(called)]))
      sys.stdout.flush()
      os._exit(0)

sys.setprofile(note)
main(['launch.py', *words], flags.FlagValues(), '')
"""


def ran(words: list[str]) -> tuple[list[str], list[str]]:
  """Returns the files that lead to a step, and those that it calls."""
  done = subprocess.run(
    [sys.executable, '-c', TRACE, str(ROOT), *words],
    capture_output=True,
    text=True,
    check=True,
  )
  found: list[list[str]] = json.loads(done.stdout.splitlines()[-1])
  stack, called = ([name for name in names if name] for names in found)
  return stack, called


def test_the_walk_is_what_a_step_runs(tmp_path: Path) -> None:
  page = (ROOT / 'docs/architecture.md').read_text()
  _, _, rest = page.partition('## The walk')
  walk, _, named = rest.partition('## Where')[0].partition('On the way')
  stops = re.findall(r'^\| \d+ \| `([\w/.]+)`', walk, re.M)
  lines = sum(len((ROOT / stop).read_text().splitlines()) for stop in stops)
  assert len(stops) <= MAX_STOPS
  assert lines <= MAX_LINES
  others = re.findall(r'`((?:model|train|experiments)/[\w/]+\.py)`', named)

  text = write_text(tmp_path)
  words = '--experiment=train --num_layers=1 --d_model=16 --num_heads=2'
  words += ' --seq_len=8 --batch_size=2 --steps=2 --eval_every=2 --seeds=1'
  words += f' --devices=1 --task.path={text} --workdir={tmp_path / "run"}'
  stack, called = ran(words.split())
  # The program that starts it is `launch.py`, here the test.
  assert ['launch.py', *stack] == stops[: len(stack) + 1]
  assert {*stops[len(stack) + 1 :], *others} == {*called} - {*stack}
