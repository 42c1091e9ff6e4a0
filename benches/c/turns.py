"""Round trips of two programs, batch by batch in turn: turns.py TURNS RUST C. Prints the table of benches/c/run.

CPUs of a virtual machine are now near each other and now far, for seconds at a time: a batch is compared with the one beside it.
"""

import statistics
import subprocess
import sys

KINDS = ["copied-64", "in-place-64", "in-place-1048576"]
ROUNDS = 200
PEERS = {"rust": "", "same calls": "raw-", "c": ""}


def turn(programs):
    """The nanoseconds of each peer and kind, ROUNDS times, from processes of their own."""
    processes = {
        name: subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        for name, path in programs.items()
    }
    rounds = []
    for _ in range(ROUNDS):
        found = {}
        for kind in KINDS:
            for peer, prefix in PEERS.items():
                process = processes["c" if peer == "c" else "rust"]
                process.stdin.write(f"{prefix}{kind}\n")
                found[peer, kind] = float(process.stdout.readline())
        rounds.append(found)
    for process in processes.values():
        process.stdin.close()
        if process.wait() != 0:
            sys.exit(f"turns.py: {process.args[0]} ended with {process.returncode}")
    return rounds


def judged(value, most):
    return f"{value:.2f}, {'**missed**' if value > most else 'reached'}"


def main():
    turns, rust, c = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    rounds = [found for _ in range(turns) for found in turn({"rust": rust, "c": c})]

    def of(*key):
        return statistics.median(found[key] for found in rounds)

    def ratio(x, y):
        return statistics.median(found[x] / found[y] for found in rounds)

    print("| round trip | C | Rust, the same calls | Rust, typed | C over the same calls | C over typed |")
    print("|---|---|---|---|---|---|")
    for kind in KINDS:
        same, typed = ratio(("c", kind), ("same calls", kind)), ratio(("c", kind), ("rust", kind))
        times = " | ".join(f"{of(peer, kind):.0f} ns" for peer in ("c", "same calls", "rust"))
        print(f"| {kind} | {times} | {same:.2f} | {judged(typed, 1.1)} |")
    large = {peer: ratio((peer, KINDS[2]), (peer, KINDS[1])) for peer in PEERS}
    print(
        f"\n1 MiB in place, which nobody reads, over 64 bytes in place: from C {judged(large['c'], 1.2)}, "
        f"from Rust by the same calls {large['same calls']:.2f}, typed {large['rust']:.2f}."
    )


main()
