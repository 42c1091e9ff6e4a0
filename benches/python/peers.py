"""Runs one Python peer at one case, and prints what it found as one line of JSON.

    python3 benches/python/peers.py PEER CASE [KEY=VALUE ...]

    {"unit": "ns", "values": [91200, 90411]}      samples of this run: ns, per_s, bytes or count
    {"skip": "why"}                               no such case for this peer, or it isn't installed

Exits with 0 for both. benches/README.md tells what the cases are, and cases.py what each takes.
"""

import inspect
import json
import os
import signal
import sys
import traceback
from multiprocessing import active_children

import cases
import pools
import queues
from api import Skip

PEERS = {
    "mp_queue": queues.MpQueue,
    "mp_pool": pools.MpPool,
    "mp_pool_64": pools.MpPool64,
    "executor": pools.Executor,
    "loky": pools.Loky,
    "faster_fifo": queues.FasterFifo,
}
# Nobody waits for ever for a peer that has lost a lock. The driver gives up after 60 s, and would not know why.
LIMIT = 50


def options(case, given):
    """`given` as the keywords of `case`, each of the type of its default."""
    known = {name: p.default for name, p in inspect.signature(case).parameters.items() if name != "peer"}
    found = {}
    for word in given:
        key, _, value = word.partition("=")
        if key not in known:
            sys.exit(f"error: `{word}` is no option of this case: give {', '.join(f'{k}=' for k in known)}")
        kind = type(known[key])
        found[key] = value == "true" if kind is bool else kind(value)
    return found


def expired(*_):
    raise Skip(f"not finished within {LIMIT} s")


def main(words):
    try:
        peer, case = PEERS[words[0]], cases.CASES[words[1]]
    except (IndexError, KeyError):
        sys.exit(f"usage: peers.py PEER CASE [KEY=VALUE ...]\npeers: {' '.join(PEERS)}\ncases: {' '.join(cases.CASES)}")
    keywords = options(case, words[2:])
    signal.signal(signal.SIGALRM, expired)
    signal.alarm(LIMIT)
    try:
        if peer.missing:
            raise Skip(peer.missing)
        if peer.cases and words[1] not in peer.cases:
            raise Skip(f"no such case: it has its own way of {' and '.join(sorted(peer.cases))} only")
        unit, values = case(peer, **keywords)
        found = {"unit": unit, "values": values}
    except Skip as why:
        found = {"skip": str(why)}
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    code = 1
    try:
        main(sys.argv[1:])
        code = 0
    except Exception:
        traceback.print_exc()
    if left := active_children():
        cases.kill(left)
        # Without the goodbyes of a pool whose workers have been killed: it may wait for them for ever.
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
