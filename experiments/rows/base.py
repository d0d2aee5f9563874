"""The base configuration: flags of the experiment, of --smoke, and typed ones.

Someone who types `--model=classifier` did not choose the experiment's
`--tie_embeddings=false`.  So if a flag that the experiment sets conflicts with
a typed one, it returns to its default, and the user is told.  A typed flag is
never dropped.
"""

import functools
import itertools
import re
from collections.abc import Callable, Iterable, Mapping

from experiments.command import Command
from experiments.experiment import Experiment
from experiments.rows.rows import (
  RowRequests,
  configure,
  evaluate_whole_text,
  expand_rows,
  valid_rows,
)
from experiments.rows.search import make_search
from model.core.field import FieldError
from train.config.config import Config
from train.flags.schema import changes, override, to_flags

CheckConfig = Callable[[Config], object]

# Flags that an experiment cannot give up: without them it is another one.
QUESTION = ('task',)


def make_base(
  experiment: Experiment,
  typed: Mapping[str, str],
  smoke: bool,
  check: CheckConfig = lambda config: None,
) -> tuple[Config, tuple[str, ...]]:
  """Returns the configuration that rows change, and a note per dropped flag.

  Args:
    experiment: has the base.
    typed: flags of the command line.
    smoke: use the tiny sizes of the experiment, as far as they fit.
    check: raises a FieldError if these sizes do not fit the rows.

  Raises:
    FieldError: a typed flag is invalid; the message says who set the others.
  """
  defaults = to_flags(Config())
  sets = _without(changes(Config(), experiment.base), typed)
  tiny = _without(experiment.smoke, typed) if smoke else {}
  dropped: dict[str, str] = {}

  def make(sizes: Mapping[str, str]) -> Config:
    own = {flag: defaults[flag] for flag in dropped}
    return override(experiment.base, {**own, **sizes, **typed})

  while True:
    try:
      config = make(tiny)
      if tiny:
        check(config)
      break
    except FieldError as e:
      if e.path in tiny:
        tiny = _without(tiny, [e.path])
      elif (fitting := _without_misfits(tiny, make, check)) is not None:
        tiny = fitting
      elif e.path in sets and e.path in defaults and e.path not in QUESTION:
        if e.path in dropped:
          raise
        dropped[e.path] = e.rule
      else:
        raise _with_origin(e, experiment, sets, tiny) from None
  return config, tuple(
    f'{experiment.name} sets --{flag}={sets[flag]}, which '
    f'{rule.partition(": ")[0]}: left out, --{flag}={defaults[flag]} is taken'
    for flag, rule in dropped.items()
  )


def complete_base(
  experiment: Experiment,
  typed: Mapping[str, str],
  command: Command,
  requests: RowRequests,
) -> tuple[Config, tuple[str, ...]]:
  """Returns the base of a command, and a note per dropped flag.

  Raises:
    FieldError: a typed flag is invalid.
  """
  fits = functools.partial(check_smoke, experiment, command, requests)
  base, notes = make_base(experiment, typed, command.smoke, fits)
  if 'eval_examples' not in typed and not command.smoke:
    base = evaluate_whole_text(base, experiment.rows, requests)
  return base, notes


def check_smoke(
  experiment: Experiment, command: Command, requests: RowRequests, base: Config
) -> None:
  """Raises a FieldError if the base does not fit the rows or --halving."""
  rows = experiment.rows
  if not requests.any:
    rows, _ = valid_rows(rows, functools.partial(configure, base))
  make_search(base, expand_rows(base, rows, requests), command, requests.tune)


def _without(flags: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
  return {flag: text for flag, text in flags.items() if flag not in {*names}}


def _without_misfits(
  tiny: Mapping[str, str], make: Callable[..., Config], check: CheckConfig
) -> dict[str, str] | None:
  """Returns the tiny sizes without one or two that do not fit, or None.

  The number of steps, which experiments list first, is dropped last.
  """
  for count in (1, 2):
    for names in itertools.combinations([*tiny][::-1], count):
      rest = _without(tiny, names)
      try:
        check(make(rest))
      except FieldError:
        continue
      return rest
  return None


def _with_origin(
  error: FieldError,
  experiment: Experiment,
  sets: Mapping[str, str],
  tiny: Mapping[str, str],
) -> FieldError:
  """Returns the error, with the origin of the flags that nobody typed."""
  flags = dict(re.findall(r'--([\w.]+)=([^\s,:;)]+)', error.rule))
  flags.setdefault(error.path, '')
  by_smoke = [flag for flag in flags if flag in tiny]
  own = [flag for flag in flags if flag in sets and flag not in tiny]
  said = [f'--smoke sets --{flag}={tiny[flag]}' for flag in by_smoke]
  said += [
    f'--experiment={experiment.name} sets --{flag}={sets[flag]}' for flag in own
  ]
  if not said:
    return error
  if own:
    said.append('--experiment=train sets nothing')
  return FieldError(
    error.path, error.value, f'{error.rule} ({", ".join(said)})'
  )
