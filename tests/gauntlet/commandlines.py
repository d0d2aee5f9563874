"""Runs made-up command lines, and compares what was typed with what was done.

A refusal is one line, exit code 2, and leaves nothing.  Of what is accepted
each flag stands in the configuration, and the parameters that are planned are
those that are made; of a short run also those that are recorded and loaded, and
what an evaluation says is what the record says.
"""

import json
import math
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import jax

from experiments.cli import listing
from experiments.planning.plan import Plan
from faults import damage
from gauntlet.outcome import Attempt, Outcome
from gauntlet.typed import Line, draw_line, write_data
from helpers.commands import initial_size, trials
from model.core.field import unparse, variant_list
from train.config.config import Config
from train.flags.schema import flag_specs, parse_flag, to_flags
from train.inference.load import load

RUN = 0.04  # of the command lines, this share is run for some steps
FRESH = 50  # attempts after which compiled programs are let go


def attempts(home: Path) -> Attempt:
  """Returns the attempts: one command line each."""
  write_data(home)
  count = [0]

  def attempt(seed: int) -> Outcome:
    count[0] += 1
    if count[0] % FRESH == 0:
      jax.clear_caches()
    draw = random.Random(f'commands:{seed}')
    line = draw_line(draw, home, draw.random() < RUN)
    return tried(line, home / 'command')

  return attempt


def tried(line: Line, workdir: Path) -> Outcome:
  """Returns what a command line came to, in a folder that is not there."""
  shutil.rmtree(workdir, ignore_errors=True)
  plans: list[Plan] = []
  show = listing.show_plan

  def spy(plan: Plan) -> None:
    plans.append(plan)
    show(plan)

  with mock.patch.object(listing, 'show_plan', spy):
    found = damage.launched(*line.words, f'--workdir={workdir}')
  shown = ' '.join(json.dumps(word, ensure_ascii=False) for word in line.words)
  if found.code == 2:
    wrong = [*_refused(found, workdir)]
    kind = 'traceback' if wrong else 'found'
    said = '; '.join([*wrong, found.errors.strip()[-300:]])
    return Outcome(kind, f'{shown}: {said}')
  if found.code != 0 or 'Traceback' in found.errors:
    said = (found.errors or found.said).strip()[-300:]
    return Outcome('traceback', f'{shown}: exit {found.code}: {said}')
  wrong = [x for plan in plans for x in _planned(line, plan, found.said)]
  if not line.smoke:
    wrong += [] if plans else ['planned nothing']
    wrong += ['--plan left a folder'] if workdir.exists() else []
  elif not workdir.exists():
    wrong.append('ran nothing')
  else:
    wrong = [*_ran(line, workdir)]
  kind = 'silent' if wrong else 'harmless'
  return Outcome(kind, f'{shown}: {"; ".join(wrong)}')


def _refused(found: damage.Reading, workdir: Path) -> Iterator[str]:
  """Yields what is wrong with a refusal."""
  if len(found.errors.splitlines()) != 1:
    yield f'{len(found.errors.splitlines())} lines on stderr'
  if workdir.exists():
    yield f'{sorted(p.name for p in workdir.iterdir())} were created'


def _differing(line: Line, config: Config) -> Iterator[str]:
  """Yields which flags are not in a configuration as they were typed."""
  flags = to_flags(config)
  for name, text in line.typed.items():
    if flags.get(name) != unparsed(name, text):
      yield f'--{name}={text} became {flags.get(name, "nothing")}'


def _planned(line: Line, plan: Plan, out: str) -> Iterator[str]:
  """Yields what a plan does not do as it was typed, or will not do so."""
  yield from _differing(line, plan.base)
  if any(p.point for p in plan.trials):
    return  # the size may hang on what is selected
  said = re.findall(r'(?m)^\S.*?  +([\d,]+)  +[\d,]+  ', out)
  made = {p.row: p for p in (*plan.trials, *plan.controls)}
  rows = [row.name for row in plan.rows]
  rows += dict.fromkeys(p.row for p in plan.controls)
  sizes = [f'{initial_size(made[row]):,}' for row in rows]
  if said != sizes:
    yield f'planned parameters {said}, made {sizes}'


def unparsed(name: str, text: str) -> str:
  """Returns a value of a flag as the program writes it: 0.1 for 1e-1."""
  hint = flag_specs(Config)[name].hint
  value = parse_flag(name, hint, text)
  if isinstance(value, str):
    return value
  return ','.join(value) if variant_list(hint) else unparse(value)


def _ran(line: Line, workdir: Path) -> Iterator[str]:
  """Yields what a run recorded that is not what was typed, or not so."""
  lines = set((workdir / 'flags.txt').read_text().splitlines())
  records = trials(workdir)
  base = [r for r in records if r['row'] == 'base' and r['status'] == 'ok']
  for name, text in line.typed.items():
    text = unparsed(name, text)
    if f'--{name}={text}' not in lines:
      yield f'--{name}={text} is not in flags.txt'
  replayed = damage.launched(
    f'--flagfile={workdir / "flags.txt"}', f'--workdir={workdir}'
  )
  if replayed.code != 0 or len(trials(workdir)) != len(records):
    yield f'flags.txt does not replay it: {replayed.errors[-200:]}'
  for record in base[:1]:
    where = record['trial']
    size = sum(
      math.prod(x.shape) for x in jax.tree.leaves(load(workdir, where).params)
    )
    if size != record['parameters']:
      yield f'{size} parameters loaded, {record["parameters"]} recorded'
    again = damage.evaluated(where)(workdir)
    yield from _other_figures(record, again)


def _other_figures(
  record: dict[str, object], again: damage.Reading
) -> Iterator[str]:
  """Yields figures of an evaluation that are not those of the record."""
  if again.code != 0:
    yield f'--evaluate: {again.errors[-200:]}'
    return
  figures = json.loads(again.said)
  metrics = record['metrics']
  assert isinstance(metrics, dict)
  for name in figures.keys() & metrics.keys():
    if figures[name] != metrics[name]:
      yield f'{name} {figures[name]} evaluated, {metrics[name]} recorded'
