"""What the loss on a text means in units that others use."""

import math

import numpy as np

from train.vocabulary import Special, Vocabulary

BLOCK = 2**20  # ids that are looked up at a time
LARGEST = 700  # nats of which the exponential is a number


def of_text(
  vocabulary: Vocabulary, ids_X: np.ndarray, loss: float, targets: float
) -> dict[str, float]:
  """Returns perplexity, and bits per byte of a text.

  Args:
    vocabulary: of the ids.
    ids_X: what there was to predict.
    loss: nats a target, on average.
    targets: how many were predicted; bits are only counted if all were.
  """
  found: dict[str, float] = {}
  if loss < LARGEST:
    found['perplexity'] = math.exp(loss)
  size = bytes_of(vocabulary, ids_X)
  # As exact as a sum of float32.
  if size and math.isclose(targets, ids_X.size, rel_tol=1e-6):
    found['bits_per_byte'] = loss * targets / math.log(2) / size
  return found


def bytes_of(vocabulary: Vocabulary, ids_X: np.ndarray) -> int | None:
  """Returns how many bytes of UTF-8 the text of ids has.

  None where ids do not tell the text, as those of words, which have lost the
  white space between them.
  """
  if not vocabulary.lossless or Special.UNK in vocabulary.specials:
    return None
  first = len(vocabulary.specials)
  sizes_V = np.zeros(vocabulary.size, np.int64)
  for number in range(first, vocabulary.size):
    sizes_V[number] = vocabulary.bytes_of(number)
  blocks = (ids_X[n : n + BLOCK] for n in range(0, ids_X.size, BLOCK))
  return sum(int(sizes_V[block].sum()) for block in blocks)
