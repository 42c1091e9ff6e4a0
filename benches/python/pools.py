"""Pools of processes: the standard library's two, and loky's."""

import concurrent.futures
import multiprocessing
from collections import deque
from itertools import islice

from api import Peer, Skip
from tasks import prepare

try:
    import loky
except ImportError:
    loky = None


def chunk_of_pool_map(items, workers):
    """What `Pool.map` takes when it isn't told: four chunks for each worker."""
    return -(-len(items) // (4 * workers))


class MpPool(Peer):
    """`multiprocessing.Pool`: `apply`, `imap_unordered` and `map`."""

    context = multiprocessing.get_context("fork")
    chunk = 1

    def __init__(self, task, workers=1, cpu=None, gate=None, largest=0):
        self.task, self.begun = task, []
        self.pool = self.context.Pool(workers, prepare, (cpu, gate))

    def call(self, argument):
        return self.pool.apply(self.task, (argument,))

    def stream(self, arguments, outstanding):
        # No limit can be given. It takes all and keeps as many under way as the pipe to the workers holds: 64 KiB.
        return self.pool.imap_unordered(self.task, arguments, self.chunk)

    def map(self, items, chunked):
        return self.pool.map(self.task, items, None if chunked else 1)

    def begin(self, argument):
        self.begun.append(self.pool.apply_async(self.task, (argument,)))

    def settle(self):
        for result in self.begun:
            result.get()

    def close(self):
        self.pool.terminate()
        self.pool.join()


class MpPool64(MpPool):
    """The same with 64 tasks in each message."""

    cases = frozenset({"throughput", "map"})
    chunk = 64

    def map(self, items, chunked):
        if not chunked:
            raise Skip("no such case: it is chunked by its name")
        return self.stream(items, 0)


class Executor(Peer):
    """`concurrent.futures.ProcessPoolExecutor`: `submit` and `map`."""

    context = multiprocessing.get_context("fork")

    def __init__(self, task, workers=1, cpu=None, gate=None, largest=0):
        self.task, self.workers, self.prepared, self.begun = task, workers, (cpu, gate), []
        self.pool = self.new()

    def new(self):
        return concurrent.futures.ProcessPoolExecutor(self.workers, self.context, prepare, self.prepared)

    def call(self, argument):
        return self.pool.submit(self.task, argument).result()

    def stream(self, arguments, outstanding):
        arguments = iter(arguments)
        under_way = deque(self.pool.submit(self.task, a) for a in islice(arguments, outstanding))
        while under_way:
            yield under_way.popleft().result()
            under_way.extend(self.pool.submit(self.task, a) for a in islice(arguments, 1))

    def map(self, items, chunked):
        return self.pool.map(self.task, items, chunksize=chunk_of_pool_map(items, self.workers) if chunked else 1)

    def begin(self, argument):
        self.begun.append(self.pool.submit(self.task, argument))

    def settle(self):
        for future in self.begun:
            future.result()

    def failures(self):
        return [future.exception() for future in self.begun if future.done() and future.exception()]

    def revive(self):
        raise Skip("a broken executor stays broken")

    def close(self):
        self.pool.shutdown()


class Loky(Executor):
    """`loky.get_reusable_executor`, with its own way to start workers: a fresh process each."""

    missing = None if loky else "loky is not installed: benches/setup does it"
    context = loky and loky.backend.get_context("loky")

    def new(self):
        return loky.get_reusable_executor(self.workers, initializer=prepare, initargs=self.prepared)

    def revive(self):
        # It gives out another executor once it has seen that the last one is broken.
        self.begun[-1].exception()
        self.pool = self.new()
