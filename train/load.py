"""Trained trials, back in Python: parameters and how to apply them."""

import contextlib
import dataclasses
import math
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from model import transformer
from model.backend import Auto
from model.field import FieldError
from model.network import EVERY_HEAD, HeadGates, Source
from model.transformer import Output
from train import code
from train.checkpoint import BEST, Checkpoints, Restored, one_line
from train.code import some
from train.config import Config
from train.evaluation import TARGETS, extent, figures
from train.feed import check, evaluation, fed
from train.files import digest
from train.parallel import Shared, to_host
from train.program import program, signature
from train.records import (
  AGAIN,
  BEGUN,
  FOLDER,
  TRIALS,
  read_begun,
  read_end,
  read_trials,
)
from train.schema import override
from train.step import Params, State, init_state
from train.store import FILE, read_vocabulary
from train.strict import Damaged
from train.suggest import suggest
from train.task import DataError, Task
from train.vocabulary import Special, Vocabulary


@dataclasses.dataclass(frozen=True)
class Loaded:
  """A trained trial; `other_code` is what of its code was other, in words."""

  trial: str
  config: Config
  vocabulary: Vocabulary
  params: Params
  step: int
  other_code: tuple[str, ...] = ()

  @property
  def caveat(self) -> str:
    """Returns that it was trained by other code than is here, if it was."""
    if not self.other_code:
      return ''
    return f'was trained by other code than is here: {some(self.other_code)}'

  def apply(
    self,
    tokens_BT: Any,
    want_weights: bool = False,
    source_BS: Any = None,
    head_gates: HeadGates = EVERY_HEAD,
    segments_BT: Any = None,
  ) -> Output:
    """Returns logits for token ids, and attention weights if asked for.

    Args:
      tokens_BT: token ids; of what an encoder-decoder has written so far,
        <bos> first.
      want_weights: also return those of every attention (see `Output`).
      source_BS: token ids of what an encoder-decoder reads, <eos> last; <pad>
        is seen by nobody.
      head_gates: factors of the outputs of heads.
      segments_BT: document of each token from 1 on, 0 for padding; none is one
        document.

    Raises:
      ValueError: a source is missing, or there is none to read; there are no
        such heads; or tokens beyond --seq_len, where parameters are of single
        positions.
    """
    arch = self.config.architecture
    if arch.model.has_source != (source_BS is not None):
      what = 'needs' if arch.model.has_source else 'reads no'
      raise ValueError(f'a model of --model={arch.model.tag} {what} source_BS')
    source = None
    if source_BS is not None:
      ids_BS = jnp.asarray(source_BS, jnp.int32)
      real_BS = ids_BS != self.vocabulary.id_of(Special.PAD)
      source = Source(ids_BS, real_BS.astype(jnp.int32))
    ids_BT = jnp.asarray(tokens_BT, jnp.int32)
    for ids in (ids_BT, *(() if source is None else (source.tokens_BS,))):
      self._check_length(ids.shape[1])
    if segments_BT is None:
      segments_BT = transformer.one_document(arch, ids_BT)
    return transformer.apply(
      arch,
      self.config.sizes(self.vocabulary),
      self.params,
      ids_BT,
      want_weights=want_weights,
      segments_BT=segments_BT,
      head_gates=head_gates,
      source=source,
    )

  def _check_length(self, length: int) -> None:
    """Raises where positions have no parameters: JAX would take the last."""
    config = self.config
    if length <= config.seq_len:
      return
    arch, dims = config.architecture, config.sizes(self.vocabulary)
    mine = arch.parameter_table(dims)
    longer = arch.parameter_table(dataclasses.replace(dims, seq_len=length))
    ends = [path for path in mine if mine[path].shape != longer[path].shape]
    if ends:
      raise ValueError(
        f'{length} tokens, and {ends[0]} has parameters for '
        f'--seq_len={config.seq_len}: give fewer, or train with others, such '
        'as --position=rope'
      )

  def encode(self, text: str) -> np.ndarray:
    """Returns the token ids of a text in the vocabulary of the trial."""
    return self.vocabulary.encode(text)

  def evaluate(
    self,
    task: Task | None = None,
    say: Callable[[str], None] = lambda line: None,
    everything: bool = False,
  ) -> dict[str, float]:
    """Returns loss (nats a token) and accuracy on a task's validation part.

    And what the task says of the model besides, such as BLEU.

    Args:
      task: another text, say; none is what the trial was trained on.
      say: is told what the data are, and what of them is left out.
      everything: evaluate on all of a text, not on a part of it.
    """
    config = self.config
    if task is not None:
      config = dataclasses.replace(config, task=task, eval_examples=None)
    load_data = config.task.load_all if everything else config.task.load
    data = load_data(self.vocabulary)
    if problem := config.misfit(data):
      raise DataError(problem)
    for line in (data.description, config.task.notes(data, config.seq_len)):
      if line:
        say(f'data: {line}')
    device = jax.local_devices()[0]
    layout = Shared((device,))
    check(config, data, None, device)
    on_host = fed(config, data, None, device)
    arrays = evaluation(config, data) if on_host else dict(data.arrays)
    sig, values = signature(config, data, layout, on_host)
    sums = to_host(
      program(sig).evaluate(
        layout.place(self.params), layout.place(values), layout.place(arrays)
      )
    )
    judged = config.task.judge(config.architecture, sig.dims, self.params, data)
    found = {**figures(config, sums), **extent(sums)}
    found |= {'tokens': found[TARGETS], **config.task.measures(data)}
    found |= judged.figures
    return {
      name: math.nan if x is None else float(x) for name, x in found.items()
    }


def load(workdir: str | pathlib.Path, trial: str, best: bool = False) -> Loaded:
  """Returns a trained trial of a working directory.

  Where its backend cannot run on this machine, `auto` computes the same.

  Args:
    workdir: of the run.
    trial: ROW/SEED, or ROW for its first seed, or the id of a trial or its
      beginning.
    best: the checkpoint with the lowest validation loss, not the last one.

  Raises:
    DataError: there is no such trial, or no whole checkpoint of it.
  """
  directory = find(pathlib.Path(workdir), trial)
  about = read_begun(directory)
  try:
    own = override(Config(), about.flags)
  except FieldError as e:
    path = directory / BEGUN
    raise DataError(f'{path}: is of another version ({e}): {AGAIN}') from e
  config = here(own, jax.default_backend())
  vocabulary = read_vocabulary(directory / FILE, about.vocabulary.digest)
  template = init_state(config, config.sizes(vocabulary)).saved
  restored = (_best if best else _last)(directory, template)
  # On a device, so that functions of it can be compiled.
  params = jax.tree.map(jnp.asarray, State(*restored.tree).evaluated)
  other = _other_code(about.code, own)
  return Loaded(about.trial, config, vocabulary, params, restored.step, other)


def _other_code(recorded: Any, config: Config) -> tuple[str, ...]:
  """Returns what of the code of a trial is other than here, in words."""
  whole = code.whole(recorded)
  if code.standing(whole, config) != 'other':
    return ()
  return tuple(code.differences(whole, config)) or ('all of it',)


def _last(directory: pathlib.Path, template: Any) -> Restored:
  """Returns the last checkpoint of a trial: the one of its record, if any."""
  end, notes = read_end(directory), list[str]()
  with _opened(directory, notes.append) as checkpoints:
    found = checkpoints.restore(template)
  if found is None:
    raise Damaged(
      f'{directory}: has no whole checkpoint{_because(notes)}', AGAIN
    )
  if end is None:
    if notes:
      raise Damaged(
        f'{directory}: its newest checkpoint is damaged and the one before is '
        f'of step {found.step}{_because(notes)}',
        AGAIN,
      )
    return found
  last = found.step if end.step is None else end.step
  if found.step != last and not (end.status == 'paused' and found.step > last):
    raise Damaged(
      f'{directory}: its newest whole checkpoint is of step {found.step}, its '
      f'record of step {last}{_because(notes)}',
      _anew(directory, last),
    )
  if found.step == last and digest(State(*found.tree).evaluated) != end.digest:
    raise Damaged(
      f'{directory}: checkpoint {last} holds other parameters than its record '
      'says',
      _anew(directory, last),
    )
  return found


def _best(directory: pathlib.Path, template: Any) -> Restored:
  """Returns the checkpoint with the lowest validation loss."""
  end = read_end(directory)
  step = (
    _last(directory, template).extra[BEST] if end is None else end.best_step
  )
  if step is None:
    raise DataError(
      f'{directory}: has no best checkpoint, as no validation loss was '
      'finite: leave best out'
    )
  with _opened(directory, lambda line: None) as checkpoints:
    try:
      found = checkpoints.restore_step(step, template)
    except Exception as e:
      raise Damaged(
        f'{directory}: its best checkpoint, of step {step}, is damaged or gone '
        f'({one_line(e)})',
        f'empty {directory / FOLDER} and {AGAIN}',
      ) from e
  if found.extra[BEST] != step:
    raise Damaged(
      f'{directory}: checkpoint {step} is not its best as its record says',
      f'empty {directory / FOLDER} and {AGAIN}',
    )
  return found


@contextlib.contextmanager
def _opened(
  directory: pathlib.Path, warn: Callable[[str], None]
) -> Iterator[Checkpoints]:
  """Yields the checkpoints of a trial, to be read only."""
  if not (directory / FOLDER).is_dir():
    raise DataError(f'{directory}: has no checkpoint yet')
  checkpoints = Checkpoints(directory / FOLDER, 1, warn, read_only=True)
  try:
    yield checkpoints
  finally:
    checkpoints.close()


def _anew(directory: pathlib.Path, step: int) -> str:
  """Returns how to train the last part of a trial again."""
  path = directory / FOLDER / str(step)
  return f'remove {path} and {AGAIN}' if path.exists() else AGAIN


def _because(notes: Sequence[str]) -> str:
  return f' ({"; ".join(notes)})' if notes else ''


def here(config: Config, platform: str) -> Config:
  """Returns the configuration, with `auto` for a backend that is not here."""
  arch = config.architecture
  if arch.backend.absent(platform) is None:
    return config
  arch = dataclasses.replace(arch, backend=Auto())
  return dataclasses.replace(config, architecture=arch)


def find(workdir: pathlib.Path, trial: str) -> pathlib.Path:
  """Returns the run directory of a trial named by id, ROW or ROW/SEED."""
  runs = workdir / 'runs'
  # os.path, for pathlib raises where a name is too long or out of reach.
  ids = sorted(p.name for p in runs.iterdir()) if os.path.isdir(runs) else []
  if not ids:
    raise DataError(f'{workdir}: is not a working directory with trials')
  row, _, seed = trial.rpartition('/') if '/' in trial else (trial, '', '')
  lines = read_trials(workdir)
  named = {
    line['seed']: line['trial']
    for line in lines.values
    if line['row'] == row and (not seed or str(line['seed']) == seed)
  }
  known = trial in ids or (trial and [i for i in ids if i.startswith(trial)])
  if lines.faults and not known:  # one of them may be the trial that is meant
    raise Damaged(lines.said(workdir / TRIALS)[0], f'{AGAIN}, or give an id')
  if named:
    return runs / named[min(named)]
  found = [name for name in ids if trial and name.startswith(trial)]
  if len(found) == 1:
    return runs / found[0]
  if found:
    raise DataError(
      f'{workdir}: has {len(found)} trials {trial}: {", ".join(found[:8])}: '
      'give more letters'
    )
  raise DataError(
    f'{workdir}: has no trial {trial}: {_rows_of(lines.values, trial)}'
  )


def _rows_of(lines: Sequence[Mapping[str, Any]], trial: str) -> str:
  """Returns the names that trials have, for one who gave another."""
  rows: dict[str, list[int]] = {}
  for line in lines:
    rows.setdefault(line['row'], []).append(line['seed'])
  if not rows:
    return 'no trial has ended yet: give the beginning of an id'
  row, _, seed = trial.rpartition('/') if '/' in trial else (trial, '', '')
  if row in rows:
    seeds = ', '.join(map(str, sorted(rows[row])))
    return f'row {row} has no seed {seed}: it has {seeds}'
  meant = [name for name in rows if row in re.split('[ =,]', name)]
  hint = suggest(meant[0] if len(meant) == 1 else row, rows)
  return f'its rows are {"|".join(rows)}, named ROW or ROW/SEED{hint}'
