# Sourced by the scripts that test: interpreters, and environments of the locks.

# Prints what $1 is, or fails where it cannot make an environment.
usable() {
  "$1" -c 'import ensurepip, sys, venv
assert sys.version_info >= (3, 11)
print(sys.executable, sys.version)' 2>/dev/null
}

# Prints the first interpreter of those named that is usable.  Versions of pyenv
# are found where its commands are not switched on.
interpreter() {
  local candidate
  for candidate in "$@"; do
    for candidate in "$candidate" \
      "${PYENV_ROOT:-$HOME/.pyenv}/versions/${candidate#python}".*/bin/python; do
      usable "$candidate" >/dev/null && echo "$candidate" && return
    done
  done
  echo "${0##*/}: needs Python >= 3.11 with venv and ensurepip, tried $*:" \
    'set PYTHON=/path/to/python' >&2
  return 2
}

# Runs a named step and says how long it took.
step() {
  local name=$1 start=$SECONDS
  shift
  echo "== $name"
  "$@" || return
  echo "== $name: $((SECONDS - start)) s"
}

# Makes environment $2 of interpreter $1 and of the locks that follow, unless it
# is made of them.
environment() {
  local python=$1 venv=$2 stamp
  shift 2
  stamp="$(usable "$python" | tr '\n' ' ') $(cat "$@" | cksum)"
  if [[ ! -f $venv/stamp || $(<"$venv/stamp") != "$stamp" ]]; then
    step "install $* with $("$python" --version)" install "$python" "$venv" "$@"
    echo "$stamp" >"$venv/stamp"
  fi
}

# The locks name all that is installed, so that no dependency is looked up.
install() {
  local python=$1 venv=$2
  shift 2
  rm -rf "$venv"
  "$python" -m venv --without-pip "$venv"
  local locks=(--require-hashes --no-deps $(printf -- '-r %s ' "$@"))
  by_uv pip install -q --python "$venv" "${locks[@]}" ||
    by_pip "$venv" -qq "${locks[@]}"
}

# uv installs in an eighth of the time of pip.
by_uv() {
  local uv=.venv-uv/bin/uv
  if [[ ! -x $uv ]]; then
    "$python" -m venv --without-pip .venv-uv &&
      by_pip .venv-uv -qq --require-hashes -r requirements-uv.lock || return
  fi
  "$uv" "$@"
}

# Installs with what pip alone is told of: indexes, folders of wheels.
by_pip() {
  local python=$1/bin/python
  shift
  "$python" -m pip --version >/dev/null 2>&1 || "$python" -m ensurepip >/dev/null
  "$python" -m pip install --no-compile --disable-pip-version-check "$@"
}
