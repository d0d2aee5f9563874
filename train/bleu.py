"""BLEU of translations: as published figures were computed, and as by default.

`corpus_bleu` is that of n-grams up to 4 on tokenised, lower-cased text with one
reference (Papineni et al. 2002), without smoothing: of text that is tokenised
already, what multi-bleu.perl -lc and fairseq give.  `default_bleu` has
sacrebleu's default signature (Post 2018), which is for plain text.  The two are
not comparable.  Both are computed by sacrebleu.
"""

import dataclasses
import re
from collections.abc import Sequence

from sacrebleu.metrics.bleu import BLEU, BLEUScore


@dataclasses.dataclass(frozen=True)
class Bleu:
  """A score, and what it is made of.

  bleu = 100 * brevity_penalty * (p_1 p_2 p_3 p_4)^(1/4)

  Attributes:
    bleu: from 0 to 100.
    precisions: p_1 to p_4, from 0 to 1: n-grams of the hypotheses that their
      references have, each at most as often as the reference has it.
    brevity_penalty: exp(1 - reference_length / hypothesis_length) where the
      hypotheses are shorter in all, else 1.
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
  """Returns the tokenised BLEU of a corpus, in which case does not count.

  Args:
    hypotheses: a sentence each.
    references: one for each.
    pretokenized: tokens are separated by white space; one that ends in @@ goes
      on in the next (Sennrich et al. 2016).  Otherwise texts are plain, and cut
      by sacrebleu's 13a, the tokeniser of WMT's mteval-v13a.

  Raises:
    ValueError: there is not one reference for each, or there are none.
  """
  if pretokenized:
    hypotheses, references = map(joined, (hypotheses, references))
  # force: do not warn of text that is tokenised, for that is what it is.
  metric = BLEU(
    lowercase=True,
    force=True,
    tokenize='none' if pretokenized else '13a',
    smooth_method='none',
  )
  found = _scored(metric, hypotheses, references)
  return Bleu(
    bleu=found.score,
    precisions=tuple(p / 100 for p in found.precisions),
    brevity_penalty=found.bp,
    hypothesis_length=found.sys_len,
    reference_length=found.ref_len,
  )


def default_bleu(hypotheses: Sequence[str], references: Sequence[str]) -> float:
  """Returns what sacrebleu gives of texts as written, unless told otherwise.

  Its signature is case:mixed|eff:no|tok:13a|smooth:exp.

  Raises:
    ValueError: there is not one reference for each, or there are none.
  """
  return _scored(BLEU(force=True), hypotheses, references).score


def _scored(
  metric: BLEU, hypotheses: Sequence[str], references: Sequence[str]
) -> BLEUScore:
  if not hypotheses or len(hypotheses) != len(references):
    raise ValueError(
      f'{len(hypotheses)} hypotheses and {len(references)} references'
    )
  return metric.corpus_score([*hypotheses], [[*references]])


def joined(texts: Sequence[str]) -> list[str]:
  """Returns sentences with the pieces of each word put together."""
  return [re.sub(r'@@(\s+|$)', '', text) for text in texts]
