"""Reads what a report shows of trials: curves, attention maps, samples."""

from collections.abc import Mapping, Sequence

import numpy as np

from experiments.messages.terminal import Terminal
from experiments.planning.inputs import PlannedTrial
from experiments.report.damage import read_sample
from experiments.report.render import AttentionMaps, Sample
from train.attention_maps import ATTENTION_FILE as MAPS_FILE
from train.attention_maps import MAPS, SOURCE, TEXT, read_maps
from train.files.durable import DamagedLine, JsonLines
from train.files.records import METRICS_FILE, read_end_file, read_metrics
from train.files.strict import DamagedFile
from train.sample import SAMPLE_FILE
from train.text.vocabulary import Vocabulary


def figures_of(
  trials: Sequence[PlannedTrial], terminal: Terminal
) -> dict[str, JsonLines]:
  """Reads metrics.jsonl of each trial; warns of damaged lines."""
  out = {}
  for planned in trials:
    path = planned.trial.directory / METRICS_FILE
    found = read_metrics(path)
    for line in found.said(path):
      terminal.warn(f'{line}: curves have a gap there')
    out[planned.trial.id] = _with_missing_lines(planned, found, terminal)
  return out


def _with_missing_lines(
  planned: PlannedTrial, found: JsonLines, terminal: Terminal
) -> JsonLines:
  """Returns the lines of a trial, with a fault for each missing line.

  A checksum cannot reveal that a whole line is missing, but the end record of
  the trial has the number of lines.
  """
  try:
    end = read_end_file(planned.trial.directory)
  except DamagedFile:
    end = None
  if end is None or end.figures is None:
    return found
  lost = end.figures - len(found.values) - len(found.faults)
  path = planned.trial.directory / METRICS_FILE
  if lost > 0:
    terminal.warn(f'{path}: {lost} lines are gone: curves have a gap there')
  if lost < 0:
    terminal.warn(f'{path}: has {-lost} more lines than were written')
  gone = [DamagedLine(0, 'is gone', b'')] * lost
  return found._replace(faults=[*found.faults, *gone])


def gaps(
  figures: Mapping[str, JsonLines], trials: Sequence[PlannedTrial]
) -> str:
  """Returns a sentence on the curves that lack lines of metrics.jsonl."""
  found = [
    f'{p.row}, seed {p.seed}: {count}'
    for p in trials
    for count in [len(figures[p.trial.id].faults)]
    if count
  ]
  if not found:
    return ''
  return f' Curves have gaps, of damaged or lost lines ({"; ".join(found)}).'


def curves(
  figures: Mapping[str, JsonLines], trials: Sequence[PlannedTrial], name: str
) -> dict[str, dict[int, list[tuple[int, float]]]]:
  """Returns a metric as (step, value) points, by row and seed."""
  out: dict[str, dict[int, list[tuple[int, float]]]] = {}
  for planned in trials:
    points = [
      (line['step'], line[name])
      for line in figures[planned.trial.id].values
      if name in line and line[name] is not None
    ]
    if points:
      out.setdefault(planned.row, {})[planned.seed] = points
  return out


def attention(
  trials: Sequence[PlannedTrial], terminal: Terminal
) -> dict[str, dict[str, AttentionMaps]]:
  """Returns the attention maps of each row's first seed that has some."""
  out: dict[str, dict[str, AttentionMaps]] = {}
  for planned in trials:
    path = planned.trial.directory / MAPS_FILE
    if planned.row not in out and path.exists():
      vocabulary = planned.trial.data.vocabulary
      try:
        saved = read_maps(path, vocabulary.size)
      except DamagedFile as e:
        terminal.warn(f'{e.fault}: left out of the report')
        continue
      out[planned.row] = _maps(saved, vocabulary)
  return out


def _maps(
  saved: Mapping[str, np.ndarray], vocabulary: Vocabulary
) -> dict[str, AttentionMaps]:
  """Returns the maps of a file by kind, with readable tokens."""
  symbols = {
    name: vocabulary.symbols(saved[name])
    for name in (TEXT, SOURCE)
    if name in saved
  }
  return {
    f'{own.stack} {own.what}' if SOURCE in saved else own.what: AttentionMaps(
      symbols[own.queries], symbols[own.keys], saved[own.weights]
    )
    for own in MAPS
    if own.weights in saved
  }


def samples(
  trials: Sequence[PlannedTrial], terminal: Terminal
) -> dict[str, Sample]:
  """Returns the generated text of each row's first seed that has one."""
  out: dict[str, Sample] = {}
  for planned in trials:
    path = planned.trial.directory / SAMPLE_FILE
    if planned.row not in out and path.exists():
      try:
        out[planned.row] = read_sample(planned.trial.directory)
      except DamagedFile as e:
        terminal.warn(f'{e.fault}: left out of the report')
  return out
