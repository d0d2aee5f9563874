"""BLEU of translations, as the published figures of Multi30k were computed.

Corpus BLEU of n-grams up to 4 on tokenised, lower-cased text with one reference
(Papineni et al. 2002), without smoothing, pieces of words joined: what
multi-bleu.perl -lc and fairseq give.  Computed by sacrebleu (Post 2018) with
its own tokenisation switched off; a figure of its default signature, which is
on plain text, is not comparable.
"""

import dataclasses
import re
from collections.abc import Sequence

from sacrebleu.metrics.bleu import BLEU


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


def corpus_bleu(hypotheses: Sequence[str], references: Sequence[str]) -> Bleu:
  """Returns the BLEU of a corpus.

  Args:
    hypotheses: a sentence each, its tokens separated by white space; one that
      ends in @@ goes on in the next (Sennrich et al. 2016).  Case does not
      count.
    references: one for each, tokenised alike.

  Raises:
    ValueError: there is not one reference for each, or there are none.
  """
  if not hypotheses or len(hypotheses) != len(references):
    raise ValueError(
      f'{len(hypotheses)} hypotheses and {len(references)} references'
    )
  # force: do not warn of text that is tokenised, for that is what it is.
  metric = BLEU(
    lowercase=True, force=True, tokenize='none', smooth_method='none'
  )
  found = metric.corpus_score(
    [*map(joined, hypotheses)], [[*map(joined, references)]]
  )
  return Bleu(
    bleu=found.score,
    precisions=tuple(p / 100 for p in found.precisions),
    brevity_penalty=found.bp,
    hypothesis_length=found.sys_len,
    reference_length=found.ref_len,
  )


def joined(line: str) -> str:
  """Returns a sentence with the pieces of each word put together."""
  return re.sub(r'@@(\s+|$)', '', line)
