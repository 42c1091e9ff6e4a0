"""Two builds of the same benchmarks in turn: python3 benches/compare.py OLD/peer NEW/peer TURNS prints a table. See README.md."""

import json
import math
import statistics
import subprocess
import sys

# Ours at each case that has a target, as benches/src/driver/plan.rs plans it.
CASES = [
    ("(a) busy", "pool round_trip placement=two-cores n=20000"),
    ("(a) busy, endpoints alone", "pair round_trip placement=two-cores n=20000"),
    ("(a) asleep", "pool round_trip placement=asleep n=1000"),
    ("(a) one core", "pool round_trip placement=one-core n=20000"),
    ("(b) 1 worker", "pool throughput workers=1 outstanding=1024 n=2000000"),
    ("(b) 1 worker, a handle for each", "pool_handles throughput workers=1 outstanding=1024 n=2000000"),
    ("(b) 2 workers", "pool throughput workers=2 outstanding=1024 n=2000000"),
    ("(b) 64 workers", "pool throughput workers=64 outstanding=1024 n=2000000"),
    ("lane alone", "lane lane contended=false"),
    ("lane, two push at once", "lane lane contended=fill"),
    ("lane, two pop at once", "lane lane contended=drain"),
    ("(c) 64 B copied", "pool payload bytes=64 mode=copied n=1000"),
    ("(c) 1 MiB copied", "pool payload bytes=1048576 mode=copied n=1000"),
    ("(c) 1 MiB in place", "pool payload bytes=1048576 mode=in-place n=1000"),
    ("(d) chunked", "pool map chunked=true workers=2 items=10000000 piece=10000000"),
    ("(d) one by one", "pool map chunked=false workers=2 items=10000000 piece=5000"),
    ("(e) start of 2 workers", "pool start workers=2"),
    ("(e) memory of a further worker", "pool memory workers=16"),
    ("(f) from death to attempt, beside it", "pool recovery workers=2 n=10"),
    ("(f) from death to attempt, a new one", "pool recovery workers=1 n=10"),
    ("(f) a new worker", "pool respawn n=10"),
]
WORSE = 1.05


def run(peer, case):
    """One figure of one run, and its unit: the less, the better."""
    said = subprocess.run([peer, *case.split()], capture_output=True, text=True, check=True, timeout=60).stdout
    report = json.loads(said.splitlines()[-1])
    return statistics.median(report["values"]), report["unit"]


def interval(values):
    """Of the median, with 95 %: from which to which of the sorted values it lies, whatever their distribution."""
    values, n = sorted(values), len(values)
    reach = 0.98 * math.sqrt(n)
    return values[max(0, math.floor(n / 2 - reach))], values[min(n - 1, math.ceil(n / 2 + reach))]


def shown(value, unit):
    if unit == "per_s":
        return f"{value / 1e6:.2f} M/s"
    if unit == "bytes":
        return f"{value / 1024:.0f} KiB"
    return f"{value:.1f} ns" if value < 1e3 else f"{value / 1e3:.2f} µs"


def main():
    old, new, turns = sys.argv[1], sys.argv[2], int(sys.argv[3])
    print("| | before | now | now, times before | its 95 % | |\n|---|---|---|---|---|---|")
    for title, case in CASES:
        before, now = [], []
        unit = run(new, case)[1]  # which warms up, too
        for turn in range(turns):
            order = [(old, before), (new, now)]
            for peer, figures in order if turn % 2 else order[::-1]:
                figures.append(run(peer, case)[0])
        ratios = [b / n if unit == "per_s" else n / b for b, n in zip(before, now)]
        low, high = interval(ratios)
        ratio = statistics.median(ratios)
        verdict = "" if ratio < WORSE else "**worse**" if low >= WORSE else "not told apart from it"
        figures = " | ".join(shown(statistics.median(f), unit) for f in (before, now))
        print(f"| {title} | {figures} | {ratio:.3f} | {low:.3f} to {high:.3f} | {verdict} |", flush=True)


main()
