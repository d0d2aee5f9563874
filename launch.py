"""Ablax: every choice of a transformer is a flag, an ablation is one command.

  python launch.py                                  the default ablation
  python launch.py --list                           experiments, tasks, variants
  python launch.py --experiment=NAME [--smoke]      one experiment
  python launch.py --task.path=FILE_OR_DIR          your own text
  python launch.py --ablate="position=rope" ...     one row against the base
  python launch.py --sweep="learning_rate=1e-3 3e-3"   an axis (product)
  python launch.py ... --plan                       what would run; runs nothing

Repeating a command resumes it.  Exit code 0: done; 1: a trial failed; 2: the
command line is wrong; 129, 130, 143: interrupted, with all training saved.
"""

import gc
import signal

if __name__ == '__main__':
  # What is imported stays: to look for garbage among it takes a tenth of this.
  gc.disable()
  # While it loads there is nothing to save: Ctrl-C ends it without a word.
  if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import importlib.util
import pathlib
import sys

REQUIRED = ('absl', 'flax', 'jax', 'numpy', 'optax', 'orbax', 'rich', 'scipy')


def missing_packages(root: pathlib.Path) -> str:
  """Returns a line on packages to install, or '' if none is missing."""
  absent = [name for name in REQUIRED if importlib.util.find_spec(name) is None]
  if not absent:
    return ''
  python = root / '.venv' / 'bin' / 'python'
  install = '.venv/bin/pip install -r requirements.lock'
  if not python.exists():
    fix = f'in {root}, python3 -m venv .venv && {install}'
  elif pathlib.Path(sys.prefix).resolve() == (root / '.venv').resolve():
    fix = f'in {root}, {install}'
  else:
    fix = f'. {python.parent / "activate"}, or use {python}'
  return f'launch.py: {sys.executable} has no {", ".join(absent)}: {fix}'


if problem := missing_packages(pathlib.Path(__file__).resolve().parent):
  print(problem, file=sys.stderr)
  sys.exit(2)

from absl import flags  # noqa: E402  # after the check

from experiments.cli.main import main  # noqa: E402  # as above

if __name__ == '__main__':
  gc.freeze()
  gc.enable()
  sys.exit(main(sys.argv, flags.FlagValues(), __doc__ or ''))
