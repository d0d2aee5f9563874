"""BLEU against figures by hand, and against a loop written from its paper."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from train.tasks.bleu import Bleu, corpus_bleu, default_bleu, join_pieces

WORDS = ['The', 'the', 'a', 'Hund', 'dog', 'runs', 'läuft', '.', ',', '"']


def by_hand(hypotheses: Sequence[str], references: Sequence[str]) -> Bleu:
  """Papineni et al. 2002, sections 2.1.1 to 2.3, counted over the corpus."""
  pairs = [
    (one.lower().split(), other.lower().split())
    for one, other in zip(hypotheses, references, strict=True)
  ]
  precisions = []
  for size in (1, 2, 3, 4):
    hits = total = 0
    for mine, theirs in pairs:
      grams = [tuple(mine[n : n + size]) for n in range(len(mine) - size + 1)]
      known = Counter(
        tuple(theirs[n : n + size]) for n in range(len(theirs) - size + 1)
      )
      for gram in grams:
        total += 1
        if known[gram]:
          known[gram] -= 1  # a word of the reference is used up
          hits += 1
    precisions.append(hits / total if total else 0.0)
  candidate = sum(len(mine) for mine, _ in pairs)
  reference = sum(len(theirs) for _, theirs in pairs)
  brevity = 1.0
  if candidate < reference:
    brevity = math.exp(1 - reference / candidate) if candidate else 0.0
  score = 100 * brevity * math.prod(precisions) ** 0.25
  return Bleu(score, tuple(precisions), brevity, candidate, reference)


def assert_same(found: Bleu, expected: Bleu) -> None:
  assert found.bleu == pytest.approx(expected.bleu, rel=1e-9)
  assert found.precisions == pytest.approx(expected.precisions, rel=1e-12)
  assert found.brevity_penalty == pytest.approx(expected.brevity_penalty)
  assert found.hypothesis_length == expected.hypothesis_length
  assert found.reference_length == expected.reference_length


def test_a_perfect_translation_has_100() -> None:
  lines = ['a dog runs here .', 'two men sit on a bench .']
  assert_same(corpus_bleu(lines, lines), Bleu(100.0, (1.0,) * 4, 1.0, 12, 12))


def test_a_word_counts_as_often_as_the_reference_has_it() -> None:
  """The example of section 2.1: 2 of 7, not 7 of 7."""
  found = corpus_bleu(
    ['the the the the the the the'], ['the cat is on the mat']
  )
  assert found.precisions[0] == pytest.approx(2 / 7)
  assert found.precisions[1:] == (0.0, 0.0, 0.0)
  assert (found.bleu, found.brevity_penalty) == (0.0, 1.0)


def test_what_is_short_is_punished() -> None:
  """All it says is right: 5 tokens of 8, and exp(1 - 8 / 5)."""
  found = corpus_bleu(['a b c d e'], ['a b c d e f g h'])
  assert found.precisions == (1.0,) * 4
  assert found.brevity_penalty == pytest.approx(0.548811636)
  assert found.bleu == pytest.approx(54.8811636)
  assert (found.hypothesis_length, found.reference_length) == (5, 8)


def test_what_is_long_is_not() -> None:
  found = corpus_bleu(['a b c d e f g h'], ['a b c d e'])
  assert found.precisions == pytest.approx((5 / 8, 4 / 7, 3 / 6, 2 / 5))
  assert found.bleu == pytest.approx(100 * (1 / 14) ** 0.25)


def test_lengths_and_counts_are_those_of_the_corpus() -> None:
  """One is too short and one too long: together they are neither."""
  found = corpus_bleu(['a b c d', 'e f g h i j'], ['a b c d x', 'e f g h i'])
  assert found.brevity_penalty == 1.0
  assert found.precisions == pytest.approx((9 / 10, 7 / 8, 5 / 6, 3 / 4))


def test_case_does_not_count_and_nothing_is_tokenised() -> None:
  assert corpus_bleu(['A Dog runs HERE'], ['a dog Runs here']).bleu == (
    pytest.approx(100.0)
  )
  # A tokeniser would cut "dog." in two.
  assert corpus_bleu(['a big dog.'], ['a big dog .']).hypothesis_length == 3


# Texts as 13a cuts them, by hand from mteval-v13a.pl: marks but full stops and
# commas between digits, and no hyphens between letters.
PLAIN = {
  'A dog runs, fast.': 'A dog runs , fast .',
  'The "old" man (85) has 1,000.5 dogs!': (
    'The " old " man ( 85 ) has 1,000.5 dogs !'
  ),
  'A well-known dog; at 9-10: it ran': 'A well-known dog ; at 9 - 10 : it ran',
}


def test_plain_text_is_cut_by_13a() -> None:
  references = [*PLAIN]
  hypotheses = [line.replace('dog', 'Hund') for line in references]
  cut = [line.replace('dog', 'Hund') for line in PLAIN.values()]
  found = corpus_bleu(hypotheses, references, pretokenized=False)
  assert found.hypothesis_length == 29
  assert_same(found, by_hand(cut, [*PLAIN.values()]))
  # Case does not count; the pieces of a word are text as any other.
  lower = corpus_bleu([*map(str.upper, references)], references, False)
  assert lower.bleu == pytest.approx(100)
  assert corpus_bleu(['a wind@@ mill'], ['a windmill'], False).precisions[0] < 1


def test_sacrebleu_is_what_it_gives_by_default(
  caplog: pytest.LogCaptureFixture,
) -> None:
  """The counts of 13a with case; a count of none is halved (smooth:exp)."""
  assert default_bleu([*PLAIN], [*PLAIN]) == pytest.approx(100)
  found = default_bleu(['a dog runs, fast!'], ['A dog runs, fast.'])
  hits = 4 / 6, 3 / 5, 2 / 4, 1 / 3
  assert found == pytest.approx(100 * math.prod(hits) ** 0.25)
  found = default_bleu(['A dog sits, here.'], ['A dog runs, fast.'])
  # No run of three or four is right: 1 / (2 * 4) and 1 / (4 * 3).
  hits = 4 / 6, 1 / 5, 1 / 8, 1 / 12
  assert found == pytest.approx(100 * math.prod(hits) ** 0.25)
  lines = ['Two dogs sit .'] * 200  # that this is tokenised is no news
  assert default_bleu(lines, lines) == pytest.approx(100)
  assert not caplog.records


def test_pieces_are_joined() -> None:
  lines = ['a wind@@ mill turns', 'three d@@ o@@ gs sit down@@']
  words = ['a windmill turns', 'three dogs sit down']
  assert_same(corpus_bleu(lines, words), Bleu(100.0, (1.0,) * 4, 1.0, 7, 7))
  assert corpus_bleu(['x@@y @@ z w'], ['x@@y z w v']).hypothesis_length == 3
  assert join_pieces(lines) == words


def test_without_a_match_of_four_it_is_0() -> None:
  """No smoothing: a corpus in which no 4-gram is right has 0."""
  found = corpus_bleu(['a b c x y z'], ['a b c d e f'])
  assert found.precisions == pytest.approx((3 / 6, 2 / 5, 1 / 4, 0.0))
  assert found.bleu == 0.0
  assert corpus_bleu([''], ['a b']).bleu == 0.0


@pytest.mark.parametrize('seed', range(5))
def test_it_is_the_loop_of_its_paper(seed: int) -> None:
  draws = np.random.default_rng(seed)

  def sentence() -> str:
    return ' '.join(draws.choice(WORDS, draws.integers(1, 12)))

  references = [sentence() for _ in range(60)]
  # Half of the words of each reference, and others.
  hypotheses = [
    ' '.join(w for w in line.split() if draws.random() < 0.9)
    + ' '
    + ' '.join(draws.choice(WORDS, draws.integers(0, 3)))
    for line in references
  ]
  found = corpus_bleu(hypotheses, references)
  assert 1 < found.bleu < 99
  assert_same(found, by_hand(hypotheses, references))


def test_what_cannot_be_compared_is_refused() -> None:
  for hypotheses, references in (([], []), (['a'], []), (['a'], ['a', 'b'])):
    with pytest.raises(ValueError, match='hypotheses and'):
      corpus_bleu(hypotheses, references)
    with pytest.raises(ValueError, match='hypotheses and'):
      default_bleu(hypotheses, references)
