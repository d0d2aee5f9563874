"""All tables: what a task over rows may read."""

from train.hub import HuggingFace, Tfds
from train.multi30k import Languages, Multi30k, Multi30kBpe
from train.table import Jsonl, Lines, NoTable, Tsv

AnyTable = (
  NoTable
  | Lines
  | Tsv
  | Jsonl
  | HuggingFace
  | Tfds
  | Multi30k
  | Multi30kBpe
  | Languages
)
