"""Times 16 trials as a table, one after another, and by a PyTorch peer.

4 seeds x 4 learning rates, 2,000 steps each, of a model of 2 layers and width
64 at 64 characters x 8 a step.  Everything in one sitting, on a machine that
does nothing else:

  python tests/bench/bench_lanes.py                       lanes, and one by one
  python tests/bench/bench_lanes.py --peer=peer_torch.py  and 16 runs of a peer

Prints a line of JSON for each: `seconds` of the whole command, with import and
compilation, and `train_seconds`, those spent in steps; then each of the others
against the first.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
RATES = '1e-3 2e-3 4e-3'  # and that of the base
SHAPE = {'layers': 2, 'heads': 4, 'width': 64, 'length': 64, 'batch': 8}


def table(steps: int, lanes: str | None) -> dict[str, float | str]:
  """Returns what the 16 trials took; none lets the engine choose the lanes."""
  with tempfile.TemporaryDirectory() as folder:
    command = [
      sys.executable,
      str(ROOT / 'launch.py'),
      f'--workdir={folder}/run',
      '--seeds=4',
      f'--sweep=learning_rate={RATES}',
      f'--steps={steps}',
      f'--eval_every={steps}',
      *([] if lanes is None else [f'--lanes={lanes}']),
    ]
    begun = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begun
    if done.returncode:
      raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
    run = pathlib.Path(folder) / 'run'
    lines = (run / 'trials.jsonl').read_text().splitlines()
    trials = [json.loads(line) for line in lines]
    assert len(trials) == 16
    return {
      'what': lanes or 'lanes as chosen',
      'lanes': json.loads((run / 'layout.json').read_text())['lanes'],
      'seconds': round(seconds, 1),
      'train_seconds': round(
        sum(t['clock']['train_seconds'] for t in trials), 1
      ),
    }


def peer(script: str, steps: int) -> dict[str, float | str]:
  """Returns what 16 runs of a PyTorch script took, one after another."""
  shape = [f'--{name}={value}' for name, value in SHAPE.items()]
  begun, training, version = time.perf_counter(), 0.0, ''
  for _ in range(16):
    done = subprocess.run(
      [sys.executable, script, *shape, '--vocab=103', f'--steps={steps}'],
      capture_output=True,
      text=True,
      check=False,
    )
    if done.returncode:
      raise SystemExit(done.stderr[-2000:])
    figures = json.loads(done.stdout)
    training += figures['ms_per_step'] * steps / 1e3
    version = figures['peer']
  return {
    'what': version,
    'lanes': 'none',
    'seconds': round(time.perf_counter() - begun, 1),
    'train_seconds': round(training, 1),
  }


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--peer', help='a script with the flags of SHAPE')
  parser.add_argument('--steps', type=int, default=2000)
  asked = parser.parse_args()
  rows = []
  for lanes in (None, 'shared:1'):
    rows.append(table(asked.steps, lanes))
    print(json.dumps(rows[-1]), flush=True)
  if asked.peer:
    rows.append(peer(asked.peer, asked.steps))
    print(json.dumps(rows[-1]), flush=True)
  for row in rows[1:]:
    whole = float(row['seconds']) / float(rows[0]['seconds'])
    steps = float(row['train_seconds']) / float(rows[0]['train_seconds'])
    print(f'{row["what"]}: {whole:.2f}x the time, {steps:.2f}x in steps')


if __name__ == '__main__':
  main()
