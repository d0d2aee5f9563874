# Sourced by the scripts that test.

# Says how long script $1 took, and how many CPU seconds it and its like used.
spent() {
  local spent
  spent=$(mktemp)
  times >"$spent" # of this shell: in a pipe it would be of another
  tr 'ms' '  ' <"$spent" | awk -v name="$1" -v wall="$SECONDS" '
    { cpu += 60 * ($1 + $3) + $2 + $4 }
    END { printf "== %s: %d s, %d CPU seconds\n", name, wall, cpu }'
  rm "$spent"
}
