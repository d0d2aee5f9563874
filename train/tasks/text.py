"""Language modelling of any text.

The text 'hello world' at --seq_len=4 gives examples such as

  inputs   e l l o
  targets  l l o _

at offsets drawn uniformly for each example of each step.  The first 90 % of
the text are for training; the last 10 %, in windows that do not overlap, are
for validation (nanoGPT's split).
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from model.field import FieldError, field
from train import corpus
from train.store import train_once
from train.task import Batch, Data, DataError, Task, examples
from train.tokenizer import Char, Tokenizer
from train.vocabulary import Special, UnknownSymbols, Vocabulary


@dataclasses.dataclass(frozen=True)
class Text(Task, tag='text'):
  """Predict the next token of a text."""

  path: str | None = field(None, 'Text file, or a folder of them.')
  corpus: Literal['pydoc', 'shakespeare'] | None = field(
    None, 'Named text, where no path is given; none is pydoc:'
  )
  tokenizer: Tokenizer = field(Char(), 'What a token is:')

  @property
  def _name(self) -> str:
    return self.path or self.corpus or 'pydoc'

  def problems(self) -> Iterator[FieldError]:
    """Yields what is wrong between fields."""
    if self.path is not None and self.corpus is not None:
      yield FieldError(
        'corpus',
        self.corpus,
        'has no effect beside --task.path: drop one, or --task.corpus=none',
      )

  def load(self, vocabulary: Vocabulary | None = None) -> Data:
    """Returns the tokens of the text, split into training and validation."""
    name = self._name
    if self.path is not None:
      text = corpus.read(self.path)
    elif name == 'shakespeare':
      text = corpus.shakespeare()
    else:
      text = corpus.pydoc()
    digest = hashlib.sha256(text.encode()).hexdigest()
    if vocabulary is None:
      vocabulary = self._vocabulary(text, digest)
    try:
      train, held = _split(text, vocabulary)
    except UnknownSymbols as e:
      raise DataError(
        f'{name}: {e}: train with --task.tokenizer=byte to read any text'
      ) from e
    return Data(
      arrays={'train': train, 'validation': held},
      vocabulary=vocabulary,
      digest=digest,
      description=(
        f'{name}: {train.size + held.size:,} {vocabulary.unit}s, '
        f'{vocabulary.size} symbols, {_unknown(vocabulary, train, held)}'
        f'sha256 {digest[:12]}'
      ),
    )

  def _vocabulary(self, text: str, digest: str) -> Vocabulary:
    """Returns the vocabulary of the text; what is learned, of its 90 %."""
    if self.tokenizer.learned:
      text = text[: int(0.9 * len(text))]
    try:
      return train_once(self.tokenizer, (), digest, lambda: [text])
    except FieldError as e:
      raise e.under('task.tokenizer.') from None

  def problem(self, data: Data, seq_len: int) -> str | None:
    """Returns why the data do not fit the context length, if they do not."""
    for split, ids in data.arrays.items():
      if ids.size < seq_len + 1:
        return (
          f'{self._name}: its {split} part has {ids.size} '
          f'tokens, fewer than --seq_len={seq_len} and the one to predict: '
          'give a longer text or a smaller --seq_len'
        )
    return None

  def batch(
    self,
    arrays: Mapping[str, jax.Array],
    key: jax.Array,
    step: jax.Array,
    batch_size: int,
    seq_len: int,
  ) -> Batch:
    """Returns windows at offsets drawn for each example from (key, its id)."""
    text_X = arrays['train']
    ids_B = examples(step, batch_size)

    def offset(example: jax.Array) -> jax.Array:
      own = jax.random.fold_in(key, example)
      return jax.random.randint(own, (), 0, text_X.shape[0] - seq_len)

    return _windows(text_X, jax.vmap(offset)(ids_B), ids_B, seq_len)

  def evaluation_size(
    self,
    arrays: Mapping[str, np.ndarray] | Mapping[str, jax.Array],
    seq_len: int,
  ) -> int:
    """Returns how many whole windows the validation part holds."""
    return (arrays['validation'].shape[0] - 1) // seq_len

  def evaluation_batch(
    self, arrays: Mapping[str, jax.Array], ids_B: jax.Array, seq_len: int
  ) -> Batch:
    """Returns the windows with these numbers."""
    return _windows(arrays['validation'], ids_B * seq_len, ids_B, seq_len)


def _unknown(vocabulary: Vocabulary, *parts: np.ndarray) -> str:
  """Returns how much of the text the vocabulary lacks, if it has <unk>."""
  if Special.UNK not in vocabulary.specials:
    return ''
  unknown = vocabulary.id_of(Special.UNK)
  found = sum(int((ids == unknown).sum()) for ids in parts)
  return f'{found / sum(ids.size for ids in parts):.2%} unknown, '


def _split(text: str, vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
  """Returns the ids of the training and of the validation part."""
  if vocabulary.learned:
    # The validation part has no say in how text is cut.
    cut = int(0.9 * len(text))
    return vocabulary.encode(text[:cut]), vocabulary.encode(text[cut:])
  ids = vocabulary.encode(text)
  cut = int(0.9 * ids.size)
  return ids[:cut], ids[cut:]


def _windows(
  text_X: jax.Array, offsets_B: jax.Array, ids_B: jax.Array, seq_len: int
) -> Batch:
  """Returns the tokens from each offset on, and those one further."""
  index_BT = offsets_B[:, None] + jnp.arange(seq_len + 1)
  tokens_BT = text_X[index_BT].astype(jnp.int32)
  return Batch(
    inputs_BT=tokens_BT[:, :-1],
    targets_BT=tokens_BT[:, 1:],
    weights_BT=jnp.ones((*offsets_B.shape, seq_len), jnp.float32),
    ids_B=ids_B,
  )
