"""Writes RESULTS.md from the stored results: nothing in it is by hand."""

import pathlib
from collections.abc import Mapping, Sequence

from experiments.claims.metrics import Measurements
from experiments.claims.published import ClaimVerdict
from experiments.experiment import Experiment
from experiments.messages import formats
from experiments.results import claim_results as claims
from experiments.results import stored
from experiments.results.stored import StoredResult, StoredRow
from experiments.table import claim_lines
from train.files.durable import write_atomically

PAGE = 'RESULTS.md'
_HEAD = """# Results

What was published, and what came out here. `python launch.py --digest` writes
this page from `results/`, by the rules that the experiments state; nothing in
it is written by hand. *Direction only* is the most that a claim reaches at a
reduced scale. `--experiment=NAME --result=NAME` keeps a result.

| experiment | figure | published | here | seeds | accepted | verdict |
|:---|:---|---:|---:|---:|:---|:---|
"""


def write(experiments: Mapping[str, Experiment]) -> list[str]:
  """Writes RESULTS.md to the current directory.

  Returns:
    A warning for each result that is stale.

  Raises:
    DamagedFile: a result cannot be read.
  """
  results = read_all(pathlib.Path())
  write_atomically(pathlib.Path(PAGE), page(results, experiments))
  return [
    f'{stored.FOLDER}/{name}.json is stale: {why}'
    for name, result in results.items()
    if (why := stored.stale_reason(result, experiments))
  ]


def read_all(folder: pathlib.Path) -> dict[str, StoredResult]:
  """Reads the stored results below a folder, by name."""
  found = sorted((folder / stored.FOLDER).glob('*.json'))
  return {path.stem: stored.read(path) for path in found}


def page(
  results: Mapping[str, StoredResult], experiments: Mapping[str, Experiment]
) -> str:
  """Returns the text of RESULTS.md.

  Args:
    results: stored results by name.
    experiments: all experiments; those without a result are listed as not run.
  """
  rows, parts = [], []
  for name, result in results.items():
    experiment = experiments.get(result.experiment)
    if why := stored.stale_reason(result, experiments):
      rows.append([name, '', '', '', '', '', f'stale: {why}'])
      continue
    assert experiment is not None
    found = result.measurements
    judged = claims.published_verdicts(
      experiment, stored.configs(result.rows), found
    )
    rows += [_cells(name, own) for own in judged]
    parts.append(_section(name, result, experiment, judged))
  kept = {result.experiment for result in results.values()}
  for name, experiment in experiments.items():
    if name not in kept:
      nothing = claims.published_verdicts(experiment, {}, Measurements({}))
      rows += [_cells(name, own) for own in nothing]
  lines = [
    f'| {" | ".join(map(formats.escape_markdown, cells))} |' for cells in rows
  ]
  return _HEAD + '\n'.join(lines) + '\n' + ''.join(parts)


def _cells(name: str, judged: ClaimVerdict) -> list[str]:
  """Returns the cells of a published value, in the order of the header."""
  value = judged.value
  return [
    name,
    f'{judged.row}, {formats.title(judged.metric)}',
    formats.MISSING
    if value is None
    else claim_lines.format_claim_number(value),
    claim_lines.format_measured(judged),
    str(judged.seeds or formats.MISSING),
    judged.accepts,
    judged.verdict,
  ]


def _section(
  name: str,
  result: StoredResult,
  experiment: Experiment,
  judged: Sequence[ClaimVerdict],
) -> str:
  """Returns the section of a result: verdicts, controls, command, machine."""
  lines = ['', f'## {formats.escape_markdown(name)}', '']
  lines += [
    formats.escape_markdown(f'{experiment.title} ({experiment.citation})'),
    '',
  ]
  for own in (claim_lines.claim_text(one, 'published') for one in judged):
    lines.append(_item(own))
  numbers = {row: own.expected for row, own in result.controls.items()}
  configs = stored.configs(result.controls)
  for part in experiment.parts:
    found = Measurements(part.own(result.measurements.rows))
    own = part.own(configs), part.own(numbers)
    before = 'control: ' if part.block is None else f'{part.block}, control: '
    for one in claims.control_verdicts(part, *own, found):
      lines.append(_item(claim_lines.claim_text(one, 'expected'), before))
  lines += ['', '```', result.command, '```', '']
  lines += [f'- {formats.escape_markdown(x)}' for x in _circumstances(result)]
  return '\n'.join(lines) + '\n'


def _item(own: claim_lines.ClaimText, before: str = '') -> str:
  """Returns a published value or a control as a list item."""
  more = '; '.join(filter(None, (own.accepts, own.why)))
  return (
    f'- {before}{formats.escape_markdown(own.head)}: **{own.verdict}**; '
    f'{formats.escape_markdown(more)}'
  )


def _circumstances(result: StoredResult) -> list[str]:
  """Returns the devices, versions, data and times of a result."""
  packages = result.environment.get('packages', {})
  versions = [f'{n} {packages[n]}' for n in ('jax', 'flax') if n in packages]
  devices = ', '.join(result.environment.get('devices', ()))
  git = result.environment.get('git', {})
  commit = git.get('commit', 'unknown')[:12]
  changed = ' with changes' if git.get('changed') else ''
  times = [
    f'{row} {_run_time(own)}'
    for row, own in (*result.rows.items(), *result.controls.items())
  ]
  data = [
    f'data: {text}' + ('' if x[:12] in text else f', sha256 {x[:12]}')
    for text, x in result.data.items()
  ]
  return [
    f'{devices}; {", ".join(versions)}; commit {commit}{changed}',
    *data,
    f'seconds of all seeds, by row: {", ".join(times)}',
  ]


def _run_time(row: StoredRow) -> str:
  """Returns the time of all trials of a row."""
  return formats.format_seconds(sum(t.seconds for t in row.trials.values()))
