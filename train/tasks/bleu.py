"""BLEU of translations: of tokenised text, as published, and sacrebleu's.

`corpus_bleu` uses n-grams up to 4 of tokenised, lower-cased text with one
reference (Papineni et al. 2002), without smoothing: on text that is tokenised
already, it equals multi-bleu.perl -lc and fairseq.  `default_bleu` has
sacrebleu's default signature (Post 2018), which is for plain text.  The two are
not comparable.  Both are computed by sacrebleu, which is imported only then:
--help imports this file.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from sacrebleu.metrics.bleu import BLEU, BLEUScore


@dataclasses.dataclass(frozen=True)
class Bleu:
  """A BLEU score and its factors.

  bleu = 100 * brevity_penalty * (p_1 p_2 p_3 p_4)^(1/4)

  Attributes:
    bleu: the score, from 0 to 100.
    precisions: p_1 to p_4, from 0 to 1: share of n-grams of the hypotheses that
      are in their references, each counted at most as often as it is there.
    brevity_penalty: exp(1 - reference_length / hypothesis_length) if the
      hypotheses are shorter in total, else 1.
    hypothesis_length: tokens of all hypotheses.
    reference_length: tokens of all references.
  """

  bleu: float
  precisions: tuple[float, ...]
  brevity_penalty: float
  hypothesis_length: int
  reference_length: int


def corpus_bleu(
  hypotheses: Sequence[str],
  references: Sequence[str],
  pretokenized: bool = True,
) -> Bleu:
  """Returns the tokenised, case-insensitive BLEU of a corpus.

  Args:
    hypotheses: translated sentences.
    references: a reference for each.
    pretokenized: whether tokens are separated by white space, and pieces of a
      word end in @@ except for the last (Sennrich et al. 2016).  Otherwise
      texts are plain, and are tokenised by sacrebleu's 13a, that of WMT's
      mteval-v13a.

  Raises:
    ValueError: there are no sentences, or not one reference for each.
  """
  from sacrebleu.metrics.bleu import BLEU

  if pretokenized:
    hypotheses, references = map(join_pieces, (hypotheses, references))
  # force: do not warn that the text looks tokenised, which is intended.
  metric = BLEU(
    lowercase=True,
    force=True,
    tokenize='none' if pretokenized else '13a',
    smooth_method='none',
  )
  found = _score(metric, hypotheses, references)
  return Bleu(
    bleu=found.score,
    precisions=tuple(p / 100 for p in found.precisions),
    brevity_penalty=found.bp,
    hypothesis_length=found.sys_len,
    reference_length=found.ref_len,
  )


def default_bleu(hypotheses: Sequence[str], references: Sequence[str]) -> float:
  """Returns the BLEU of plain texts with sacrebleu's defaults.

  The signature is case:mixed|eff:no|tok:13a|smooth:exp.

  Raises:
    ValueError: there are no sentences, or not one reference for each.
  """
  from sacrebleu.metrics.bleu import BLEU

  return _score(BLEU(force=True), hypotheses, references).score


def _score(
  metric: 'BLEU', hypotheses: Sequence[str], references: Sequence[str]
) -> 'BLEUScore':
  if not hypotheses or len(hypotheses) != len(references):
    raise ValueError(
      f'{len(hypotheses)} hypotheses and {len(references)} references'
    )
  return metric.corpus_score([*hypotheses], [[*references]])


def join_pieces(texts: Sequence[str]) -> list[str]:
  """Joins the pieces of words, which end in @@, in each sentence."""
  return [re.sub(r'@@(\s+|$)', '', text) for text in texts]
