#!/usr/bin/env bash
# All that needs a GPU, in the order of worth: bash tests/gpu.sh [OUT]
# PYTHON picks an interpreter that has jax with CUDA and requirements.txt.
# PEER may name a peer of the training step (docs/speed.md, "Measuring it").
# Results are copied to OUT (default runs/gpu-results).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3}
out=${1:-runs/gpu-results}
mkdir -p "$out"
"$python" -c 'import jax; assert jax.default_backend() == "gpu", jax.devices()'

ABLAX_TEST_PLATFORM=cuda,cpu "$python" -m pytest -m gpu -p no:cacheprovider \
  | tee "$out/tests.txt"
"$python" -m experiments.bench --gpu --json="$out/bench.json" \
  ${PEER:+--peer="$PEER"} | tee "$out/bench.txt"
"$python" launch.py --workdir=runs/gpu-ladder | tee "$out/ladder.txt"
cp runs/gpu-ladder/table.* runs/gpu-ladder/environment.json "$out/"
if [[ -n ${ABLAX_DATA:-} ]]; then
  "$python" launch.py --experiment=nanogpt --workdir=runs/gpu-nanogpt \
    | tee "$out/nanogpt.txt"
fi
