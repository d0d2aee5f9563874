"""The commands on a trained trial: --evaluate and --generate."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence

from absl import flags

from experiments.cli.parse import many
from experiments.command import Command
from experiments.messages.escapes import escape_text
from experiments.messages.streams import warn
from model.core.field import FieldError, unparse
from train.config.config import Config
from train.flags.absl_flags import given_flags
from train.flags.schema import changes, override
from train.inference.generate import generate_texts
from train.inference.generation import Generation
from train.inference.load import TrainedTrial, checkpoint_steps, load
from train.tasks.texts.translation import Translation
from train.tasks.translate import Translator, translate_texts
from train.text.vocabulary import Special
from train.trial import Options

# Flags of beam search; in training they are --task.NAME.
SEARCHED = ('beam', 'length_penalty')


def evaluate_or_generate(command: Command, values: flags.FlagValues) -> None:
  """Evaluates the trial that --evaluate names, or generates from --generate's.

  The trial itself checks the other flags; no experiment is involved.
  """
  prompts = many('prompt', values)
  records: list[type] = [Config, Options]
  if command.evaluate is not None:
    records.append(Generation)
  given = {k: v for r in records for k, v in given_flags(r, values).items()}
  if command.evaluate is not None:
    given |= {'prompt': prompts[0]} if prompts else {}
    evaluate_trial(command, given)
    return
  generation = override(Generation(), given_flags(Generation, values))
  generate_from_trial(command, given, generation, prompts)


def evaluate_trial(command: Command, given: Mapping[str, str]) -> None:
  """Evaluates checkpoints of a trial, and prints a line of JSON for each.

  Args:
    command: with --evaluate=WORKDIR:TRIAL and optionally --at.
    given: other flags: those of a task select other data, and --measure selects
      further metrics.
  """
  # Another task is possible, but only with the tokenizer of the trial.
  idle = [
    path
    for path in given
    if path.partition('.')[0] not in ('task', 'measure', 'measure_examples')
    or path.startswith('task.tokenizer')
  ]
  say = warn
  for loaded in _checkpoints(command, idle):
    _evaluate(loaded, given, say)
    say = _ignore  # the data are the same for all checkpoints


def _checkpoints(
  command: Command, idle: Sequence[str]
) -> Iterator[TrainedTrial]:
  """Yields the trial at each checkpoint that --at names."""
  last = _trial('evaluate', command.evaluate, command, idle)
  workdir, _, _ = (command.evaluate or '').rpartition(':')
  if command.at == 'last':
    yield last
    return
  every = command.at == 'all'
  for step in (
    checkpoint_steps(workdir, last.trial) if every else [int(command.at)]
  ):
    yield load(workdir, last.trial, step=step)


def _ignore(line: str) -> None:
  del line


def _evaluate(
  loaded: TrainedTrial, given: Mapping[str, str], say: Callable[[str], None]
) -> None:
  """Prints the metrics of a trial at a checkpoint."""
  own = {k: v for k, v in given.items() if k.partition('.')[0] == 'task'}
  asked = override(loaded.config, given)
  loaded = dataclasses.replace(
    loaded, config=dataclasses.replace(asked, task=loaded.config.task)
  )
  # Without flags of a task: on the data of the trial, with the same results.
  other = asked.task if own else None
  names = {path.split('.')[1] for path in own if '.' in path}
  # All of another text is new to the trial, so use all unless --task.split.
  everything = bool(names & {'path', 'corpus', 'data'}) and 'split' not in names
  figures = loaded.evaluate(other, say, everything)
  print(json.dumps({'trial': loaded.trial, 'step': loaded.step, **figures}))


def generate_from_trial(
  command: Command,
  given: Mapping[str, str],
  generation: Generation,
  prompts: Sequence[str],
) -> None:
  """Prints each prompt with its continuation by a trial, or its translation.

  Args:
    command: with --generate=WORKDIR:TRIAL.
    given: other flags, of which only --seed, for sampling, is allowed.
    generation: number of tokens, and sampling or search.
    prompts: texts to continue or translate; if empty, continues a new line.
  """
  for path, text in given.items():
    if (own := path.removeprefix('task.')) in SEARCHED and path != own:
      raise FieldError(path, text, f'is for training: say --{own}={text}')
  idle = [path for path in given if path != 'seed']
  loaded = _trial('generate', command.generate, command, idle)
  seed = int(given.get('seed', '0'))
  task = loaded.config.task
  if isinstance(task, Translation):
    if 'seed' in given:
      raise FieldError('seed', seed, 'draws nothing of a translation: drop it')
    _translate(loaded, task, generation, prompts)
    return
  if generation.length_penalty is not None:
    raise FieldError(
      'length_penalty',
      generation.length_penalty,
      'compares lengths, and all texts have --new_tokens: drop it',
    )
  if 'seed' in given and (how := _greedy(generation)):
    raise FieldError('seed', seed, f'draws nothing with {how}: drop it')
  prompts = prompts or ['\n']
  for prompt in prompts:
    _say_unknown(loaded, prompt)
  texts = generate_texts(loaded, prompts, generation, seed)
  for n, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
    if n:
      print('-' * 40)
    print(escape_text(prompt + text))


def _greedy(generation: Generation) -> str | None:
  """Returns the flag that makes generation deterministic, or None."""
  how = generation.sampling
  for flag, value, draws in (
    ('beam', generation.beam, generation.beam is None),
    ('temperature', how.temperature, how.temperature > 0.0),
    ('top_k', how.top_k, how.top_k != 1),
    ('top_p', how.top_p, how.top_p != 0.0),
  ):
    if not draws:
      return f'--{flag}={unparse(value)}'
  return None


def _translate(
  loaded: TrainedTrial,
  task: Translation,
  generation: Generation,
  prompts: Sequence[str],
) -> None:
  """Prints the translation of each prompt.

  Beam width and length penalty are those of the trial unless given.
  """
  for name, text in changes(Generation(), generation).items():
    if name not in SEARCHED:
      raise FieldError(
        name, text, 'has no effect on a translation, which is searched: drop it'
      )
  if not prompts:
    raise FieldError('prompt', None, 'must be given: a text to translate')
  for prompt in prompts:
    _say_unknown(loaded, prompt)
  config = loaded.config
  translator = Translator(
    config.architecture,
    config.sizes(loaded.vocabulary),
    loaded.params,
    loaded.vocabulary,
  )
  beam = task.beam if generation.beam is None else generation.beam
  penalty = generation.length_penalty
  if penalty is None:
    penalty = task.length_penalty
  elif beam == 1:
    raise FieldError(
      'length_penalty',
      penalty,
      'compares hypotheses, of which there is one: make --beam larger',
    )
  for text in translate_texts(translator, prompts, beam, penalty):
    print(escape_text(text))


def _say_unknown(loaded: TrainedTrial, prompt: str) -> None:
  """Warns if some tokens of a prompt are not in the vocabulary."""
  if Special.UNK not in loaded.vocabulary.specials:
    return
  ids = loaded.encode(prompt)
  if unknown := int((ids == loaded.vocabulary.id_of(Special.UNK)).sum()):
    warn(f'--prompt={prompt}: {unknown} of its {ids.size} tokens are <unk>')


def _trial(
  flag: str, target: str | None, command: Command, idle: Sequence[str]
) -> TrainedTrial:
  """Returns the trial that a flag names; refuses flags without effect.

  Args:
    flag: name of the flag.
    target: its value.
    command: flags of the command.
    idle: other given flags that have no effect here.
  """
  workdir, colon, trial = (target or '').rpartition(':')
  if not colon:
    raise FieldError(flag, target, 'must be WORKDIR:TRIAL')
  others = [
    path
    for path in changes(Command(), command)
    if path not in (flag, 'at', 'experiment')
  ]
  if unused := [*idle, *others]:
    raise FieldError(
      flag, target, f'leaves --{unused[0]} without effect: drop it'
    )
  loaded = load(workdir, trial)
  if loaded.code_warning:
    warn(f'warning: --{flag}={target} {loaded.code_warning}')
  return loaded
