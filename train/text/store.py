"""Vocabularies on disk: in the folder of a trial, and in the cache."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from train.code.reach import method_digest
from train.files.durable import cache_folder, read_file_bytes, write_atomically
from train.files.strict import DamagedFile, parse_json
from train.flags.schema import to_flags
from train.text.subwords import BpeVocabulary, WordPieceVocabulary
from train.text.tokenizer import AnyTokenizer, Texts
from train.text.vectors import VectorVocabulary
from train.text.vocabulary import (
  ByteVocabulary,
  CharVocabulary,
  Special,
  Vocabulary,
)
from train.text.words import WordVocabulary

VOCABULARY_FILE = 'vocabulary.json'
_FIX = (
  'copy it from another trial with the same data and --task.tokenizer, or '
  'repeat the command that trained it'
)


def from_json(about: Mapping[str, Any]) -> Vocabulary:
  """Returns a vocabulary from its JSON values; the inverse of `to_json`.

  Raises:
    KeyError, TypeError, ValueError: the values are not those of a vocabulary.
  """
  rest = dict(about)
  kind, labels = rest.pop('kind'), tuple(rest.pop('labels', ()))
  specials = tuple(Special[name] for name in rest.pop('specials'))
  return dataclasses.replace(_bare(kind, rest, specials), labels=labels)


def _bare(
  kind: str, rest: Mapping[str, Any], specials: tuple[Special, ...]
) -> Vocabulary:
  """Returns a vocabulary from its kind and content, without class labels."""
  if kind == ByteVocabulary.kind:
    return ByteVocabulary(specials=specials)
  if kind == CharVocabulary.kind:
    return CharVocabulary(rest['characters'], specials=specials)
  if kind == WordVocabulary.kind:
    return WordVocabulary(
      tuple(rest['words']), rest['lowercase'], specials=specials
    )
  if kind == VectorVocabulary.kind:
    widths = int(rest['inputs']), int(rest['outputs'])
    return VectorVocabulary(*widths, specials=specials)
  pieces = tuple(rest['pieces'])
  if kind == BpeVocabulary.kind:
    merges = tuple((a, b) for a, b in rest['merges'])
    return BpeVocabulary(pieces, merges, specials=specials)
  if kind == WordPieceVocabulary.kind:
    return WordPieceVocabulary(pieces, rest['lowercase'], specials=specials)
  raise ValueError(f'{kind} is no kind of vocabulary')


def write_vocabulary(folder: pathlib.Path, vocabulary: Vocabulary) -> None:
  """Writes the vocabulary of a trial, unless the file is there already."""
  path, text = folder / VOCABULARY_FILE, json.dumps(vocabulary.to_json()) + '\n'
  if not path.exists() or path.read_text(errors='replace') != text:
    write_atomically(path, text)


def read_vocabulary(path: pathlib.Path, digest: str) -> Vocabulary:
  """Reads a vocabulary and verifies its digest.

  Raises:
    DamagedFile: the file cannot be read, or has another digest.
  """
  try:
    found = from_json(parse_json(read_file_bytes(path)))
    same = found.digest == digest
  # Damaged content may cause any of these errors.
  except (AttributeError, OSError, LookupError, TypeError, ValueError) as e:
    fault = f'{path}: cannot be read as a vocabulary ({type(e).__name__})'
    raise DamagedFile(fault, _FIX) from e
  if not same:
    fault = f'{path}: is not the vocabulary that the trial was trained with'
    raise DamagedFile(fault, _FIX)
  return found


def train_once(
  tokenizer: AnyTokenizer,
  specials: Sequence[Special],
  digest: str,
  texts: Texts,
) -> Vocabulary:
  """Trains a tokenizer, or takes its vocabulary from the cache.

  Args:
    tokenizer: the tokenizer to train.
    specials: special tokens that the task needs.
    digest: a text that determines `texts`, for the key of the cache.
    texts: gives the texts to train on at each call.
  """
  if not tokenizer.learned:
    return tokenizer.train(texts, specials)
  about = [tokenizer.tag, to_flags(tokenizer), digest]
  about.append([special.name for special in specials])
  about.append(method_digest('train', tokenizer))
  key = hashlib.sha256(json.dumps(about).encode()).hexdigest()
  path = cache_folder() / 'vocabularies' / f'{key}.json'
  if path.exists():
    found = _read_cached(path)
    if found is not None:
      return found
  made = tokenizer.train(texts, specials)
  kept = {'digest': made.digest, 'vocabulary': made.to_json()}
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(kept))
  except OSError:
    pass  # the trial stores a copy of its own; only a later trial takes longer
  return made


def _read_cached(path: pathlib.Path) -> Vocabulary | None:
  """Returns a vocabulary of the cache, or None if the file is damaged."""
  try:
    kept = parse_json(read_file_bytes(path))
    found = from_json(kept['vocabulary'])
    return found if found.digest == kept['digest'] else None
  except (AttributeError, OSError, LookupError, TypeError, ValueError):
    return None
