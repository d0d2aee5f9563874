"""The tests are tested: errors put into the source must turn them red.

  python tests/mutate.py [WORD ...]     those whose meaning holds a word, or all

Each mutation is applied to a copy of the repository, never to this one, and
the tests of the model are run there up to the first that fails.  Exits 1
if a mutation survives, or if its text is no longer found in the source.
"""

import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
TESTS = (
  'tests/model/backends/test_kernels.py',
  'tests/conformance/test_reference.py',
  'tests/conformance/test_reference_gradients.py',
  'tests/conformance/test_reference_models.py',
  'tests/conformance/test_reference_updates.py',
  'tests/model/test_model.py',
  'tests/model/test_cache.py',
  'tests/model/backends/test_chunked.py',
  'tests/conformance/test_conformance.py',
)
PYTEST = ('-m', 'pytest', '-qx', '-p', 'no:cacheprovider')
SURVIVED = 'SURVIVED'


@dataclasses.dataclass(frozen=True)
class Mutation:
  """One error: what it stands for, and the text that it replaces."""

  meaning: str
  path: str
  old: str
  new: str


MUTATIONS = (
  Mutation(
    'the causal mask shows the future',
    'model/attention/mask.py',
    'return key.t <= query.t\n',
    'return key.t >= query.t\n',
  ),
  Mutation(
    'the causal mask shows one later key',
    'model/attention/mask.py',
    'return key.t <= query.t\n',
    'return key.t <= query.t + 1\n',
  ),
  Mutation(
    'the window is one too wide',
    'model/attention/mask.py',
    'jnp.abs(query.t - key.t) < self.window',
    'jnp.abs(query.t - key.t) <= self.window',
  ),
  Mutation(
    'segments are ignored',
    'model/attention/mask.py',
    '(query.segment == key.segment) & (key.segment != 0)',
    'key.segment != 0',
  ),
  Mutation(
    'logits are not scaled',
    'model/attention/composed.py',
    '  logits_BNTS = logits_BNTS * factor\n',
    '',
  ),
  Mutation(
    'logits are not capped',
    'model/attention/composed.py',
    'parts.logit_cap * jnp.tanh(logits_BNTS / parts.logit_cap)',
    'logits_BNTS',
  ),
  Mutation(
    'queries and keys are swapped',
    'model/attention/projections/base.py',
    "('query', 'key', 'value')\n",
    "('key', 'query', 'value')\n",
  ),
  Mutation(
    'the biases of projections are forgotten',
    'model/attention/projections/base.py',
    "return add_bias(x_BTNH, params, f'{name}_bias')",
    'return x_BTNH',
  ),
  Mutation(
    'the bias of W_O is forgotten',
    'model/attention/projections/heads.py',
    "return add_bias(out_BTD, params, 'out_bias')",
    'return out_BTD',
  ),
  Mutation(
    'grouped queries read the wrong key head',
    'model/attention/scores/base.py',
    'x_BTNH.reshape(*front, num_kv_heads, num_heads // num_kv_heads, width)',
    'x_BTNH.reshape(*front, num_heads // num_kv_heads, num_kv_heads, width)'
    '.swapaxes(-3, -2)',
  ),
  Mutation(
    'rotary positions turn the pair one way only',
    'model/position/base.py',
    'high * cos + low * sin',
    'high * cos - low * sin',
  ),
  Mutation(
    'the normaliser divides by a sum over queries',
    'model/attention/normalizers/base.py',
    'total_BNT1 += grown.weights_BNTS.sum(-1, keepdims=True)',
    'total_BNT1 += grown.weights_BNTS.sum(-2)[..., None]',
  ),
  Mutation(
    'the sink has no weight',
    'model/attention/normalizers/dense.py',
    'return top_BNT1, jnp.exp(sink_BNT1 - top_BNT1)',
    'return top_BNT1, jnp.zeros_like(sink_BNT1)',
  ),
  Mutation(
    'chunks before a larger logit do not fade',
    'model/backends/chunked.py',
    'old.out_CBNTH * fade_BNT1 + out_BNTH',
    'old.out_CBNTH + out_BNTH',
  ),
  Mutation(
    'chunks leave out the farthest keys of a window',
    'model/backends/chunked.py',
    '(np.abs(ahead_CC) - 1) * chunk + 1 < nearest[0]',
    'np.abs(ahead_CC) * chunk < nearest[0]',
  ),
  Mutation(
    'a step from the cache sums the decay from the wrong position',
    'model/cache.py',
    'jnp.maximum(index - 1, 0)',
    'jnp.maximum(index, 0)',
  ),
  Mutation(
    'what dropout keeps is not scaled',
    'model/core/dropout.py',
    'x_B / jnp.asarray(1.0 - rate, x_B.dtype)',
    'x_B',
  ),
  Mutation(
    'remat is ignored',
    'model/network.py',
    'if arch.remat:',
    'if arch.remat and not scans:',
  ),
  Mutation(
    'what a backend cannot serve is not refused',
    'model/architecture/rules.py',
    'if problem := backend_problem(arch.backend, parts):',
    'if problem := None:',
  ),
  Mutation(
    'a backend that a machine lacks is not refused',
    'experiments/planning/inputs.py',
    'if absent := backend.unavailable(device.platform):',
    'if absent := None:',
  ),
  Mutation(
    'kernels see one key too many',
    'model/backends/kernels.py',
    '(nearest[0] - 1, 0)',
    '(nearest[0], 0)',
  ),
  Mutation(
    'kernels take one query from a cache for the first of all',
    'model/backends/kernels.py',
    'if hides_future and queries.at.t.size != keys.at.t.size:',
    'if hides_future and not keys.at.t.size:',
  ),
)


def copied(folder: pathlib.Path) -> None:
  """Copies what git tracks, or would add."""
  listed = subprocess.run(
    ['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'],
    cwd=ROOT,
    check=True,
    capture_output=True,
    text=True,
  )
  for name in sorted(set(listed.stdout.split('\0')) - {''}):
    if (ROOT / name).is_file():
      (folder / name).parent.mkdir(parents=True, exist_ok=True)
      shutil.copy(ROOT / name, folder / name)
  # Some tests ask git what is tracked.
  subprocess.run(['git', 'init', '-q'], cwd=folder, check=True)


def red(folder: pathlib.Path, mutation: Mutation) -> str:
  """Returns the first test that fails under a mutation, or what is wrong."""
  path = folder / mutation.path
  source = path.read_text()
  if source.count(mutation.old) != 1:
    return f'NOT APPLIED: {source.count(mutation.old)} places'
  path.write_text(source.replace(mutation.old, mutation.new))
  try:
    # What no quick test sees, a slow one does.
    quick = _first_red(folder, [])
    return _first_red(folder, ['-m', 'slow']) if quick == SURVIVED else quick
  finally:
    path.write_text(source)


def _first_red(folder: pathlib.Path, options: list[str]) -> str:
  """Returns the first test that fails, `SURVIVED`, or that none ran."""
  ran = subprocess.run(
    [sys.executable, *PYTEST, *options, *TESTS],
    cwd=folder,
    # Compiled programs are found by what they compute, errors included.
    env={'ABLAX_CACHE': str(ROOT / '.cache')} | os.environ,
    capture_output=True,
    text=True,
    check=False,
  )
  found = re.search(r'^(?:FAILED|ERROR) (tests/.+?)(?: - |$)', ran.stdout, re.M)
  if found:
    return found[1]
  return SURVIVED if ran.returncode == 0 else f'NO TEST RAN: {ran.stdout}'


def main(words: list[str]) -> int:
  """Prints a line for each mutation; returns the exit status."""
  chosen = [
    m for m in MUTATIONS if not words or any(w in m.meaning for w in words)
  ]
  bad = 0
  with tempfile.TemporaryDirectory() as name:
    copied(pathlib.Path(name))
    print('| error | test that turned red | seconds |\n|:---|:---|---:|')
    for mutation in chosen:
      start = time.monotonic()
      result = red(pathlib.Path(name), mutation)
      seconds = time.monotonic() - start
      bad += not result.startswith('tests/')
      print(f'| {mutation.meaning} | {result} | {seconds:.0f} |', flush=True)
  print(f'{len(chosen) - bad} of {len(chosen)} turned a test red')
  return min(bad, 1)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
