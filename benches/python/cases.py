"""The cases, each written once for all peers. What one returns is its unit and the samples of this run."""

import os
import signal
import struct
import time
from importlib.util import find_spec
from itertools import cycle, islice
from multiprocessing import active_children
from multiprocessing.shared_memory import SharedMemory

import proc
import tasks
from api import Skip

# Distinct objects: of equal ones in a chunk, pickle would write one.
MESSAGES = [bytes([i % 256]) * 64 for i in range(1024)]
# Longer than anything that looks around before it sleeps, and for the other core to fall idle.
IDLE = 0.002
# Seconds for which a peer may be silent after a kill.
PATIENCE = 5
# Tasks that wait behind the one whose worker is killed.
QUEUED = 20


def now():
    return time.perf_counter_ns()


def since(begun):
    return now() - begun


def check(right, what):
    if not right:
        raise AssertionError(f"wrong {what}")


def pin(placement):
    """Pins this process, and says where its worker belongs."""
    here, *others = sorted(os.sched_getaffinity(0))
    if placement == "one-core":
        there = here
    elif others:
        there = others[0]
    else:
        raise Skip("needs two cores")
    os.sched_setaffinity(0, {here})
    return there


def round_trip(peer, placement="two-cores", n=2000):
    there, values = pin(placement), []
    with peer(tasks.echo, cpu=there) as pool:
        for trip in range(-n // 10, n):
            message = MESSAGES[trip % 1024]
            if placement == "asleep":
                time.sleep(IDLE)
            begun = now()
            answer = pool.call(message)
            took = since(begun)
            check(answer == message, "answer")
            if trip >= 0:
                values.append(took)
    return "ns", values


def throughput(peer, workers=1, outstanding=1024, n=100_000):
    with peer(tasks.echo, workers) as pool:
        for count in (n // 10, n):
            begun = now()
            back = sum(map(len, pool.stream(islice(cycle(MESSAGES), count), outstanding)))
            took = since(begun)
            check(back == 64 * count, "number of bytes back")
    return "per_s", [n * 1e9 / took]


def payload(peer, bytes=1 << 20, mode="copied", n=100):
    if not find_spec("numpy"):
        raise Skip("NumPy, for the sums, is not installed: benches/setup does it")
    there, values, words = pin("two-cores"), [], bytes // 8
    memory = SharedMemory(create=True, size=bytes) if mode == "in-place" else None
    task = tasks.digest_in_place if memory else tasks.digest
    try:
        with peer(task, cpu=there, largest=bytes + 4096) as pool:
            for trip in range(-n // 10, n):
                # New each time, as results of a computation are: not in the reader's cache.
                content = struct.pack("=Q", n + trip) * words
                if memory:
                    memory.buf[:bytes] = content
                argument = (memory.name, bytes) if memory else content
                begun = now()
                answer = pool.call(argument)
                took = since(begun)
                check(len(answer) == 64 and answer[:8] == struct.pack("=Q", (n + trip) * words), "digest")
                if trip >= 0:
                    values.append(took)
    finally:
        if memory:
            memory.close()
            memory.unlink()
    return "ns", values


def map_items(peer, items=100_000, chunked=True, workers=2):
    with peer(tasks.square, workers) as pool:
        pool.call(1)
        begun = now()
        total = sum(pool.map(range(items), chunked))
        took = since(begun)
    check(total == (items - 1) * items * (2 * items - 1) // 6, "sum of squares")
    return "ns", [took / items]


def started(peer, gate, workers):
    """A pool all of whose workers have run a task."""
    pool = peer(tasks.pass_gate, workers, gate=gate)
    # No task ends before all have begun, so each worker has one.
    for _ in range(workers):
        pool.begin(True)
    for _ in range(workers):
        gate.arrived.acquire()
    return pool


def let_go(gate, workers):
    for _ in range(workers):
        gate.go.release()


def start(peer, workers=2):
    gate = tasks.Gate(peer.context)
    begun = now()
    with started(peer, gate, workers):
        took = since(begun)
        let_go(gate, workers)
    return "ns", [took]


def memory(peer, workers=8):
    if workers < 2:
        raise Skip("a further worker needs two at least")
    used = []
    for count in (1, workers):
        gate = tasks.Gate(peer.context)
        with started(peer, gate, count):
            used.append(sum(proc.pss(pid) for pid in everybody()))
            let_go(gate, count)
    return "bytes", [(used[1] - used[0]) / (workers - 1)]


def rest(peer, seconds=5, workers=2):
    gate = tasks.Gate(peer.context)
    with started(peer, gate, workers) as pool:
        let_go(gate, workers)
        # What follows the last tasks is no rest yet.
        time.sleep(0.2)
        before = [sum(f(pid) for pid in everybody()) for f in (proc.ticks, proc.sleeps)]
        time.sleep(seconds)
        after = [sum(f(pid) for pid in everybody()) for f in (proc.ticks, proc.sleeps)]
    return "count", [b - a for a, b in zip(before, after)]


def recovery(peer, n=1):
    values = []
    gate = tasks.Gate(peer.context)
    pool = started(peer, gate, 1)
    for _ in range(QUEUED):
        pool.begin(False)
    for _ in range(n):
        kill(active_children())
        begun = now()
        while not gate.arrived.acquire(timeout=0.01):
            failed = pool.failures()
            if len(failed) > QUEUED:
                raise Skip(f"{type(failed[0]).__name__} for this task and for the {QUEUED} queued ones")
            if since(begun) > PATIENCE * 1e9:
                raise Skip(f"no answer within {PATIENCE} s")
        values.append(since(begun))
    return "ns", values


def respawn(peer, n=5):
    values = []
    gate = tasks.Gate(peer.context)
    with started(peer, gate, 1) as pool:
        for _ in range(n):
            begun = now()
            kill(active_children())
            pool.revive()
            pool.begin(True)
            if not gate.arrived.acquire(timeout=PATIENCE):
                raise Skip(f"no answer within {PATIENCE} s")
            values.append(since(begun))
        let_go(gate, 1)
    return "ns", values


def everybody():
    return [os.getpid(), *(child.pid for child in active_children())]


def kill(processes):
    for process in processes:
        os.kill(process.pid, signal.SIGKILL)


CASES = {
    "round_trip": round_trip,
    "throughput": throughput,
    "payload": payload,
    "map": map_items,
    "start": start,
    "memory": memory,
    "rest": rest,
    "recovery": recovery,
    "respawn": respawn,
}
