"""A short sample that a model writes after training, for the report.

The host draws it token by token, with a program that is compiled anyway, so
that no run waits for a compilation of its own.
"""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from model.architecture.architecture import Architecture
from model.cache import decoding_problem
from train.files.durable import write_atomically, write_json
from train.text.vocabulary import Special, Vocabulary

NEW_TOKENS = 100
TEMPERATURE = 0.8
SAMPLING_NOTE = (
  f'drawn at temperature {TEMPERATURE}, by the same random numbers in all '
  'rows, after the beginning of the validation text (in grey).'
)
SAMPLE_FILE = 'sample.json'
SHOWN_ROWS = 5  # rows of a table that the report shows

# tokens_1T -> logits_TV
Forward = Callable[[np.ndarray], Any]


def write_sample(
  folder: pathlib.Path,
  arch: Architecture,
  vocabulary: Vocabulary,
  tokens_T: np.ndarray,
  forward: Forward,
) -> None:
  """Writes sample.json, a prompt and its continuation by the model.

  Writes nothing if the architecture cannot generate text.

  Args:
    folder: of the trial.
    arch: its architecture.
    vocabulary: its vocabulary.
    tokens_T: a text as long as the input of the program; the last document of
      its first half is the prompt.
    forward: the program, from tokens_1T to logits_TV.
  """
  length = len(tokens_T)
  ends = Special.EOS in vocabulary.specials
  end = vocabulary.id_of(Special.EOS) if ends else None
  prompt = _last_document(tokens_T[: length // 2].tolist(), end)
  if not prompt or decoding_problem(arch, len(prompt)) is not None:
    return  # in such a model, later tokens change the logits of earlier ones
  written = sample_tokens(forward, prompt, length, NEW_TOKENS, end)
  text = {
    'how': f'{_counted(written, end)} {SAMPLING_NOTE}',
    'prompt': vocabulary.decode(prompt),
    'text': vocabulary.decode_after(prompt, written),
  }
  write_json(folder / SAMPLE_FILE, text)


def _counted(written: Sequence[int], end: int | None) -> str:
  """Returns in words how many tokens were written, and if the text ended."""
  if end is None or written[-1] != end:
    return f'{len(written)} tokens'
  return f'{len(written) - 1} tokens, where the text ended by itself,'


def _last_document(tokens: list[int], end: int | None) -> list[int]:
  """Returns the tokens of the last document, without its end token."""
  while end in tokens[:-1]:
    tokens = tokens[tokens.index(end) + 1 :]
  return tokens[:-1] if tokens and tokens[-1] == end else tokens


def sample_tokens(
  forward: Forward,
  prompt: Sequence[int],
  length: int,
  count: int,
  end: int | None = None,
) -> list[int]:
  """Returns up to `count` tokens after a prompt, drawn with a fixed seed.

  argmax(logits / 0.8 + Gumbel noise) is a draw from softmax(logits / 0.8)
  (Maddison et al. 2014, arXiv:1411.0030).  When `length` tokens are reached,
  only their last half remains as context.  The text stops at the end token.
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
  """Writes the texts of a task to written.tsv, the first to sample.json too.

  Args:
    folder: of the trial.
    lines: the names of the columns, then the rows, separated by tabs.
  """
  text = ''.join(f'{line}\n' for line in lines)
  write_atomically(folder / 'written.tsv', text)
  names, *rows = (line.split('\t') for line in lines)
  shown = [
    '\n'.join(map(': '.join, zip(names, row, strict=True)))
    for row in rows[:SHOWN_ROWS]
  ]
  about = {'how': ', '.join(names), 'prompt': '', 'text': '\n\n'.join(shown)}
  write_json(folder / SAMPLE_FILE, about)
