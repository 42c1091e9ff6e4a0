#!/usr/bin/env bash
# Everything that must pass before a change lands, from nothing; prints a table of minutes.
#   tests/all.sh [part ...]      parts: sources core library jobs queues examples seeing torture temporal c fuzz benches main
#                                (default: all)
set -uo pipefail
cd "$(dirname "$0")/.."
. .ci/setup || exit 1

table=
failed=()
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

# step NAME COMMAND...: runs a part, and notes how long it took and how it ended.
step() {
    local name=$1 start=$SECONDS verdict=ok log
    shift
    log=$logs/${name//[^a-zA-Z]/-}
    printf '\n==== %s: %s\n' "$name" "$*"
    # No pipe: that would wait for a process that was left behind.
    "$@" > >(tee "$log") 2>&1 || { verdict=FAILED; failed+=("$log"); }
    table+=$(printf '%-44s %6.1f  %s' "$name" "$(((SECONDS - start) * 10 / 6))e-2" "$verdict")$'\n'
}

sources() {
    step "sources: format" cargo fmt --all --check
    step "sources: clippy" cargo clippy --workspace --exclude 'shmworker-benches*' --all-targets -- -D warnings
    step "sources: clippy, no features" cargo clippy --no-default-features --all-targets -- -D warnings
    step "sources: clippy, without Temporal" cargo clippy --no-default-features --features cli,pool,sources --all-targets -- -D warnings
    local models
    for models in loom shuttle; do
        step "sources: clippy, $models" env RUSTFLAGS="--cfg $models" CARGO_TARGET_DIR="$CARGO_TARGET_DIR/$models" \
            cargo clippy --profile loom --no-default-features --lib --tests -- -D warnings
    done
    step "sources: docs" env RUSTDOCFLAGS="-D warnings" cargo doc --workspace --exclude 'shmworker-benches*' --no-deps
}
core() {
    step "core: unit tests, no features" cargo test --no-default-features --lib
    step "core: loom models" env RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR="$CARGO_TARGET_DIR/loom" \
        cargo test --profile loom --no-default-features --lib
    step "core: loom models of C's handles" env RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR="$CARGO_TARGET_DIR/loom" \
        cargo test --profile loom -p shmworker-ffi --lib models
    step "core: shuttle pools" env RUSTFLAGS="--cfg shuttle" CARGO_TARGET_DIR="$CARGO_TARGET_DIR/shuttle" \
        cargo test --profile loom --no-default-features --lib
}
library() {
    step "library: build" cargo test --no-run
    step "library: unit tests" cargo test --lib --bins
    step "library: doctests" cargo test --doc
    step "library: README, book" cargo test --test docs
    # Its own build takes longer than all that it checks: .ci/long has it.
    if command -v mdbook >/dev/null || [ -x "$cache/mdbook/bin/mdbook" ]; then step "library: the built book" .ci/book; fi
    step "library: command line" cargo test --test cli --test bench --test help --test doctor --test config
    step "library: start methods" cargo test --test start_methods --test cargo_test --test attached --test upgrade --test upgrade_jobs
    step "library: pools" cargo test --test outcomes --test endings --test promises --test supervision --test chunks --test waits --test maps --test plugins
    step "library: state files" cargo test --test state --test durable_clients --test journal --test orphans
    step "library: torture" cargo test --test torture --test segment --test raw_sync
}
# A terminal for what is drawn in one.
tmux_is_there() { command -v tmux >/dev/null || step "tmux" sh -c 'apt-get update -qq && apt-get install -qq -y tmux'; }
jobs() {
    tmux_is_there
    step "jobs: runner, command" cargo test --test jobs_runner --test jobs
}
queues() {
    step "queues: the loop, the command line" cargo test --test sources --test sources_cli
    step "queues: the protocol's code" cargo test --test sources_proto
    step "queues: HTTP, gRPC" cargo test --test sources_http --test sources_grpc
    step "queues: servers" .ci/servers
    step "queues: PostgreSQL" cargo test --test source_postgres
    step "queues: Redis" cargo test --test source_redis
}
examples() { step "examples: each runs and says what it should" tests/examples.sh; }
seeing() {
    tmux_is_there
    step "seeing: inspect, top" cargo test --test inspect --test seeing --test autopsy
    step "seeing: metrics, logs, traces" cargo test --test metrics --test logs --test otlp
}
torture() {
    # Its own build: it takes seconds, and nothing of Temporal is in what is stepped through.
    local torture="$CARGO_TARGET_DIR/release/shmworker torture"
    step "torture: build" cargo build --release --no-default-features --features cli
    step "torture: after every instruction" $torture --single-step
    step "torture: at random" $torture --seconds 60 --tasks 1000000
    step "torture: sleep and wake" $torture --wakes 5000
    step "torture: experiments" $torture --experiments
    step "torture: fencing" $torture --fencing
    step "torture: attaching" $torture --attach
}
temporal() {
    tmux_is_there
    step "temporal: build" cargo test --no-run
    step "temporal: on a real server" cargo test --test temporal
    step "temporal: what a worker is told" cargo test --test temporal_worker --test temporal_flags --test temporal_tls --test temporal_metrics --test temporal_upgrade \
        --test temporal_traces
    step "temporal: workflow features, replay" cargo test --test temporal_features --test replay
    step "temporal: activities" cargo test --test temporal_activities --test temporal_plugins
    step "temporal: balance, deadlocks" cargo test --test temporal_balance
    step "temporal: how soon after a death" cargo test --test temporal_deaths
    step "temporal: as it is deployed" cargo test --test deploy
    step "temporal: raw lanes" cargo test --test temporal_raw
    step "temporal: torture" cargo test --test temporal_torture
}
c() {
    step "c: a valgrind that knows pidfds" .ci/valgrind
    step "c: header, install, programs, plug-ins, sanitizers" cargo test -p shmworker-ffi
}
fuzz() { step "fuzz: bounded" fuzz/run; }
benches() {
    step "benches: clippy" cargo clippy -p shmworker-benches --all-targets -- -D warnings
    step "benches: one short run" benches/run 3
    step "benches: clippy, Temporal" cargo clippy -p shmworker-benches-temporal --all-targets -- -D warnings
    step "benches: the null server" cargo test -p shmworker-benches-temporal
    step "benches: clippy, counts" cargo clippy --manifest-path benches/counts/Cargo.toml -- -D warnings
    step "benches: instruction counts" benches/counts/run
}
main() { step "main job: 25 workflows" examples/parallelized.sh; }

for part in "${@:-sources core library jobs queues examples seeing torture temporal c fuzz benches main}"; do
    for p in $part; do "$p"; done
done

# Once more what those that failed have said last: of a long log the end is kept, if not the whole.
[ ${#failed[@]} = 0 ] || tail -v -n 150 "${failed[@]}"
printf '\n%-44s %6s\n%s' part minutes "$table"
[ ${#failed[@]} = 0 ] || { echo "failed: ${failed[*]##*/}"; exit 1; }
