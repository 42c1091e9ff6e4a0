"""The cases, each written once for all peers. What one returns is its unit and the samples of this run."""

import os
import signal
import struct
import time
from importlib.util import find_spec
from multiprocessing import active_children
from multiprocessing.shared_memory import SharedMemory

import proc
import tasks
from api import Skip

# Distinct objects: of equal ones in a chunk, pickle would write one.
MESSAGES = [bytes([i % 256]) * 64 for i in range(1024)]
# What one run measures takes about so long at most, in seconds: where it says `n`, a slow peer does fewer.
LIMIT = 0.5
# Seconds for which a peer may be silent after a kill.
PATIENCE = 5
# Tasks that wait behind the one whose worker is killed.
QUEUED = 20


def now():
    return time.perf_counter_ns()


def since(begun):
    return now() - begun


def is_over(begun, limit=LIMIT):
    return since(begun) > limit * 1e9


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
    there, values, begun = pin(placement), [], now()
    with peer(tasks.echo, cpu=there) as pool:
        pool.call(MESSAGES[0])
        (worker,) = active_children()
        for trip in range(-n // 10, n):
            message = MESSAGES[trip % 1024]
            if placement == "asleep":
                proc.await_sleep(worker.pid)
            sent = now()
            answer = pool.call(message)
            took = since(sent)
            check(answer == message, "answer")
            if trip >= 0:
                values.append(took)
            if values and is_over(begun):
                break
    return "ns", values


def throughput(peer, workers=1, outstanding=1024, n=1_000_000):
    def messages(limit):
        """All of them again and again."""
        nonlocal sent
        begun, sent = now(), 0
        while sent < n and not is_over(begun, limit):
            some = MESSAGES[: n - sent]
            sent += len(some)
            yield from some

    sent = 0
    with peer(tasks.echo, workers) as pool:
        for limit in (LIMIT / 4, LIMIT):
            begun = now()
            back = sum(map(len, pool.stream(messages(limit), outstanding)))
            took = since(begun)
            check(back == 64 * sent, "number of bytes back")
    return "per_s", [sent * 1e9 / took]


def payload(peer, bytes=1 << 20, mode="copied", n=100):
    if not find_spec("numpy"):
        raise Skip("NumPy, for the sums, is not installed: benches/setup does it")
    if mode not in ("copied", "in-place"):
        raise Skip(f"no such case: mode={mode}")
    # Threads that sleep find their CPUs by themselves, so nobody is pinned.
    rest = struct.pack("=Q", 7) * (bytes // 8 - 1)
    memory = SharedMemory(create=True, size=bytes)
    memory.buf[8:bytes] = rest
    values, begun = [], now()
    try:
        with peer(tasks.digest if mode == "copied" else tasks.digest_in_place, largest=bytes + 4096) as pool:
            # The first ones touch the memory.
            for trip in range(-3, n):
                # The first word is another one each time.
                first = struct.pack("=Q", n + trip)
                content = first + rest if mode == "copied" else (memory.name, bytes)
                sent = now()
                if mode == "in-place":
                    memory.buf[:8] = first
                answer = pool.call(content)
                took = since(sent)
                check(answer == 8 * struct.pack("=Q", n + trip + 7 * (bytes // 8 - 1)), "digest")
                if trip >= 0:
                    values.append(took)
                if len(values) > 3 and is_over(begun):
                    break
    finally:
        memory.close()
        memory.unlink()
    return "ns", values


def map_items(peer, items=100_000, chunked=True, workers=2, piece=5000):
    # So many that the slowest is done in time, and again.
    done = 0
    with peer(tasks.square, workers) as pool:
        pool.call(1)
        begun = now()
        while done < items and not is_over(begun):
            some = range(done, min(done + piece, items))
            check(sum(pool.map(some, chunked)) == squares(some.stop) - squares(some.start), "sum of squares")
            done = some.stop
        took = since(begun)
    return "per_s", [done * 1e9 / took]


def squares(below):
    """The sum of x² for all x from 0."""
    return (below - 1) * below * (2 * below - 1) // 6


def started(peer, gate, workers):
    """A pool all of whose workers are in a task."""
    pool = peer(tasks.pass_gate, workers, gate=gate)
    # No task ends before all have begun, so each worker has one.
    for _ in range(workers):
        pool.begin(True)
    for _ in range(workers):
        gate.arrived.acquire()
    return pool


def let_go(pool, gate, workers):
    for _ in range(workers):
        gate.go.release()
    pool.settle()


def start(peer, workers=2):
    gate = tasks.Gate(peer.context)
    begun = now()
    with started(peer, gate, workers) as pool:
        let_go(pool, gate, workers)
        took = since(begun)
    return "ns", [took]


def memory(peer, workers=8):
    if workers < 2:
        raise Skip("a further worker needs two at least: workers=2 or more")
    used = []
    for count in (1, workers):
        gate = tasks.Gate(peer.context)
        with started(peer, gate, count) as pool:
            let_go(pool, gate, count)
            used.append(sum(proc.pss(pid) for pid in everybody()))
    return "bytes", [(used[1] - used[0]) / (workers - 1)]


def rest(peer, seconds=5, workers=2):
    """CPU ticks, and voluntary context switches."""
    gate = tasks.Gate(peer.context)
    with started(peer, gate, workers) as pool:
        let_go(pool, gate, workers)
        # Who has just worked may look for more, for a while.
        time.sleep(0.5)
        before = [sum(f(pid) for pid in everybody()) for f in (proc.ticks, proc.sleeps)]
        time.sleep(seconds)
        after = [sum(f(pid) for pid in everybody()) for f in (proc.ticks, proc.sleeps)]
    return "count", [b - a for a, b in zip(before, after)]


def recovery(peer, workers=1, n=1):
    if workers != 1:
        raise Skip("which of several workers runs the task is not known here")
    values = []
    gate = tasks.Gate(peer.context)
    pool = started(peer, gate, 1)
    for _ in range(QUEUED):
        pool.begin(False)
    for _ in range(n):
        killed = now()
        kill(active_children())
        while not gate.arrived.acquire(timeout=0.01):
            failed = pool.failures()
            if len(failed) > QUEUED:
                raise Skip(f"{type(failed[0]).__name__} for this task and for the {QUEUED} queued ones")
            if is_over(killed, PATIENCE):
                raise Skip(f"no answer within {PATIENCE} s")
        values.append(since(killed))
    return "ns", values


def respawn(peer, n=5):
    values = []
    gate = tasks.Gate(peer.context)
    pool = started(peer, gate, 1)
    for _ in range(n):
        killed = now()
        kill(active_children())
        pool.revive()
        pool.begin(True)
        if not gate.arrived.acquire(timeout=PATIENCE):
            raise Skip(f"no answer within {PATIENCE} s")
        values.append(since(killed))
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
