"""The dearest operations of a step, by names that say what they compute."""

import collections
import pathlib
import re
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax

from experiments.bench.inside.steps import Steps

STEPS = 10
MOST = 10
# What only runs other operations, which are counted themselves.
CONTAINERS = ('while', 'call', 'conditional', 'tuple', 'async')
# Innermost folder or file of the project, and what it does.
PLACES = {
  'model/layers/feedforward': 'feed-forward',
  'model/layers/norm': 'norm',
  'model/layers': 'block',
  'model/attention': 'attention',
  'model/backends': 'attention',
  'model/position': 'attention',
  'model/': 'model',
  'train/optim/objective': 'loss',
  'train/optim': 'update',
  'optax': 'update',
  'train/tasks': 'batch',
  'train/programs/batches': 'batch',
  'train/programs/step': 'update',
}
SCOPES = {'_feedforward': 'feed-forward', '_attention': 'attention'}
_INSTRUCTION = re.compile(
  r'^\s*(?:ROOT )?%?([\w.-]+) = (\(?)(\w+\[[\d,]*\])?[^ ]* ?([\w-]+)?\(?'
)


class Frames(NamedTuple):
  """The files of the stack frames of a program, by frame."""

  file_of: Mapping[int, str]
  parent_of: Mapping[int, int]


def measure(given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
  """Yields the dearest operations of a step, with their share."""
  steps = Steps(given['flags'], given['vocabulary'], 1)
  names = operation_names(steps.text)
  steps.run(STEPS)
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      steps.run(STEPS)
    (path,) = pathlib.Path(folder).rglob('*.xplane.pb')
    spent = durations(jax.profiler.ProfileData.from_file(str(path)))
  total = collections.defaultdict[str, float](float)
  count = collections.Counter[str]()
  for operation, (nanoseconds, times) in spent.items():
    if not operation.startswith(CONTAINERS):
      name = names.get(operation, operation)
      total[name] += nanoseconds
      count[name] += times
  whole = sum(total.values())
  dearest = sorted(total.items(), key=lambda item: -item[1])[:MOST]
  for name, nanoseconds in dearest:
    yield {
      'of': given['of'],
      'what': name,
      'count': count[name] / STEPS,
      'ms': nanoseconds / 1e6 / STEPS,
      'share': nanoseconds / whole,
    }


def durations(data: Any) -> dict[str, tuple[float, int]]:
  """Returns the nanoseconds of each operation, and how often it ran.

  On an accelerator they are those of its streams, on a CPU those of all
  threads together.
  """
  planes = [*data.planes]
  devices = [plane for plane in planes if plane.name.startswith('/device:')]
  found: dict[str, tuple[float, int]] = {}
  for plane in devices or planes:
    for line in plane.lines:
      if not line.name.startswith('Stream' if devices else 'tf_XLA'):
        continue
      for event in line.events:
        stats = dict(event.stats)
        if 'hlo_op' in stats:
          before, times = found.get(stats['hlo_op'], (0.0, 0))
          found[stats['hlo_op']] = before + event.duration_ns, times + 1
  return found


def operation_names(text: str) -> dict[str, str]:
  """Returns what each operation of a program computes, by its name in HLO."""
  frames = stack_frames(text)
  found = {}
  for line in text.splitlines():
    match = _INSTRUCTION.match(line)
    if match:
      shape = (match[3] or '').partition('[')[2].rstrip(']').replace(',', 'x')
      found[match[1]] = describe(match[1], shape, line, frames)
  return found


def describe(operation: str, shape: str, line: str, frames: Frames) -> str:
  """Returns the words for an operation: part, direction, primitive, shape."""
  path = re.search(r'op_name="([^"]*)"', line)
  frame = re.search(r'stack_frame_id=(\d+)', line)
  words = path[1].split('/') if path else []
  scopes = {word.rpartition('.')[2] for word in words}
  known = [said for scope, said in SCOPES.items() if scope in scopes]
  part = known[0] if known else place(int(frame[1]) if frame else 0, frames)
  if any(word.startswith('transpose(') for word in words):
    part += ', gradient'
  # The equation of an einsum stands in the path as `BTD,DF->BTF`.
  equations = [word for word in words if '->' in word]
  last = words[-1] if words else ''
  if not last or '(' in last:  # rewritten, and named by what it was once
    last = re.sub(r'[\d.]+$', '', operation)
  kind = equations[-1] if equations and last == 'dot_general' else last
  return f'{part}: {kind} {shape}'.strip()


def place(frame: int, frames: Frames) -> str:
  """Returns what the innermost known file of a frame does."""
  seen = set[int]()
  while frame in frames.file_of and frame not in seen:
    seen.add(frame)
    for part, said in PLACES.items():
      if f'/{part}' in frames.file_of[frame]:
        return said
    frame = frames.parent_of[frame]
  return 'program'


def stack_frames(text: str) -> Frames:
  """Returns the frames that stand before the operations of a program."""

  def entries(title: str, pattern: str) -> dict[int, tuple[str, ...]]:
    block = re.search(rf'^{title}\n((?:\d+ .*\n)*)', text, re.M)
    lines = block[1].splitlines() if block else []
    matches = [re.match(rf'(\d+) {pattern}', line) for line in lines]
    return {int(m[1]): m.groups()[1:] for m in matches if m}

  files = entries('FileNames', '"(.*)"')
  places = entries('FileLocations', r'\{file_name_id=(\d+)')
  frames = entries(
    'StackFrames', r'\{file_location_id=(\d+)(?: parent_frame_id=(\d+))?'
  )
  return Frames(
    {n: files[int(places[int(at)][0])][0] for n, (at, _) in frames.items()},
    # A parent is written as its number and one, and none as 1.
    {n: int(parent or 1) - 1 for n, (_, parent) in frames.items()},
  )
