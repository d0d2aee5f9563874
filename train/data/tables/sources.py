"""The union of all tables, for the flag --task.data."""

from train.data.tables.base import Jsonl, NoTable, ParallelText
from train.data.tables.delimited import CsvTable, Tsv
from train.data.tables.hub import HuggingFace, Tfds
from train.data.tables.multi30k import Languages, Multi30k, Multi30kBpe

AnyTable = (
  NoTable
  | ParallelText
  | Tsv
  | CsvTable
  | Jsonl
  | HuggingFace
  | Tfds
  | Multi30k
  | Multi30kBpe
  | Languages
)
