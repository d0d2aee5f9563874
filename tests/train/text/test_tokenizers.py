"""Tokenizers and vocabularies: text to ids and back, and how they are kept."""

import dataclasses
import itertools
import json
import pathlib
import random
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest

from model.core.field import FieldError, variants
from train.core.errors import DataError
from train.files.durable import cache_folder
from train.tasks.texts.text import Text
from train.text import store
from train.text.tokenizer import (
  AnyTokenizer,
  BpeTokenizer,
  ByteTokenizer,
  CharTokenizer,
  WordPieceTokenizer,
  WordTokenizer,
)
from train.text.vocabulary import (
  ByteVocabulary,
  CharVocabulary,
  Special,
  UnknownSymbols,
  Vocabulary,
)

# Of every width in UTF-8, with a combining mark and the highest code point.
LETTERS = 'aäβ汉🙂e\u0301\n\t \ufeff\x7f\U0010ffff'
WANTED = (Special.MASK, Special.PAD, Special.UNK)
SMALL: tuple[AnyTokenizer, ...] = (
  CharTokenizer(),
  ByteTokenizer(),
  WordTokenizer(),
  BpeTokenizer(vocab_size=300),
  WordPieceTokenizer(vocab_size=120),
)
each = pytest.mark.parametrize('tokenizer', SMALL, ids=lambda t: t.tag)


def _words(seed: int, count: int = 400, letters: str = 'abcdeä汉') -> list[str]:
  draw = random.Random(seed)
  return [
    ''.join(draw.choices(letters, k=draw.randint(1, 5))) for _ in range(count)
  ]


def _text(seed: int = 0) -> str:
  draw = random.Random(seed)
  gaps = draw.choices([' ', ' ', ' ', '\n'], k=400)
  return ''.join(w + gap for w, gap in zip(_words(seed), gaps, strict=True))


def _train(
  tokenizer: AnyTokenizer, text: str, specials: Sequence[Special] = ()
) -> Vocabulary:
  return tokenizer.train(lambda: [text], specials)


def test_every_tokenizer_is_tested() -> None:
  assert {type(t) for t in SMALL} == set(variants(AnyTokenizer).values())


# Text to ids and back. --------------------------------------------------------


@pytest.mark.parametrize('specials', [(), WANTED], ids=['plain', 'specials'])
@pytest.mark.parametrize(
  'tokenizer',
  [CharTokenizer(), ByteTokenizer(), BpeTokenizer(vocab_size=300)],
  ids=lambda t: t.tag,
)
def test_decode_reverses_encode(
  tokenizer: AnyTokenizer, specials: Sequence[Special]
) -> None:
  vocabulary = _train(tokenizer, LETTERS * 3 + 'end' + _text(), specials)
  draw = random.Random(1)
  for length in (0, 1, 7, 300):
    text = ''.join(draw.choices(LETTERS + 'end abc', k=length))
    ids = vocabulary.encode(text)
    assert vocabulary.decode(ids) == text
    assert len(vocabulary.symbols(ids)) == ids.size
    assert np.isin(ids, np.arange(vocabulary.size)).all()
    assert (ids >= len(vocabulary.specials)).all()


@pytest.mark.parametrize(
  'tokenizer',
  [WordTokenizer(), WordPieceTokenizer(vocab_size=120)],
  ids=lambda t: t.tag,
)
def test_what_was_decoded_encodes_to_the_same(tokenizer: AnyTokenizer) -> None:
  """Words lose the kind of white space between them, and nothing else."""
  vocabulary = _train(tokenizer, _text())
  for text in (_text(), _text(1), 'abc  \t ä.b', ''):
    ids = vocabulary.encode(text)
    assert vocabulary.encode(vocabulary.decode(ids)).tolist() == [
      i for i in ids if i != vocabulary.id_of(Special.UNK)
    ] or Special.UNK.value in vocabulary.decode(ids)


def test_words_and_line_breaks_come_back() -> None:
  vocabulary = _train(WordTokenizer(), 'a b\nc  d\n\n e')
  ids = vocabulary.encode(' e\td\n\nb c ')
  assert vocabulary.symbols(ids) == ['e', 'd', '\n', '\n', 'b', 'c']
  assert vocabulary.decode(ids) == 'e d\n\nb c'


def test_word_pieces_are_joined() -> None:
  text = 'low lower lowest new newer newest wide wider widest ' * 9
  vocabulary = _train(WordPieceTokenizer(vocab_size=35), text)
  ids = vocabulary.encode('newest lowest')
  symbols = vocabulary.symbols(ids)
  assert len(symbols) > 2
  assert all(not s.startswith('##') for s in symbols[:1])
  assert vocabulary.decode(ids) == 'newest lowest'
  assert ''.join(symbols).replace('##', '') == 'newestlowest'


@each
def test_a_text_is_never_a_special_token(tokenizer: AnyTokenizer) -> None:
  spelled = ' '.join(s.value for s in Special)
  vocabulary = _train(tokenizer, f'{spelled} {_text()}', tuple(Special))
  ids = vocabulary.encode(spelled)
  special = set(range(len(vocabulary.specials)))
  assert not special & set(ids.tolist())
  if not isinstance(tokenizer, WordPieceTokenizer):  # which sets < apart
    assert vocabulary.decode(ids) == spelled


@each
def test_special_tokens_come_first_in_their_order(
  tokenizer: AnyTokenizer,
) -> None:
  plain, more = (_train(tokenizer, _text(), s) for s in ((), WANTED))
  assert set(more.specials) >= {Special.PAD, Special.MASK}
  assert list(more.specials) == [s for s in Special if s in more.specials]
  for special in more.specials:
    number = more.id_of(special)
    assert more.symbols(np.array([number])) == [special.value]
  # <pad> is nothing in a text, <mask> stands where a word was.
  pad, mask = more.id_of(Special.PAD), more.id_of(Special.MASK)
  ids = more.encode('abc')
  assert more.decode(np.array([pad, *ids, pad])) == more.decode(ids)
  assert '<mask>' in more.decode(np.array([*ids, mask, *ids]))
  assert Special.MASK not in plain.specials


def test_unseen_symbols_are_unknown() -> None:
  for tokenizer in (WordTokenizer(), WordPieceTokenizer(vocab_size=120)):
    vocabulary = _train(tokenizer, _text())
    unknown = vocabulary.id_of(Special.UNK)
    ids = vocabulary.encode('Ωmega')
    assert ids.tolist() == [unknown]
    assert vocabulary.decode(ids) == '<unk>'
  vocabulary = _train(CharTokenizer(), 'abc', (Special.UNK,))
  ids = vocabulary.encode('axb')
  assert ids.tolist() == [1, 0, 2]
  assert vocabulary.decode(ids) == 'a<unk>b'


def test_bytes_need_no_unknown() -> None:
  for tokenizer in (ByteTokenizer(), BpeTokenizer(vocab_size=300)):
    vocabulary = _train(tokenizer, _text(), WANTED)
    assert vocabulary.specials == (Special.PAD, Special.MASK)
    assert vocabulary.decode(vocabulary.encode('Ωmega🙂')) == 'Ωmega🙂'


def test_unknown_characters_are_named() -> None:
  vocabulary = CharVocabulary('abc')
  with pytest.raises(UnknownSymbols, match=r"2 characters .*: 'ß' '🙂'$"):
    vocabulary.encode('a🙂bßß')
  many = ''.join(map(chr, range(0x100, 0x110)))
  with pytest.raises(UnknownSymbols, match=r"16 characters .* 'ć' .*\.\.\."):
    vocabulary.encode(many)


@each
def test_many_texts_are_cut_as_each_alone(tokenizer: AnyTokenizer) -> None:
  vocabulary = _train(tokenizer, _text())
  texts = [line for line in _text().split('\n') if line][:20]
  together = vocabulary.encode_all(texts)
  assert [x.tolist() for x in together] == [
    vocabulary.encode(text).tolist() for text in texts
  ]


@each
def test_what_comes_after_a_text_is_what_it_adds(
  tokenizer: AnyTokenizer,
) -> None:
  """Wherever a text is cut between two of its tokens."""
  text = _text()
  vocabulary = _train(tokenizer, text)
  ids = vocabulary.encode(text)
  whole, cut = vocabulary.decode(ids), 0
  for n in range(1, 60):
    begun = vocabulary.decode(ids[:n])
    added = vocabulary.decode_after(ids[:n], ids[n:])
    if not begun.endswith('\ufffd'):  # bytes of which a character lacks some
      assert begun + added == whole
      cut += 1
  assert cut > 20
  assert vocabulary.decode_after(ids, ids[:0]) == ''


def test_a_space_parts_what_follows_from_a_word() -> None:
  words = _train(WordTokenizer(), 'a b\nc')
  a, b, c, line = map(words.encode, ('a', 'b', 'c', '\n'))
  assert words.decode_after([*a], [*b, *line, *c]) == ' b\nc'
  assert words.decode_after([*a, *line], [*b]) == 'b'
  text = 'low lower lowest new newer newest ' * 9
  pieces = _train(WordPieceTokenizer(vocab_size=35), text)
  ids = pieces.encode('newest low')
  (inside,) = [n for n, s in enumerate(pieces.symbols(ids)) if s == 'low']
  assert pieces.decode_after(ids[:inside], ids[inside:]) == ' low'
  first = pieces.symbols(ids)[0]
  assert pieces.decode_after(ids[:1], ids[1:inside]) == 'newest'[len(first) :]


def test_half_a_character_is_followed_by_its_bytes() -> None:
  ids = ByteVocabulary().encode('aéb')
  assert ByteVocabulary().decode_after(ids[:2], ids[2:]) == '\ufffdb'


# Characters and bytes. --------------------------------------------------------


def test_every_byte_is_its_own_id() -> None:
  vocabulary = ByteVocabulary()
  ids = vocabulary.encode('é\x00A')
  assert ids.tolist() == [0xC3, 0xA9, 0, 65]
  assert vocabulary.symbols(ids) == ['c3', 'a9', '\x00', 'A']
  assert vocabulary.decode(ids[:1]) == '\ufffd'


def test_more_symbols_than_a_byte_holds() -> None:
  text = ''.join(map(chr, range(0x4E00, 0x4E00 + 300)))
  vocabulary = _train(CharTokenizer(), text)
  assert vocabulary.encode(text).tolist() == list(range(300))


def test_characters_are_ordered_by_code_point() -> None:
  assert _train(CharTokenizer(), 'zaéa') == CharVocabulary('azé')


# Learning. --------------------------------------------------------------------


def test_words_are_ordered_by_count_then_name() -> None:
  text = 'b a c b\nB d d d'
  assert _train(WordTokenizer(), text).content()['words'] == [
    *['d', 'b', '\n', 'B', 'a', 'c']
  ]
  rare = _train(WordTokenizer(min_count=2), text)
  assert rare.content()['words'] == ['d', 'b']
  lowered = _train(
    WordTokenizer(lowercase=True, vocab_size=8), text + ' e f g h i j'
  )
  # With <unk>, 8 in all.
  assert lowered.content()['words'] == ['b', 'd', '\n', 'a', 'c', 'e', 'f']
  assert lowered.size == 8
  assert lowered.symbols(lowered.encode('B')) == ['b']


def _merged(text: str, count: int) -> list[tuple[str, str]]:
  """Returns the first merges of byte pairs, by the definition.

  Sennrich et al. 2016, algorithm 1; of equal counts, the pair whose pieces were
  made first.
  """
  words = [['Ġ' * (n > 0), *w] for n, w in enumerate(text.split(' '))]
  words = [[c for c in w if c] for w in words]
  made = sorted({c for w in words for c in w})
  merges = []
  for _ in range(count):
    pairs: dict[tuple[str, str], int] = {}
    for w in words:
      for pair in itertools.pairwise(w):
        pairs[pair] = pairs.get(pair, 0) + 1
    best = min(
      pairs, key=lambda p: (-pairs[p], made.index(p[0]), made.index(p[1]))
    )
    merges.append(best)
    made.append(''.join(best))
    for w in words:
      n = 0
      while n < len(w) - 1:
        if (w[n], w[n + 1]) == best:
          w[n : n + 2] = [''.join(best)]
        n += 1
  return merges


def test_byte_pairs_are_merged_as_defined() -> None:
  text = ' '.join(_words(3, letters='abcd'))
  merges = _train(BpeTokenizer(vocab_size=306), text).content()['merges']
  assert len(merges) == 50
  assert [tuple(pair) for pair in merges] == _merged(text, 50)


@pytest.mark.slow
@each
def test_two_trainings_give_one_vocabulary(tokenizer: AnyTokenizer) -> None:
  first = _train(tokenizer, _text())
  assert all(_train(tokenizer, _text()) == first for _ in range(3))
  assert first.digest == _train(tokenizer, _text()).digest
  # In another process names have other hashes.
  code = (
    'import sys, json\nfrom train.text import store\n'
    'from train.text.tokenizer import *\n'
    f'v = {tokenizer!r}.train(lambda: [{_text()!r}])\nprint(v.digest)'
  )
  if tokenizer.learned:
    other = subprocess.run(
      [sys.executable, '-c', code], capture_output=True, text=True, check=True
    )
    assert other.stdout.strip() == first.digest


@pytest.mark.parametrize(
  'tokenizer',
  [
    WordTokenizer(vocab_size=50),
    BpeTokenizer(vocab_size=290),
    WordPieceTokenizer(vocab_size=50),
  ],
  ids=lambda t: t.tag,
)
def test_size_is_kept_with_special_tokens(tokenizer: AnyTokenizer) -> None:
  for specials in ((), WANTED, tuple(Special)):
    vocabulary = _train(tokenizer, _text(), specials)
    assert vocabulary.size == tokenizer.vocab_size
    every = vocabulary.symbols(np.arange(vocabulary.size))
    assert len(every) == tokenizer.vocab_size


def test_too_few_word_pieces_are_refused() -> None:
  with pytest.raises(FieldError, match=r'=8: must be at least \d+: .* \d+ ch'):
    _train(WordPieceTokenizer(vocab_size=8), _text())


# Texts. -----------------------------------------------------------------------


def test_what_is_learned_is_learned_from_the_training_part(
  tmp_path: pathlib.Path,
) -> None:
  path = tmp_path / 'a.txt'
  path.write_text('abc def ' * 100 + 'xyz ' * 20)
  for tokenizer in (
    WordTokenizer(),
    BpeTokenizer(vocab_size=300),
    WordPieceTokenizer(vocab_size=60),
  ):
    data = Text(path=str(path), tokenizer=tokenizer).load()
    known = ' '.join(data.vocabulary.symbols(np.arange(data.vocabulary.size)))
    assert 'def' in known
    assert 'xyz' not in known
    train, held = data.arrays['train'], data.arrays['validation']
    assert 'xyz' not in data.vocabulary.decode(train)
    if isinstance(tokenizer, BpeTokenizer):
      whole = data.vocabulary.decode(np.concatenate([train, held]))
      assert whole == path.read_text()
    else:
      assert 'unknown' in data.description
  # Of 220 words of 4 characters.
  data = Text(path=str(path), tokenizer=WordTokenizer()).load()
  sizes = [data.arrays[part].size for part in ('train', 'validation')]
  assert sizes == [198, 22]
  assert data.vocabulary.decode(data.arrays['train'][-2:]) == 'abc def'
  assert '220 words, 3 symbols, 9.09% unknown' in data.description


def test_digest_is_that_of_the_text(tmp_path: pathlib.Path) -> None:
  path = tmp_path / 'a.txt'
  path.write_text(_text())
  digests = {
    Text(path=str(path), tokenizer=tokenizer).load().digest
    for tokenizer in SMALL
  }
  assert len(digests) == 1


def test_too_few_pieces_for_a_text_name_the_flag(
  tmp_path: pathlib.Path,
) -> None:
  path = tmp_path / 'a.txt'
  path.write_text(_text())
  task = Text(path=str(path), tokenizer=WordPieceTokenizer(vocab_size=8))
  with pytest.raises(FieldError, match=r'--task\.tokenizer\.vocab_size=8: '):
    task.load()


# On the disk. -----------------------------------------------------------------


@each
def test_vocabulary_comes_back_from_json(
  tokenizer: AnyTokenizer, tmp_path: pathlib.Path
) -> None:
  vocabulary = _train(tokenizer, LETTERS + _text(), WANTED)
  store.write_vocabulary(tmp_path, vocabulary)
  path = tmp_path / store.VOCABULARY_FILE
  found = store.read_vocabulary(path, vocabulary.digest)
  assert found == vocabulary
  assert hash(found) == hash(vocabulary)
  ids = vocabulary.encode(_text(2))
  assert found.encode(_text(2)).tolist() == ids.tolist()
  assert found.decode(ids) == vocabulary.decode(ids)
  assert json.loads(path.read_text())['kind'] == tokenizer.tag


def test_another_or_damaged_vocabulary_is_refused(
  tmp_path: pathlib.Path,
) -> None:
  vocabulary = _train(WordTokenizer(), _text())
  store.write_vocabulary(tmp_path, vocabulary)
  path = tmp_path / store.VOCABULARY_FILE
  with pytest.raises(DataError, match='is not the vocabulary that the trial'):
    store.read_vocabulary(path, _train(WordTokenizer(), 'other').digest)
  whole = path.read_text()
  for bad in (whole[:-40], '', '[]', '{"kind": "x", "specials": []}', '\0'):
    path.write_text(bad)
    with pytest.raises(DataError, match=r'cannot be read as a vocabulary \('):
      store.read_vocabulary(path, vocabulary.digest)
  store.write_vocabulary(tmp_path, vocabulary)
  assert path.read_text() == whole


@dataclasses.dataclass
class Counted:
  """A text that counts how often it is read."""

  text: str
  reads: int = 0

  def __call__(self) -> list[str]:
    self.reads += 1
    return [self.text]


@pytest.mark.parametrize(
  'tokenizer',
  [
    WordTokenizer(),
    BpeTokenizer(vocab_size=300),
    WordPieceTokenizer(vocab_size=120),
  ],
  ids=lambda t: t.tag,
)
def test_training_is_cached_by_content(
  tokenizer: AnyTokenizer,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.setenv('ABLAX_CACHE', str(tmp_path / 'cache'))
  assert cache_folder() == tmp_path / 'cache'
  text = Counted(_text())
  first = store.train_once(tokenizer, WANTED, 'digest', text)
  reads = text.reads
  assert reads > 0
  assert store.train_once(tokenizer, WANTED, 'digest', text) == first
  assert text.reads == reads
  # Another text, other flags, other special tokens.
  store.train_once(tokenizer, WANTED, 'another', text)
  store.train_once(tokenizer, (), 'digest', text)
  store.train_once(
    dataclasses.replace(tokenizer, min_count=3), WANTED, 'digest', text
  )
  assert text.reads == 4 * reads
  # A damaged file is no vocabulary.
  for path in (tmp_path / 'cache' / 'vocabularies').iterdir():
    path.write_text(path.read_text().replace('a', 'b', 1))
  assert store.train_once(tokenizer, WANTED, 'digest', text) == first
  assert text.reads == 5 * reads


def test_a_cache_that_cannot_be_written_is_no_obstacle(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  (tmp_path / 'file').write_text('')
  monkeypatch.setenv('ABLAX_CACHE', str(tmp_path / 'file'))
  found = store.train_once(WordTokenizer(), (), 'digest', lambda: [_text()])
  assert found == _train(WordTokenizer(), _text())


@pytest.mark.slow
def test_the_command_line_does_not_pay_for_the_library() -> None:
  code = (
    'import sys\nfrom experiments.cli import main\n'
    "print('tokenizers' in sys.modules, 'pooch' in sys.modules)"
  )
  found = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  assert found.stdout.split() == ['False', 'False']
