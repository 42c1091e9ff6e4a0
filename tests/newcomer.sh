#!/usr/bin/env bash
# Walks the README's way to a Temporal worker of one's own to the letter: its commands and its program, in an empty directory,
# with nothing built; prints how long it took.
#   tests/newcomer.sh
set -euo pipefail
cd "$(dirname "$0")/.."
. .ci/setup # the dev server's tool: else `run` downloads it

checkout=$PWD
walk=$(mktemp -d)
workers=
trap '[ -z "$workers" ] || kill -KILL $workers 2>/dev/null; rm -rf "$walk"' EXIT

# block LANGUAGE N: the Nth block of that language in the section.
block() {
    awk -v fence="^\`\`\`$1" -v n="$2" '
        /^## / { inside = $0 == "## A Temporal worker of your own" }
        inside && $0 ~ fence { seen++; if (seen == n) { copy = 1; next } }
        /^```$/ { copy = 0 }
        copy' "$checkout/README.md" | grep . || { echo "the README has no block $2 of '$1' for this" >&2; exit 1; }
}

# The published repository is this checkout.
export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0="url.$checkout.insteadOf" GIT_CONFIG_VALUE_0=https://github.com/shmworker/shmworker
unset CARGO_TARGET_DIR
# A dev server on a port that nobody has.
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export TEMPORAL_ADDRESS=127.0.0.1:$port

cd "$walk"
begin=$SECONDS
eval "$(block sh 1)"
block rust 1 >src/main.rs
cargo build
built=$SECONDS
# What it would have taken alone is told by the CPU time: user, system.
times >"$walk/times"
bash -c "exec $(block sh 2)" & # in place of the shell, so that the signal below is its own
workers=$!
results=$(eval "$(block sh 3)")
echo "$results"
[ "$(grep -cx 'Hello, Ada! This is process [0-9]*\.' <<<"$results")" = 3 ] || { echo "no greetings" >&2; exit 1; }
kill -INT $workers
wait $workers || { echo "'run' ended with $?" >&2; exit 1; }
workers=
echo "from nothing to a greeting: $((SECONDS - begin)) s, of which $((built - begin)) s were fetching and building;" \
    "CPU time of that: $(tail -n 1 "$walk/times")"
