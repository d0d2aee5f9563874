"""Vocabularies on the disk: beside a trial, and in the user's cache."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from train.files import cache, content, write_atomically
from train.reach import code_that
from train.schema import to_flags
from train.strict import Damaged, parse_json
from train.subwords import BytePairs, WordPieces
from train.tokenizer import Texts, Tokenizer
from train.vocabulary import Bytes, Characters, Special, Vocabulary
from train.words import Words

FILE = 'vocabulary.json'
_WAY_OUT = (
  'copy it from another trial with the same data and --task.tokenizer, or '
  'repeat the command that trained it'
)


def from_json(about: Mapping[str, Any]) -> Vocabulary:
  """Returns the vocabulary of which `to_json` returned this.

  Raises:
    KeyError, TypeError, ValueError: it is not one.
  """
  rest = dict(about)
  kind, labels = rest.pop('kind'), tuple(rest.pop('labels', ()))
  specials = tuple(Special[name] for name in rest.pop('specials'))
  return dataclasses.replace(_bare(kind, rest, specials), labels=labels)


def _bare(
  kind: str, rest: Mapping[str, Any], specials: tuple[Special, ...]
) -> Vocabulary:
  """Returns a vocabulary without labels."""
  if kind == Bytes.kind:
    return Bytes(specials=specials)
  if kind == Characters.kind:
    return Characters(rest['characters'], specials=specials)
  if kind == Words.kind:
    return Words(tuple(rest['words']), rest['lowercase'], specials=specials)
  pieces = tuple(rest['pieces'])
  if kind == BytePairs.kind:
    merges = tuple((a, b) for a, b in rest['merges'])
    return BytePairs(pieces, merges, specials=specials)
  if kind == WordPieces.kind:
    return WordPieces(pieces, rest['lowercase'], specials=specials)
  raise ValueError(f'{kind} is no kind of vocabulary')


def write_vocabulary(folder: pathlib.Path, vocabulary: Vocabulary) -> None:
  """Writes the vocabulary of a trial."""
  path, text = folder / FILE, json.dumps(vocabulary.to_json()) + '\n'
  if not path.exists() or path.read_text(errors='replace') != text:
    write_atomically(path, text)


def read_vocabulary(path: pathlib.Path, digest: str) -> Vocabulary:
  """Returns a vocabulary that was written.

  Raises:
    Damaged: the file cannot be read, or is not the one with this digest.
  """
  try:
    found = from_json(parse_json(content(path)))
    same = found.digest == digest
  # What is no vocabulary goes wrong wherever it is taken for one.
  except (AttributeError, OSError, LookupError, TypeError, ValueError) as e:
    fault = f'{path}: cannot be read as a vocabulary ({type(e).__name__})'
    raise Damaged(fault, _WAY_OUT) from e
  if not same:
    fault = f'{path}: is not the vocabulary that the trial was trained with'
    raise Damaged(fault, _WAY_OUT)
  return found


def train_once(
  tokenizer: Tokenizer, specials: Sequence[Special], digest: str, texts: Texts
) -> Vocabulary:
  """Returns the vocabulary of a text, from the cache if it was made before.

  Args:
    tokenizer: what to train.
    specials: tokens that the task wants beside those of the text.
    digest: of all that `texts` is a function of.
    texts: what to train on.
  """
  if not tokenizer.learned:
    return tokenizer.train(texts, specials)
  about = [tokenizer.tag, to_flags(tokenizer), digest]
  about.append([special.name for special in specials])
  about.append(code_that('train', tokenizer))
  key = hashlib.sha256(json.dumps(about).encode()).hexdigest()
  path = cache() / 'vocabularies' / f'{key}.json'
  if path.exists():
    found = _cached(path)
    if found is not None:
      return found
  made = tokenizer.train(texts, specials)
  kept = {'digest': made.digest, 'vocabulary': made.to_json()}
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(kept))
  except OSError:
    pass  # the trial keeps its own; the next one takes the time again
  return made


def _cached(path: pathlib.Path) -> Vocabulary | None:
  """Returns a vocabulary of the cache, or none if the file is damaged."""
  try:
    kept = parse_json(content(path))
    found = from_json(kept['vocabulary'])
    return found if found.digest == kept['digest'] else None
  except (AttributeError, OSError, LookupError, TypeError, ValueError):
    return None
