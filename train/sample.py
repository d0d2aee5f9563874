"""A short text that a trial writes at its end, for the report.

It is drawn on the host, token by token, from a program that is compiled anyway,
so that no run waits for a compilation that only this would need.
"""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from model.architecture import Architecture
from model.cache import uncacheable
from train.files import write_atomically, write_json
from train.vocabulary import Special, Vocabulary

NEW_TOKENS = 100
TEMPERATURE = 0.8
HOW = (
  f'drawn at temperature {TEMPERATURE}, by the same random numbers in all '
  'rows, after the beginning of the validation text (in grey).'
)
FILE = 'sample.json'
SHOWN = 5  # rows of a table that the report shows

# tokens_1T -> logits_TV
Forward = Callable[[np.ndarray], Any]


def write_sample(
  folder: pathlib.Path,
  arch: Architecture,
  vocabulary: Vocabulary,
  tokens_T: np.ndarray,
  forward: Forward,
) -> None:
  """Writes a prompt and what follows it, where an architecture can write.

  Args:
    folder: of the trial.
    arch: its architecture.
    vocabulary: its vocabulary.
    tokens_T: text, as long as what the program takes; its first half is the
      prompt.
    forward: the program.
  """
  length = len(tokens_T)
  ends = Special.EOS in vocabulary.specials
  end = vocabulary.id_of(Special.EOS) if ends else None
  prompt = _last_document(tokens_T[: length // 2].tolist(), end)
  if not prompt or uncacheable(arch, len(prompt)) is not None:
    return  # later tokens would change what was written before them
  written = continued(forward, prompt, length, NEW_TOKENS, end)
  text = {
    'how': f'{_counted(written, end)} {HOW}',
    'prompt': vocabulary.decode(prompt),
    'text': vocabulary.decode_after(prompt, written),
  }
  write_json(folder / FILE, text)


def _counted(written: Sequence[int], end: int | None) -> str:
  """Returns how many tokens were written, and whether the text then ended."""
  if end is None or written[-1] != end:
    return f'{len(written)} tokens'
  return f'{len(written) - 1} tokens, where the text ended by itself,'


def _last_document(tokens: list[int], end: int | None) -> list[int]:
  """Returns the last document of some, without its end."""
  while end in tokens[:-1]:
    tokens = tokens[tokens.index(end) + 1 :]
  return tokens[:-1] if tokens and tokens[-1] == end else tokens


def continued(
  forward: Forward,
  prompt: Sequence[int],
  length: int,
  count: int,
  end: int | None = None,
) -> list[int]:
  """Returns tokens after a prompt, drawn by fixed random numbers.

  The most likely token under softmax(logits / 0.8) plus Gumbel noise is a draw
  from it (Maddison et al. 2014, arXiv:1411.0030).  A full window goes on from
  its last half.  Nothing follows an end.
  """
  rng = np.random.default_rng(0)
  window, written = list(prompt), list[int]()
  while len(written) < count and written[-1:] != [end]:
    if len(window) == length:
      window = window[-(length // 2) :]
    tokens_1T = np.zeros((1, length), np.int32)
    tokens_1T[0, : len(window)] = window
    logits_V = np.asarray(forward(tokens_1T), np.float64)[len(window) - 1]
    noise_V = rng.gumbel(size=logits_V.size)
    written.append(int(np.argmax(logits_V / TEMPERATURE + noise_V)))
    window.append(written[-1])
  return written


def write_table(folder: pathlib.Path, lines: Sequence[str]) -> None:
  """Writes what a trial wrote, and the first of it for the report.

  Args:
    folder: of the trial.
    lines: the names of columns, then rows, all between tabs.
  """
  text = ''.join(f'{line}\n' for line in lines)
  write_atomically(folder / 'written.tsv', text)
  names, *rows = (line.split('\t') for line in lines)
  shown = [
    '\n'.join(map(': '.join, zip(names, row, strict=True)))
    for row in rows[:SHOWN]
  ]
  about = {'how': ', '.join(names), 'prompt': '', 'text': '\n\n'.join(shown)}
  write_json(folder / FILE, about)
