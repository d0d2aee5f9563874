"""Translation of texts from one language into another.

From the pair 'a dog' and 'ein Hund', the model gets

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

from model.architecture.architecture import Architecture
from model.architecture.family import EncoderDecoder, FamilyBase
from model.core.field import FieldError, field
from model.core.inputs import ModelInputs, Source
from model.core.limits import BEAM, COUNT, LENGTH_EXPONENT
from model.core.parameter import Dims, Params
from train.core.metric import Metric
from train.tasks.base import Arrays, Batch, Data, FinalMetrics
from train.tasks.bleu import corpus_bleu, default_bleu, join_pieces
from train.tasks.padding import (
  append_end,
  pad_rows,
  padding_segments,
  shift_right,
)
from train.tasks.sentences import TableTask
from train.tasks.translate import Translator, translate_ids
from train.text.vocabulary import Special

BLEU = Metric(
  'bleu',
  'tokenised, lower-cased 4-gram BLEU of the translations of the first '
  '--task.judged sources; tokens are those of the table if it is '
  "--task.pretokenized, else those of sacrebleu's 13a",
  lower_is_better=False,
)
SACREBLEU = Metric(
  'sacrebleu',
  'BLEU of the same translations with the defaults of sacrebleu: 13a, cased, '
  'of the texts of the table, with pieces of words joined',
  lower_is_better=False,
)
BREVITY_PENALTY = Metric(
  'brevity_penalty',
  'factor of bleu, at most 1, for translations that are too short',
  lower_is_better=False,
)
# Replaces <unk>, which 13a would cut into three tokens, and which a reference
# might spell: a private-use character that no text has.
UNK_REPLACEMENT = '\ue000'


@dataclasses.dataclass(frozen=True)
class Translation(TableTask, tag='translation'):
  """Translate a text into another language (Sutskever et al. 2014)."""

  families: ClassVar[tuple[type[FamilyBase], ...]] = (EncoderDecoder,)
  predicts_next: ClassVar[bool] = True
  columns: ClassVar[tuple[str, ...]] = ('source', 'target')
  texts: ClassVar[int] = 2
  figures: ClassVar[tuple[Metric, ...]] = (
    BLEU,
    SACREBLEU,
    BREVITY_PENALTY,
  )
  neutral: ClassVar[frozenset[str]] = TableTask.neutral | {
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
    1, 'Width of the beam search for BLEU; 1 is greedy.', min=1, max=BEAM
  )
  judged: int | None = field(
    None,
    'Compute BLEU on the first so many validation rows; `none` is all.',
    min=1,
    max=COUNT,
  )
  length_penalty: float = field(
    1.0,
    'Scores of hypotheses are divided by their length to this power.',
    min=-10.0,
    max=LENGTH_EXPONENT,
  )
  pretokenized: bool | None = field(
    None,
    'Texts are tokens separated by spaces, which BLEU compares after joining '
    "pieces that end in @@; else they are plain text, cut by sacrebleu's 13a. "
    '`none` is true for multi30k_bpe alone.',
  )

  @property
  def _tokenized(self) -> bool:
    """Returns whether the texts are tokens separated by spaces."""
    given = self.pretokenized
    return self.data.pretokenized if given is None else given

  def notes(self, data: Data, seq_len: int) -> str:
    """Returns remarks on rows left out of the loss, and on texts for BLEU.

    BLEU includes the rows that are too long, since without them the score would
    be too good; it truncates their sources.
    """
    notes = [super().notes(data, seq_len)]
    longest = seq_len - 1  # as <eos> is added
    sizes = np.diff(data.arrays['validation_source_starts'])[: self.judged]
    if cut := int((sizes > longest).sum()):
      notes.append(
        f'BLEU is of {sizes.size:,} rows, the sources of {cut:,} of them cut '
        f'to {longest} tokens'
      )
    references = data.held[1]
    pieces = len({*references} - {*join_pieces(references)})
    if pieces and not self._tokenized:
      notes.append(
        f'BLEU takes the @@ of {pieces:,} references for text: '
        '--task.pretokenized=true joins pieces of words'
      )
    return '; '.join(filter(None, notes))

  def problems(self) -> Iterator[FieldError]:
    """Yields an error for each rule between fields that is broken."""
    yield from super().problems()
    if self.beam == 1 and self.length_penalty != 1.0:
      yield FieldError(
        'length_penalty',
        self.length_penalty,
        'compares hypotheses, of which there is one: make --task.beam larger',
      )

  def final_metrics(
    self, arch: Architecture, dims: Dims, params: Params, data: Data
  ) -> FinalMetrics:
    """Translates the validation sources; returns the BLEU and the translations.

    References are the texts as written in the table: decoded from ids, a word
    outside the vocabulary would be <unk> in both, and count as correct.
    """
    arrays = data.arrays
    ids = np.split(
      arrays['validation_source'], arrays['validation_source_starts'][1:-1]
    )
    found = translate_ids(
      Translator(arch, dims, params, data.vocabulary),
      ids[: self.judged],
      self.beam,
      self.length_penalty,
    )
    hypotheses = [data.vocabulary.decode(ids) for ids in found]
    sources, references = (texts[: self.judged] for texts in data.held)
    columns = sources, hypotheses, references
    if self._tokenized:
      columns = tuple(map(join_pieces, columns))
    _, hypotheses, references = columns
    hypotheses = [
      t.replace(Special.UNK.value, UNK_REPLACEMENT) for t in hypotheses
    ]
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
    return FinalMetrics(figures, ['source\ttranslation\treference', *lines])

  def read(
    self, arrays: Arrays, part: str, rows_B: jax.Array, length: int
  ) -> Batch:
    """Returns sources, and targets of which each next token is predicted."""
    pad, end = arrays['<pad>'], arrays['<eos>']
    source_BS, sizes_B = pad_rows(arrays, f'{part}_source', rows_B, length, pad)
    target_BT, counts_B = pad_rows(
      arrays, f'{part}_target', rows_B, length, pad
    )
    return Batch(
      inputs=ModelInputs(
        shift_right(target_BT, arrays['<bos>']),
        source=Source(
          append_end(source_BS, sizes_B, end),
          padding_segments(sizes_B + 1, length),
        ),
      ),
      targets_BT=append_end(target_BT, counts_B, end),
      weights_BT=padding_segments(counts_B + 1, length).astype(jnp.float32),
      ids_B=rows_B,
    )
