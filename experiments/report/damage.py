"""Finds damaged files of a finished trial that can be written again.

All its files, except the metrics during training, follow from the last
checkpoint.  So such a trial is resumed there, and finishes at once.
"""

import pathlib

from experiments.report.render import Sample
from train.attention_maps import ATTENTION_FILE as MAPS
from train.attention_maps import read_maps
from train.files.durable import read_json
from train.files.records import (
  AGAIN,
  CHECKPOINT_FOLDER,
  artifact_digests,
  read_end_file,
  read_trial_start,
)
from train.files.strict import DamagedFile
from train.sample import SAMPLE_FILE as SAMPLE
from train.text.store import VOCABULARY_FILE as VOCABULARY
from train.text.store import read_vocabulary
from train.text.vocabulary import Vocabulary


def damage(directory: pathlib.Path, vocabulary: Vocabulary) -> str | None:
  """Returns the first fault in the files of a finished trial, or None.

  Args:
    directory: folder of the trial; if it does not exist, there is no fault.
    vocabulary: vocabulary of its data.
  """
  if not directory.is_dir():
    return None
  try:
    begun, end = read_trial_start(directory), read_end_file(directory)
    read_vocabulary(directory / VOCABULARY, begun.vocabulary.digest)
    if (directory / SAMPLE).exists():
      read_sample(directory)
    if (directory / MAPS).exists():
      read_maps(directory / MAPS, vocabulary.size)
  except DamagedFile as e:
    return e.fault
  if end is not None and end.files is not None:
    found = artifact_digests(directory)
    for name, digest in end.files.items():
      if found.get(name) != digest:
        how = 'is not as it was written' if name in found else 'is gone'
        return f'{directory / name}: {how}'
  # Users may delete all checkpoints to save space; a single missing one is a
  # fault.
  folder = directory / CHECKPOINT_FOLDER
  if end is None or end.step is None or not folder.is_dir():
    return None
  steps = [int(p.name) for p in folder.iterdir() if p.name.isdecimal()]
  # A paused trial may have been resumed since, and keeps only recent ones.
  on = end.status == 'paused' and max(steps, default=0) > end.step
  if end.step not in steps and not on:
    return f'{directory}: its last checkpoint, of step {end.step}, is gone'
  return None


def has_ended(directory: pathlib.Path) -> bool:
  """Returns whether the folder of a trial says that it ended for good."""
  try:
    end = read_end_file(directory)
  except DamagedFile:
    return False
  return end is not None and end.is_final


def read_sample(directory: pathlib.Path) -> Sample:
  """Reads the text that a trial generated.

  Raises:
    DamagedFile: the file is damaged.
  """
  return read_json(directory / SAMPLE, Sample, AGAIN)
