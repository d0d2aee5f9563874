#!/usr/bin/env bash
# Runs the tests with another Python, or with the lowest version of each package:
#   bash tests/versions.sh python3.13 requirements.lock requirements-dev.lock
#   bash tests/versions.sh python3.11 requirements-lowest.lock
# Options of pytest follow, such as --part=0/3 for a third of the tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tests/spent.sh
. tests/environment.sh

python=$(interpreter "$1")
locks=()
while shift && [[ ${1-} == *.lock ]]; do locks+=("$1"); done
venv=.venv-$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
venv+=-${locks[0]%.lock}
environment "$python" "$venv" "${locks[@]}"
"$venv/bin/python" -c 'import jax, jaxlib, numpy, sys
print("==", sys.version.split()[0], *(
  f"{m.__name__} {m.__version__}" for m in (jax, jaxlib, numpy)))'
status=0
JAX_PLATFORMS=cpu "$venv/bin/python" -m pytest -n 2 "$@" || status=$?
spent tests/versions.sh
exit $status
