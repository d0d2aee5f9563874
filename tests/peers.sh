#!/usr/bin/env bash
# Compares with PyTorch, transformers, x-transformers and entmax, which it puts
# into .venv-peers: bash tests/peers.sh [pytest options]
# PYTHON picks the interpreter, which needs a build of PyTorch without CUDA.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tests/spent.sh
. tests/environment.sh

python=$(interpreter ${PYTHON:-python3.11 python3})
environment "$python" .venv-peers requirements.lock requirements-dev.lock
if [[ ! -f .venv-peers/peers ]] ||
  ! cmp -s requirements-peers.lock .venv-peers/peers; then
  step 'install requirements-peers.lock' by_pip .venv-peers -qq \
    --require-hashes --no-deps -r requirements-peers.lock || {
    echo "tests/peers.sh: no requirements-peers.lock for $("$python" --version):" \
      'see above; the index of pip must have its PyTorch without CUDA' >&2
    exit 1
  }
  cp requirements-peers.lock .venv-peers/peers
fi
# A test that skips proves nothing.
.venv-peers/bin/python -c 'import entmax, torch, transformers, x_transformers'
status=0
JAX_PLATFORMS=cpu .venv-peers/bin/python -m pytest -n 2 -m '' \
  tests/peers "$@" || status=$?
spent tests/peers.sh
exit $status
