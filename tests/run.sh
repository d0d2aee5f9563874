#!/usr/bin/env bash
# Sets up .venv-test and passes every check: bash tests/run.sh [pytest options]
# PYTHON=python3.12 picks the interpreter.  Tests that are slow are left out:
# bash tests/run.sh -m 'slow or full' runs those.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tests/spent.sh
. tests/environment.sh

python=$(interpreter ${PYTHON:-python3 python python3.13 python3.12 python3.11})
environment "$python" .venv-test requirements.lock requirements-dev.lock

export JAX_PLATFORMS=cpu
export PYRIGHT_PYTHON_IGNORE_WARNINGS=1 # or it looks for a newer version
bin=.venv-test/bin
step 'ruff check' "$bin/ruff" check .
step 'ruff format' "$bin/ruff" format --check .
step pyright "$bin/pyright" --pythonpath "$bin/python"
status=0
"$bin/python" -m pytest -n 2 "$@" || status=$?
spent tests/run.sh
exit $status
