#!/usr/bin/env bash
# Goes on with the run if there is one, otherwise starts it: run it again after any kill. Made by `gtl launch`.
# Relative paths, also those in config.yaml, are looked up in the folder of this file.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"

run=run
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
cluster=(--address "${GTL_ADDRESS:-auto}")

if [ -e "$run/run.json" ]; then
    exec gtl resume "$run" "${cluster[@]}" # exec: signals reach gtl, and its exit code is the script's
fi
if [ -d "$run" ] && [ -n "$(find "$run" -mindepth 1 -maxdepth 1 -print -quit)" ]; then
    # Not empty, yet no run. What a start that was killed at once leaves is put aside; anything else is not ours.
    other=$(find "$run" -mindepth 1 -maxdepth 1 \
        ! -name config.yaml ! \( -name lineage.jsonl -size 0 \) ! -name '*.tmp.????????????' -print -quit)
    if [ -n "$other" ]; then
        printf 'start.sh: %s is no run of gtl, but holds %s: give another run directory\n' "$run" "$other" >&2
        exit 2
    fi
    mv -- "$run" "${run%/}.killed-$(date +%Y%m%d-%H%M%S)-$$"
fi
exec gtl evolve config.yaml --out "$run" "${cluster[@]}"
