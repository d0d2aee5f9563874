#!/usr/bin/env bash
# Sets up .venv-test and passes every check: bash tests/run.sh [pytest options]
# PYTHON=python3.12 picks the interpreter.  Tests that are slow are left out:
# bash tests/run.sh -m 'slow or full' runs those.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tests/spent.sh

venv=$PWD/.venv-test
locks=(requirements.lock requirements-dev.lock)

candidates=${PYTHON:-python3 python python3.13 python3.12 python3.11}

# Prints the version of $1, or fails where it cannot make the environment.
usable() {
  "$1" -c 'import ensurepip, sys, venv
assert sys.version_info >= (3, 11)
print(sys.executable, sys.version)' 2>/dev/null
}

interpreter() {
  local candidate
  for candidate in $candidates; do
    usable "$candidate" >/dev/null && echo "$candidate" && return
  done
  echo "tests/run.sh: needs Python >= 3.11 with venv and ensurepip, tried" \
    "$candidates: set PYTHON=/path/to/python" >&2
  return 2
}

# Runs a named step and says how long it took.
step() {
  local name=$1 start=$SECONDS
  shift
  echo "== $name"
  "$@"
  echo "== $name: $((SECONDS - start)) s"
}

install() {
  rm -rf "$venv"
  "$python" -m venv "$venv"
  "$venv/bin/python" -m pip install -qq --disable-pip-version-check \
    --require-hashes $(printf -- '-r %s ' "${locks[@]}")
  echo "$stamp" >"$venv/stamp"
}

python=$(interpreter)
stamp="$(usable "$python" | tr '\n' ' ') $(cat "${locks[@]}" | cksum)"
if [[ ! -f $venv/stamp || $(<"$venv/stamp") != "$stamp" ]]; then
  step "install with $("$python" --version)" install
fi

export JAX_PLATFORMS=cpu
export PYRIGHT_PYTHON_IGNORE_WARNINGS=1 # or it looks for a newer version
bin=$venv/bin
step 'ruff check' "$bin/ruff" check .
step 'ruff format' "$bin/ruff" format --check .
step pyright "$bin/pyright" --pythonpath "$bin/python"
status=0
"$bin/python" -m pytest -n 2 "$@" || status=$?
spent tests/run.sh
exit $status
