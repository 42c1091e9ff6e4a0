#!/usr/bin/env bash
# Runs each example for Rust programs, and checks its exit code and what it prints.
set -uo pipefail
cd "$(dirname "$0")/.."
cargo build --release --no-default-features --features pool,source --examples || exit 1
# The backtrace of a panic that is part of the show.
export RUST_BACKTRACE=0
failed=

# check NAME CODE PATTERN...: the example ends with this code, and prints a line for each of these extended patterns.
check() {
    local name=$1 expected=$2 output code pattern wrong=
    shift 2
    output=$("${CARGO_TARGET_DIR:-target}/release/examples/$name" ${arguments:-} 2>&1)
    code=$?
    printf -- '---- %s\n%s\n' "$name" "$output"
    [ "$code" = "$expected" ] || wrong="exit code $code, not $expected"
    for pattern; do
        grep -Eqx -- "$pattern" <<<"$output" || wrong="$wrong, no line '$pattern'"
    done
    [ -z "$wrong" ] || { echo "$name: ${wrong#, }"; failed="$failed $name"; }
}

check quickstart 0 '78498 primes below 1,000,000, counted by [1-4] processes'
check map_chunks 0 'this process alone +300000 .*: 442 steps' 'map, 1 at a time +300000 .*: 442 steps' \
    'map, 100 at a time +300000 .*: 442 steps' 'map +300000 .*: 442 steps' 'the first number found .*'
check crash_and_retry 0 'document 500: 453204de7e74b154, by attempt 2' \
    'document 700: the task is poison: it has killed 2 workers \(last: signal 9 \(SIGKILL\)\).*' \
    '998 documents were done by their first attempt' 'the pool goes on: [0-9a-f]{16}'
check checkpoint_resume 0 'attempt 1 in process [0-9]+ begins at 0' 'attempt 1 is killed at 1333333' \
    'attempt 2 in process [0-9]+ begins at 1300000' 'attempt 3 in process [0-9]+ begins at 2600000' \
    '283146 primes below 4000000, after 3 attempts' '.*signal 9 \(SIGKILL\); it was at 1300000 of 4000000.*'
# Its code is that of the report: some were made to fail.
check heterogeneous 1 'primes below 200,000 .* done .*' 'a file that is not there .* failed .*' \
    'the average of none .* panicked .*' 'exit\(3\), twice .* died .* 2 +exit code 3 .*' 'an endless loop .* timed out .*' \
    '4 of 6 were not done' 'there are 17984 primes below 200,000'
check zero_copy_pod 0 'in place .*, mean 127\.500' 'by serde .*, mean 127\.500'
arguments=0 check footprint 0 '\| `fork` \| 64 .*' '\| `forkserver` \| 64 .*' '\| `exec` \| 64 .*'
check tokio_app 0 'the longest Collatz chain below 128,000 has 353 steps' '  process [0-9]+ answered [0-9]+ requests'
jobs=$(mktemp -d)
mkdir "$jobs/todo"
for name in a b c; do echo '{"task":"sha256","args":"some text"}' >"$jobs/todo/$name"; done
arguments=$jobs check own_source 0 '3 jobs published: 3 done, 0 failed'
grep -q '"status":"done"' "$jobs"/done/[abc] || failed="$failed own_source"
rm -r "$jobs"

[ -z "$failed" ] || { echo "failed:$failed"; exit 1; }
