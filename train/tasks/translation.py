"""Translation: a text from its translation into another language.

Of the pair 'a dog' and 'ein Hund' the model is given

  source   a    dog   <eos>
  inputs   <bos> ein  Hund
  targets  ein  Hund  <eos>
"""

import dataclasses
from collections.abc import Iterator
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from model.architecture import Architecture
from model.family import Decoder, EncoderDecoder
from model.field import FieldError, field
from model.limits import BEAM, COUNT, POWER
from model.parameter import Dims, Params
from train.bleu import corpus_bleu, default_bleu, joined
from train.figure import Figure
from train.padding import begun, ended, padded, real
from train.sentences import Sentences
from train.task import Arrays, Batch, Data, Judgement
from train.translate import Translator, translated
from train.vocabulary import Special

BLEU = Figure(
  'bleu',
  'tokenised, lower-cased 4-gram BLEU of the translations of the first '
  '--task.judged sources; tokens are those of the table, where it is '
  "--task.pretokenized, else those of sacrebleu's 13a",
  lower_is_better=False,
)
SACREBLEU = Figure(
  'sacrebleu',
  'BLEU of the same as sacrebleu computes it by default: 13a, cased, of texts '
  'as the table has them, pieces of words joined',
  lower_is_better=False,
)
BREVITY_PENALTY = Figure(
  'brevity_penalty',
  'factor of bleu for translations that are too short, at most 1',
  lower_is_better=False,
)
# Stands for <unk>, of which 13a would make three tokens, and which a table
# might spell: a character that no text has.
LACKED = '\ue000'


@dataclasses.dataclass(frozen=True)
class Translation(Sentences, tag='translation'):
  """Say a text in another language (Sutskever et al. 2014)."""

  families: ClassVar[tuple[type[Decoder], ...]] = (EncoderDecoder,)
  predicts_next: ClassVar[bool] = True
  columns: ClassVar[tuple[str, ...]] = ('source', 'target')
  texts: ClassVar[int] = 2
  figures: ClassVar[tuple[Figure, ...]] = (
    BLEU,
    SACREBLEU,
    BREVITY_PENALTY,
  )
  neutral: ClassVar[frozenset[str]] = Sentences.neutral | {
    'beam',
    'length_penalty',
  }
  specials: ClassVar[tuple[Special, ...]] = (
    Special.PAD,
    Special.UNK,
    Special.BOS,
    Special.EOS,
  )

  beam: int = field(
    1, 'Hypotheses at a time for BLEU; 1 is greedy.', min=1, max=BEAM
  )
  judged: int | None = field(
    None,
    'Texts to compute BLEU on, the first ones; none is all.',
    min=1,
    max=COUNT,
  )
  length_penalty: float = field(
    1.0,
    'Scores of hypotheses are divided by their length to this power.',
    min=-10.0,
    max=POWER,
  )
  pretokenized: bool | None = field(
    None,
    'Texts are tokens between spaces, and BLEU takes them so, with pieces that '
    "end in @@ joined; else they are plain text, which sacrebleu's 13a cuts. "
    'None is true for multi30k_bpe alone.',
  )

  @property
  def _tokenized(self) -> bool:
    """Returns whether the texts of the table are tokens between spaces."""
    given = self.pretokenized
    return self.data.pretokenized if given is None else given

  def notes(self, data: Data, seq_len: int) -> str:
    """Returns what is left out of the loss, and what BLEU makes of the texts.

    BLEU leaves no row out: without the long ones it would be flattered.
    """
    notes = [super().notes(data, seq_len)]
    longest = seq_len - 1  # and <eos>
    sizes = np.diff(data.arrays['validation_source_starts'])[: self.judged]
    if cut := int((sizes > longest).sum()):
      notes.append(
        f'BLEU is of {sizes.size:,} rows, the sources of {cut:,} of them cut '
        f'to {longest} tokens'
      )
    references = data.held[1]
    pieces = len({*references} - {*joined(references)})
    if pieces and not self._tokenized:
      notes.append(
        f'BLEU takes the @@ of {pieces:,} references for text: '
        '--task.pretokenized=true joins pieces of words'
      )
    return '; '.join(filter(None, notes))

  def problems(self) -> Iterator[FieldError]:
    """Yields what is wrong between fields."""
    yield from super().problems()
    if self.beam == 1 and self.length_penalty != 1.0:
      yield FieldError(
        'length_penalty',
        self.length_penalty,
        'compares hypotheses, of which there is one: make --task.beam larger',
      )

  def judge(
    self, arch: Architecture, dims: Dims, params: Params, data: Data
  ) -> Judgement:
    """Returns the BLEU of the part to evaluate on, and the translations.

    References are the texts of the table: in the model's vocabulary a word that
    it lacks would be <unk> in both, and count as right.
    """
    arrays = data.arrays
    ids = np.split(
      arrays['validation_source'], arrays['validation_source_starts'][1:-1]
    )
    found = translated(
      Translator(arch, dims, params, data.vocabulary),
      ids[: self.judged],
      self.beam,
      self.length_penalty,
    )
    hypotheses = [data.vocabulary.decode(ids) for ids in found]
    sources, references = (texts[: self.judged] for texts in data.held)
    columns = sources, hypotheses, references
    if self._tokenized:
      columns = tuple(map(joined, columns))
    _, hypotheses, references = columns
    hypotheses = [t.replace(Special.UNK.value, LACKED) for t in hypotheses]
    score = corpus_bleu(hypotheses, references, self._tokenized)
    lines = [
      '\t'.join(' '.join(text.split()) for text in row)
      for row in zip(*columns, strict=True)
    ]
    figures = {
      BLEU.name: score.bleu,
      SACREBLEU.name: default_bleu(hypotheses, references),
      BREVITY_PENALTY.name: score.brevity_penalty,
    }
    return Judgement(figures, ['source\ttranslation\treference', *lines])

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
