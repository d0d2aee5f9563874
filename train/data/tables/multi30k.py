"""Multi30k: 29,000 pairs of English and German image captions.

The texts may be used for non-commercial research and education, under the terms
of Flickr.
"""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from model.core.field import FieldError, field
from train.data.fetch import RemoteFile, fetch_text
from train.data.tables.base import (
  Rows,
  Table,
  TablePart,
  check_counts,
  split_lines,
)

RAW = (
  'https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw/'
)
CUT = (
  'https://raw.githubusercontent.com/LividWo/Revisit-MMT/master/data/'
  'multi30k-en-de/'
)
PAIR, TEXT, LABELLED = ('source', 'target'), ('text',), ('text', 'label')
Language = Literal['en', 'de']
Held = Literal['validation', 'test']
Files = Mapping[tuple[TablePart | Held, Language], RemoteFile]


@dataclasses.dataclass(frozen=True)
class Captions(Table, abc.ABC):
  """What the plain and the tokenized captions share."""

  source: Language = field('en', 'Language to translate from:')
  held: Held = field(
    'validation',
    'What to evaluate on, 1,014 pairs or the 1,000 of test_2016_flickr:',
  )

  @property
  @abc.abstractmethod
  def files(self) -> Files:
    """Returns the file of each part and language."""

  def unfit(self, columns: Sequence[str]) -> FieldError | None:
    """Returns the error if the table cannot have these columns, else None."""
    return _unfit(self, columns, PAIR, TEXT)

  def part(self, part: TablePart, columns: Sequence[str]) -> Rows:
    """Returns the 29,000 training pairs, or the validation pairs.

    If the task reads one text for each row, it gets the source language alone.
    """
    held = self.held if part == 'validation' else part
    found = _pairs(self.files, self.tag, held, self.source)
    return found._replace(columns=found.columns[: len(columns)])


@dataclasses.dataclass(frozen=True)
class Multi30k(Captions, tag='multi30k'):
  """English and German captions, as written (Elliott et al. 2016)."""

  @property
  def files(self) -> Files:
    """Returns the file of each part and language."""
    return RAW_FILES


@dataclasses.dataclass(frozen=True)
class Multi30kBpe(Captions, tag='multi30k_bpe'):
  """The captions of multi30k, lower case, BPE with @@ (Wu et al. 2021)."""

  pretokenized: ClassVar[bool] = True

  @property
  def files(self) -> Files:
    """Returns the file of each part and language."""
    return CUT_FILES


@dataclasses.dataclass(frozen=True)
class Languages(Table, tag='multi30k_languages'):
  """The captions of Multi30k, each with its language as the label."""

  held: Held = field(
    'validation',
    'What to evaluate on, 1,014 pairs or the 1,000 of test_2016_flickr:',
  )

  def unfit(self, columns: Sequence[str]) -> FieldError | None:
    """Returns the error if the table cannot have these columns, else None."""
    return _unfit(self, columns, LABELLED)

  def part(self, part: TablePart, columns: Sequence[str]) -> Rows:
    """Returns the 58,000 training captions, or the validation captions."""
    held = self.held if part == 'validation' else part
    texts = _pairs(RAW_FILES, 'multi30k', held, 'en').columns
    labels = ([name] * len(texts[0]) for name in ('en', 'de'))
    return Rows(
      f'multi30k_languages {part}',
      (
        [text for column in texts for text in column],
        [label for column in labels for label in column],
      ),
    )


def _unfit(
  table: Table, columns: Sequence[str], *held: Sequence[str]
) -> FieldError | None:
  """Returns an error unless the columns are among those that a table holds."""
  if tuple(columns) in held:
    return None
  return FieldError(
    'data',
    table,
    f'holds {" and ".join(held[0])}, and --task reads '
    f'{" and ".join(columns)}: choose another table, or task',
  )


def _pairs(
  files: Files,
  name: str,
  part: TablePart | Held,
  source: Language,
) -> Rows:
  target: Language = 'de' if source == 'en' else 'en'
  remotes = [files[part, language] for language in (source, target)]
  found = tuple(split_lines(fetch_text(remote)) for remote in remotes)
  check_counts([remote.name for remote in remotes], found)
  return Rows(f'{name} {part}', found)


def _raw(name: str, sha256: str) -> RemoteFile:
  return RemoteFile(f'multi30k/{name}.gz', f'{RAW}{name}.gz', sha256)


def _cut(name: str, sha256: str) -> RemoteFile:
  return RemoteFile(f'multi30k_bpe/{name}', f'{CUT}{name}', sha256)


RAW_FILES: Files = {
  ('train', 'en'): _raw(
    'train.en',
    'd79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f',
  ),
  ('train', 'de'): _raw(
    'train.de',
    '726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6',
  ),
  ('validation', 'en'): _raw(
    'val.en',
    '14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28',
  ),
  ('validation', 'de'): _raw(
    'val.de',
    'f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a',
  ),
  ('test', 'en'): _raw(
    'test_2016_flickr.en',
    '611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9',
  ),
  ('test', 'de'): _raw(
    'test_2016_flickr.de',
    '9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8',
  ),
}
CUT_FILES: Files = {
  ('train', 'en'): _cut(
    'train.en',
    '0ffe3e3bac16e6aa33ef0dd6a7dca81587479b0d18dff0db2a92ac3f32b00c86',
  ),
  ('train', 'de'): _cut(
    'train.de',
    'b2c74def7ec129f7ea7023a51501c77174c377ef06c6ccc2f031adcfb5cfadbd',
  ),
  ('validation', 'en'): _cut(
    'valid.en',
    '193d0d18fef5d1bc9d1cddafa13a644de3c5d6a24b45ac44476dcc5e96bfac6e',
  ),
  ('validation', 'de'): _cut(
    'valid.de',
    'eeb95680d6a06eafb13e3494eed9f9fa99783b892f4a3c72dd36e7ce2e000b68',
  ),
  ('test', 'en'): _cut(
    'test.2016.en',
    '13b5fe3f92f78c54446d66afcaaa0a00a33ab653a8411f16812c9c5ca3795d6d',
  ),
  ('test', 'de'): _cut(
    'test.2016.de',
    '375c20d50f4c486149a78dfcfb161a430a04ddabe2b7d150f0c7811dc455ac60',
  ),
}
