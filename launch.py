"""Ablax: every choice of a transformer is a flag, an ablation is one command.

  python launch.py                                  the default ablation
  python launch.py --list                           experiments, tasks, variants
  python launch.py --experiment=NAME [--smoke]      one experiment
  python launch.py --task.path=FILE_OR_DIR          your own text
  python launch.py --ablate="position=rope" ...     one row against the base
  python launch.py --sweep="learning_rate=1e-3 3e-3"   an axis (product)
  python launch.py ... --plan                       what would run; runs nothing

Repeating a command resumes it.  Exit code 0: done; 1: a trial failed; 2: the
command line is wrong; 129, 130, 143: interrupted and saved.
"""

import sys

from absl import flags

from experiments.cli import main

if __name__ == '__main__':
  sys.exit(main(sys.argv, flags.FlagValues(), __doc__ or ''))
