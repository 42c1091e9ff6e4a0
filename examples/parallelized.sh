#!/usr/bin/env bash
# The main job, from nothing: workers in processes, 25 workflows, their results, a clean shutdown.
#   examples/parallelized.sh [workflow processes [activity processes [workflows]]]
set -euo pipefail
cd "$(dirname "$0")/.."
. .ci/setup

cargo build --release --bin shmworker
shmworker=$CARGO_TARGET_DIR/release/shmworker

"$shmworker" run -w "${1:-4}" -a "${2:-1}" &
workers=$!
trap 'kill -9 $workers 2>/dev/null || true' EXIT
# Waits until the workers serve their queue; gives up with a clear line if they don't.
"$shmworker" starter -n "${3:-25}"
kill -INT $workers
wait $workers
trap - EXIT
