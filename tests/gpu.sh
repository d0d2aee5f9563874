#!/usr/bin/env bash
# All that needs a GPU, in the order of worth: bash tests/gpu.sh [OUT]
#   1 the tests  2 the bench (PEER=FILE, a PyTorch script, is timed beside it)
#   3 the ladder, nanogpt and Multi30k by its published schedule
# PYTHON picks an interpreter that has jax with CUDA and requirements.txt.
# Results are copied to OUT (default runs/gpu-results).  What fails is named at
# the end, and stops nothing that follows; stop it where the card has to go.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
python=${PYTHON:-python3}
out=${1:-runs/gpu-results}
mkdir -p "$out"
"$python" -c 'import jax; assert jax.default_backend() == "gpu", jax.devices()' \
  || exit
failed=()

# step NAME COMMAND...: runs a command; what it says goes to OUT/NAME.txt too.
step() {
  local name=$1
  shift
  echo "== $name: $*"
  "$@" 2>&1 | tee "$out/$name.txt" || failed+=("$name")
}

# train NAME FLAGS...: trains in runs/gpu-NAME, and keeps table and machine.
train() {
  local name=$1
  shift
  step "$name" "$python" launch.py "--workdir=runs/gpu-$name" "$@"
  mkdir -p "$out/$name"
  cp "runs/gpu-$name"/{table.*,environment.json,layout.json} "$out/$name/"
}

step tests env ABLAX_TEST_PLATFORM=cuda,cpu \
  "$python" -m pytest -m gpu -p no:cacheprovider
step bench "$python" -m experiments.bench --gpu "--json=$out/bench.json" \
  ${PEER:+"--peer=$PEER"}
train ladder
if [[ -n ${ABLAX_DATA:-} ]]; then
  train nanogpt --experiment=nanogpt
fi
train multi30k --experiment=multi30k --batch_size=146 --steps=8000 \
  --learning_rate=5e-3 --warmup_steps=2000 --schedule=inverse_sqrt \
  --dropout_embedding=0.3 --dropout_residual=0.3 --eval_every=100 \
  --average=tail --average.count=10 --task.beam=5 --task.data.held=test \
  --seeds=3

if ((${#failed[@]})); then
  echo "failed: ${failed[*]}"
  exit 1
fi
