"""All tables: what a task over rows may read."""

from train.delimited import Csv, Tsv
from train.hub import HuggingFace, Tfds
from train.multi30k import Languages, Multi30k, Multi30kBpe
from train.table import Jsonl, Lines, NoTable

AnyTable = (
  NoTable
  | Lines
  | Tsv
  | Csv
  | Jsonl
  | HuggingFace
  | Tfds
  | Multi30k
  | Multi30kBpe
  | Languages
)
