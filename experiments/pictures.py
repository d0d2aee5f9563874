"""What a report shows of single trials: curves, attention maps, samples."""

from collections.abc import Mapping, Sequence

import numpy as np

from experiments.damage import read_sample
from experiments.inputs import Planned
from experiments.report import AttentionMaps, Sample
from experiments.terminal import Terminal
from train.files import Fault, Lines
from train.look import FILE as MAPS_FILE
from train.look import MAPS, SOURCE, TEXT, read_maps
from train.records import FIGURES, read_figures, read_own_end
from train.sample import FILE
from train.strict import Damaged
from train.vocabulary import Vocabulary


def figures_of(
  trials: Sequence[Planned], terminal: Terminal
) -> dict[str, Lines]:
  """Returns the lines of metrics.jsonl of each trial; says what is damaged."""
  out = {}
  for planned in trials:
    path = planned.trial.directory / FIGURES
    found = read_figures(path)
    for line in found.said(path):
      terminal.warn(f'{line}: curves have a gap there')
    out[planned.trial.id] = _with_lost(planned, found, terminal)
  return out


def _with_lost(planned: Planned, found: Lines, terminal: Terminal) -> Lines:
  """Returns the lines of a trial, with a fault for each that is gone.

  No checksum of a line is wrong where a line is gone: the end of the trial
  knows how many there were.
  """
  try:
    end = read_own_end(planned.trial.directory)
  except Damaged:
    end = None
  if end is None or end.figures is None:
    return found
  lost = end.figures - len(found.values) - len(found.faults)
  path = planned.trial.directory / FIGURES
  if lost > 0:
    terminal.warn(f'{path}: {lost} lines are gone: curves have a gap there')
  if lost < 0:
    terminal.warn(f'{path}: has {-lost} more lines than were written')
  gone = [Fault(0, 'is gone', b'')] * lost
  return found._replace(faults=[*found.faults, *gone])


def gaps(figures: Mapping[str, Lines], trials: Sequence[Planned]) -> str:
  """Returns which curves lack lines of metrics.jsonl, damaged or gone."""
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
  figures: Mapping[str, Lines], trials: Sequence[Planned], name: str
) -> dict[str, dict[int, list[tuple[int, float]]]]:
  """Returns a figure over the steps, by row and seed."""
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
  trials: Sequence[Planned], terminal: Terminal
) -> dict[str, dict[str, AttentionMaps]]:
  """Returns the maps of each row's first seed that has them, by their kind."""
  out: dict[str, dict[str, AttentionMaps]] = {}
  for planned in trials:
    path = planned.trial.directory / MAPS_FILE
    if planned.row not in out and path.exists():
      vocabulary = planned.trial.data.vocabulary
      try:
        saved = read_maps(path, vocabulary.size)
      except Damaged as e:
        terminal.warn(f'{e.fault}: left out of the report')
        continue
      out[planned.row] = _maps(saved, vocabulary)
  return out


def _maps(
  saved: Mapping[str, np.ndarray], vocabulary: Vocabulary
) -> dict[str, AttentionMaps]:
  """Returns what a file of maps holds, its tokens as a reader sees them."""
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


def samples(trials: Sequence[Planned], terminal: Terminal) -> dict[str, Sample]:
  """Returns what each row's first seed that has written a text wrote."""
  out: dict[str, Sample] = {}
  for planned in trials:
    path = planned.trial.directory / FILE
    if planned.row not in out and path.exists():
      try:
        out[planned.row] = read_sample(planned.trial.directory)
      except Damaged as e:
        terminal.warn(f'{e.fault}: left out of the report')
  return out
