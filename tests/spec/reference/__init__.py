"""The specification: every variant as float64 loops, written from the papers.

Explicit loops over batch, head and position, nothing vectorised, and nothing
imported from the code under test: variants come in as values whose numbers are
read, parameters as arrays by their paths.  `REFERENCES[union][tag]` holds what
a member of a union means; each file holds the loops of some unions, and at its
end the table of each (`feedforwards/` is the table of its files).  A member
without an entry fails the collection of `conformance/test_reference.py`.
"""

from collections.abc import Mapping
from typing import Any

from spec.reference.attention_layer import BACKENDS, attention
from spec.reference.feedforwards import FEEDFORWARDS
from spec.reference.layers import READ_INS, READ_OUTS, RESIDUALS
from spec.reference.masks import FAMILIES, MASKS, sees
from spec.reference.measurements import MEASURES, rank_ratios
from spec.reference.normalizers import FEATURES, NORMALIZERS
from spec.reference.norms import NORMS, QK_NORMS
from spec.reference.outputs import OUTPUTS
from spec.reference.positions import POSITIONS, t5_far
from spec.reference.projections import PROJECTIONS
from spec.reference.scores import SCALES, SCORES
from spec.reference.training import (
  AFTER_UPDATES,
  AVERAGES,
  INITS,
  OPTIMIZERS,
  SCHEDULES,
  STARTS,
  cross_entropy,
  gradient_step,
  learning_rate,
  optimize,
  rates,
  squared,
)
from spec.reference.transformer import model, streams

__all__ = [
  'FEATURES',
  'REFERENCES',
  'attention',
  'cross_entropy',
  'gradient_step',
  'learning_rate',
  'model',
  'optimize',
  'rank_ratios',
  'rates',
  'sees',
  'squared',
  'streams',
  't5_far',
]

REFERENCES: Mapping[str, Mapping[str, Any]] = {
  'read_in': READ_INS,
  'read_out': READ_OUTS,
  'score': SCORES,
  'scale': SCALES,
  'normalizer': NORMALIZERS,
  'mask': MASKS,
  'model': FAMILIES,
  'position': POSITIONS,
  'qk_norm': QK_NORMS,
  'output': OUTPUTS,
  'backend': BACKENDS,
  'projections': PROJECTIONS,
  'norm': NORMS,
  'residual': RESIDUALS,
  'feedforward': FEEDFORWARDS,
  'init': INITS,
  'schedule': SCHEDULES,
  'optimizer': OPTIMIZERS,
  'after_update': AFTER_UPDATES,
  'average': AVERAGES,
  'start': STARTS,
  'measure': MEASURES,
}
