"""Loads trained trials: their parameters, to apply or to evaluate."""

import dataclasses
import math
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from model import transformer
from model.backends.base import AutoBackend
from model.core.field import FieldError
from model.core.inputs import EVERY_HEAD, HeadGates, ModelInputs, Source
from model.core.parameter import Params
from model.core.side_output import NOTHING, Request
from model.interfaces import NetworkOutput
from train.config import code_digest as code
from train.config.code_digest import first_few
from train.config.config import Config
from train.core.errors import DataError
from train.devices.parallel import SharedLayout, to_host
from train.evaluation import TARGETS, target_counts, validation_metrics
from train.files.records import AGAIN, BEGUN, read_trial_start
from train.flags.schema import override, to_flags
from train.host_feed import check_feed, is_host_fed, validation_batches
from train.inference import restore
from train.inference.document import one_document
from train.probe import Probe
from train.programs.program import get_program
from train.programs.signature import signature
from train.programs.state import TrainState, init_state
from train.tasks.base import Data, Task
from train.text.store import VOCABULARY_FILE, read_vocabulary
from train.text.vocabulary import Special, Vocabulary


@dataclasses.dataclass(frozen=True)
class TrainedTrial:
  """A trained trial.

  Attributes:
    trial: id of the trial.
    config: its configuration.
    vocabulary: of its tokens.
    params: its parameters; with --average, their average.
    step: of the checkpoint.
    data: digest of the data that it was trained and evaluated on.
    other_code: differences of its code from the present code, in words.
  """

  trial: str
  config: Config
  vocabulary: Vocabulary
  params: Params
  step: int
  data: str
  other_code: tuple[str, ...] = ()

  @property
  def code_warning(self) -> str:
    """Returns a warning if the trial was trained by other code, else ''."""
    if not self.other_code:
      return ''
    return (
      f'was trained by other code than is here: {first_few(self.other_code)}'
    )

  def apply(
    self,
    tokens_BT: Any = None,
    wanted: Request = NOTHING,
    source_BS: Any = None,
    head_gates: HeadGates = EVERY_HEAD,
    segments_BT: Any = None,
    vectors_BTI: Any = None,
  ) -> NetworkOutput:
    """Returns the logits for token ids, and the side outputs that are wanted.

    In tasks of vectors, vectors take the place of token ids or logits.

    Args:
      tokens_BT: token ids; for an encoder-decoder, the target so far, which
        begins with <bos>.
      wanted: side outputs to return of each layer, such as `ATTENTION_MAPS`
        (see `model/core/side_output.py`).
      source_BS: token ids of the source of an encoder-decoder, which ends with
        <eos>; <pad> is masked.
      head_gates: factors of the outputs of heads.
      segments_BT: number of the document of each token, from 1, and 0 for
        padding; None if all tokens are one document.
      vectors_BTI: the input of a task of vectors.

    Raises:
      ValueError: a source is missing, or the model reads none; the input is
        tokens for vectors, or vectors of another width; a head does not exist;
        or the input is longer than --seq_len and positions have parameters.
    """
    arch = self.config.architecture
    if arch.model.traits.has_source != (source_BS is not None):
      what = 'needs' if arch.model.traits.has_source else 'reads no'
      raise ValueError(f'a model of --model={arch.model.tag} {what} source_BS')
    inputs = self._read(tokens_BT, vectors_BTI)
    self._check_length(inputs.length)
    source = None if source_BS is None else self._source(source_BS)
    if segments_BT is not None:
      inputs = inputs._replace(segments_BT=segments_BT)
    return transformer.apply(
      arch,
      self.config.sizes(self.vocabulary),
      self.params,
      inputs._replace(source=source),
      wanted=wanted,
      head_gates=head_gates,
    )

  def _source(self, source_BS: Any) -> Source:
    """Returns the source of an encoder-decoder, with its padding marked."""
    ids_BS = jnp.asarray(source_BS, jnp.int32)
    self._check_length(ids_BS.shape[1])
    real_BS = ids_BS != self.vocabulary.id_of(Special.PAD)
    return Source(ids_BS, real_BS.astype(jnp.int32))

  def _read(self, tokens_BT: Any, vectors_BTI: Any) -> ModelInputs:
    """Returns tokens or vectors as one document; raises for the wrong kind."""
    width = self.config.task.num_inputs
    given = tokens_BT is not None, vectors_BTI is not None
    if given != (not width, bool(width)):
      what = 'vectors_BTI, no tokens_BT' if width else 'tokens_BT, no vectors'
      raise ValueError(f'a model of --task={self.config.task.tag} reads {what}')
    if not width:
      ids_BT = jnp.asarray(tokens_BT, jnp.int32)
      return one_document(self.config.architecture, ids_BT)
    read_BTI = jnp.asarray(vectors_BTI)
    if read_BTI.shape[-1] != width:
      raise ValueError(
        f'a model of --task={self.config.task.tag} reads vectors of width '
        f'{width}, not {read_BTI.shape[-1]}'
      )
    return one_document(self.config.architecture, None, read_BTI)

  def _check_length(self, length: int) -> None:
    """Raises for positions without parameters, where JAX would clamp."""
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
    """Returns metrics on the validation part of a task.

    These are the loss (nats per token), the accuracy, metrics of the task such
    as BLEU, and those of --measure.

    Args:
      task: such as another text; None for the task of the trial.
      say: called with lines that describe the data and what is left out.
      everything: whether to evaluate on a whole text, not on a part of it.

    Raises:
      DataError: the data do not fit, or are no longer those of the trial.
    """
    config, data = self._data(task, say, everything)
    device = jax.local_devices()[0]
    layout = SharedLayout((device,))
    check_feed(config, data, None, device)
    on_host = is_host_fed(config, data, None, device)
    arrays = validation_batches(config, data) if on_host else dict(data.arrays)
    sig, values = signature(config, data, layout, on_host)
    params = layout.place(self.params, sig.parameter_axes)
    sums = to_host(
      get_program(sig).evaluate(
        params, layout.place(values), layout.place(arrays)
      )
    )
    judged = config.task.final_metrics(
      config.architecture, sig.dims, self.params, data
    )
    found = {**validation_metrics(config, sums), **target_counts(sums)}
    found |= {'tokens': found[TARGETS], **config.task.measures(data)}
    found |= judged.figures
    found |= Probe(config, data, on_host).figures(self.params)
    return {
      name: math.nan if x is None else float(x) for name, x in found.items()
    }

  def _data(
    self, task: Task | None, say: Callable[[str], None], everything: bool
  ) -> tuple[Config, Data]:
    """Returns the configuration and data of an evaluation; see `evaluate`."""
    own = task is None or task == self.config.task
    config = self.config
    if task is not None:
      if task.objective != config.task.objective:
        raise DataError(
          f'--task={task.tag}: trial {self.trial} learned '
          f'--task={config.task.tag}, and one of them predicts vectors, the '
          'other tokens'
        )
      config = dataclasses.replace(config, task=task, eval_examples=None)
    load_data = config.task.load_all if everything else config.task.load
    data = load_data(self.vocabulary)
    if problem := config.data_problem(data):
      raise DataError(problem)
    if own and not everything and data.digest != self.data:
      raise DataError(
        f'{data.description.partition(": ")[0]}: is not what trial '
        f'{self.trial} was trained and judged on (sha256 {data.digest[:12]}, '
        f'not {self.data[:12]}): restore that, or evaluate on all of this by '
        '--task.path or --task.data'
      )
    about = [data.description, config.task.notes(data, config.seq_len)]
    if self._saw(config.task, data, everything):
      about.append(
        'warning: this is the text that the trial was trained on: it has seen '
        'some of what is judged'
      )
    for line in about:
      if line:
        say(f'data: {line}')
    return config, data

  def _saw(self, task: Task, data: Data, everything: bool) -> bool:
    """Returns whether the trial is known to have trained on some of the data.

    Args:
      task: of the evaluation.
      data: of the evaluation.
      everything: whether all of the data are evaluated on.
    """
    own = _parts(self.config.task)
    if not everything:
      return data.digest == self.data and _parts(task) != own
    split = {f'task.{name}': text for name, text in own.items()}
    config = dataclasses.replace(self.config, task=task)
    try:
      as_then = override(config, split).task.load(self.vocabulary)
    except (DataError, FieldError):
      return False
    return as_then.digest == self.data


def _parts(task: Task) -> dict[str, str]:
  """Returns the flags that choose the evaluated part of a text."""
  every = to_flags(task).items()
  return {k: v for k, v in every if k.partition('.')[0] == 'split'}


def checkpoint_steps(workdir: str | pathlib.Path, trial: str) -> list[int]:
  """Returns the steps of a trial that `load` has checkpoints of."""
  return restore.list_steps(restore.find_trial(pathlib.Path(workdir), trial))


def load(
  workdir: str | pathlib.Path,
  trial: str,
  best: bool = False,
  step: int | None = None,
) -> TrainedTrial:
  """Loads a trained trial of a working directory.

  If its backend cannot run on this machine, `auto` replaces it, which computes
  the same.

  Args:
    workdir: of the run.
    trial: ROW/SEED, or ROW for its first seed, or an id or its beginning.
    best: whether to load the checkpoint with the lowest validation loss.
    step: of the checkpoint to load (see `list_steps`); None for the last one.

  Raises:
    DataError: there is no such trial, or no whole checkpoint of it.
  """
  directory = restore.find_trial(pathlib.Path(workdir), trial)
  about = read_trial_start(directory)
  try:
    own = override(Config(), about.flags)
  except FieldError as e:
    path = directory / BEGUN
    raise DataError(f'{path}: is of another version ({e}): {AGAIN}') from e
  config = with_available_backend(own, jax.default_backend())
  vocabulary = read_vocabulary(
    directory / VOCABULARY_FILE, about.vocabulary.digest
  )
  template = init_state(config, config.sizes(vocabulary)).checkpoint_tree
  if step is not None:
    restored = restore.restore_at(directory, template, step)
  else:
    restored = (restore.restore_best if best else restore.restore_last)(
      directory, template
    )
  # As jax.Array, so that functions that use them can be compiled.
  params = jax.tree.map(
    jnp.asarray, TrainState.from_checkpoint(restored.tree).eval_params
  )
  other = _other_code(about.code, own)
  return TrainedTrial(
    about.trial, config, vocabulary, params, restored.step, about.data, other
  )


def _other_code(recorded: Any, config: Config) -> tuple[str, ...]:
  """Returns differences of the recorded code from the present, in words."""
  whole = code.valid_code(recorded)
  if code.code_status(whole, config) != 'other':
    return ()
  return tuple(code.code_differences(whole, config)) or ('all of it',)


def with_available_backend(config: Config, platform: str) -> Config:
  """Returns the configuration, with `auto` for a backend that is missing."""
  arch = config.architecture
  if arch.backend.unavailable(platform) is None:
    return config
  arch = dataclasses.replace(arch, backend=AutoBackend())
  return dataclasses.replace(config, architecture=arch)
