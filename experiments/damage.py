"""What of a trial that ended is damaged, and can be made again.

All of it but the figures on the way follows from the last checkpoint, so that
such a trial is taken up again there, and ends at once.
"""

import pathlib

from experiments.report import Sample
from train.files import read_json
from train.look import FILE as MAPS
from train.look import read_maps
from train.records import (
  AGAIN,
  FOLDER,
  digests,
  read_begun,
  read_own_end,
)
from train.sample import FILE as SAMPLE
from train.store import FILE as VOCABULARY
from train.store import read_vocabulary
from train.strict import Damaged
from train.vocabulary import Vocabulary


def damage(directory: pathlib.Path, vocabulary: Vocabulary) -> str | None:
  """Returns what is wrong with the files of a trial that ended, if anything.

  Args:
    directory: of the trial; one that is not there has nothing wrong.
    vocabulary: of its data.
  """
  if not directory.is_dir():
    return None
  try:
    begun, end = read_begun(directory), read_own_end(directory)
    read_vocabulary(directory / VOCABULARY, begun.vocabulary.digest)
    if (directory / SAMPLE).exists():
      read_sample(directory)
    if (directory / MAPS).exists():
      read_maps(directory / MAPS, vocabulary.size)
  except Damaged as e:
    return e.fault
  if end is not None and end.files is not None:
    found = digests(directory)
    for name, digest in end.files.items():
      if found.get(name) != digest:
        how = 'is not as it was written' if name in found else 'is gone'
        return f'{directory / name}: {how}'
  # Who removes all checkpoints wants their room; one that lacks is a loss.
  folder = directory / FOLDER
  if end is None or end.step is None or not folder.is_dir():
    return None
  steps = [int(p.name) for p in folder.iterdir() if p.name.isdecimal()]
  # One that paused may have gone on since, and keeps its last ones only.
  on = end.status == 'paused' and max(steps, default=0) > end.step
  if end.step not in steps and not on:
    return f'{directory}: its last checkpoint, of step {end.step}, is gone'
  return None


def has_ended(directory: pathlib.Path) -> bool:
  """Returns whether a trial's own folder says that it ended, well or not."""
  try:
    end = read_own_end(directory)
  except Damaged:
    return False
  return end is not None and end.is_final


def read_sample(directory: pathlib.Path) -> Sample:
  """Returns the text that a trial wrote.

  Raises:
    Damaged: it is not as it was written.
  """
  return read_json(directory / SAMPLE, Sample, AGAIN)
