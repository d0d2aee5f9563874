"""Translation: a text from its translation into another language.

Of the pair 'a dog' and 'ein Hund' the model is given

  source   a    dog   <eos>
  inputs   <bos> ein  Hund
  targets  ein  Hund  <eos>
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from model.family import Decoder, EncoderDecoder
from train.padding import begun, ended, padded, real
from train.sentences import Sentences
from train.task import Arrays, Batch
from train.vocabulary import Special


@dataclasses.dataclass(frozen=True)
class Translation(Sentences, tag='translation'):
  """Say a text in another language (Sutskever et al. 2014)."""

  families: ClassVar[tuple[type[Decoder], ...]] = (EncoderDecoder,)
  predicts_next: ClassVar[bool] = True
  columns: ClassVar[tuple[str, ...]] = ('source', 'target')
  texts: ClassVar[int] = 2
  specials: ClassVar[tuple[Special, ...]] = (
    Special.PAD,
    Special.UNK,
    Special.BOS,
    Special.EOS,
  )

  def read(
    self, arrays: Arrays, part: str, rows_B: jax.Array, length: int
  ) -> Batch:
    """Returns sources, and targets of which the next token is to be said."""
    pad, end = arrays['<pad>'], arrays['<eos>']
    source_BS, sizes_B = padded(arrays, f'{part}_source', rows_B, length, pad)
    target_BT, counts_B = padded(arrays, f'{part}_target', rows_B, length, pad)
    return Batch(
      inputs_BT=begun(target_BT, arrays['<bos>']),
      targets_BT=ended(target_BT, counts_B, end),
      weights_BT=real(counts_B + 1, length).astype(jnp.float32),
      ids_B=rows_B,
      source_BS=ended(source_BS, sizes_B, end),
      source_segments_BS=real(sizes_B + 1, length),
    )
