"""Worker processes of one's own between two queues: one of tasks, one of results."""

import multiprocessing
from itertools import islice

from api import Peer, Skip
from tasks import prepare

try:
    import faster_fifo
    import faster_fifo_reduction  # noqa: F401 (lets its queues be handed to processes)
except ImportError:
    faster_fifo = None


class Queues(Peer):
    context = multiprocessing.get_context("fork")

    def __init__(self, task, workers=1, cpu=None, gate=None, largest=1 << 16):
        self.tasks, self.results, self.begun = self.queue(largest), self.queue(largest), 0
        self.workers = [
            self.context.Process(target=self.work, args=(task, cpu, gate), daemon=True) for _ in range(workers)
        ]
        for worker in self.workers:
            worker.start()

    def work(self, task, cpu, gate):
        prepare(cpu, gate)
        # One that waits at the gate must not have taken along what is for others.
        most = 1 if gate else 64
        while True:
            self.put(self.results, [task(argument) for argument in self.get(self.tasks, most)])

    def call(self, argument):
        self.put(self.tasks, [argument])
        return self.get(self.results)[0]

    def stream(self, arguments, outstanding):
        arguments, under_way, room = iter(arguments), 0, outstanding
        while True:
            more = list(islice(arguments, room))
            if more:
                self.put(self.tasks, more)
            under_way += len(more)
            if not under_way:
                return
            finished = self.get(self.results)
            room = len(finished)
            under_way -= room
            yield from finished

    def map(self, items, chunked):
        if chunked:
            raise Skip("no such case: a queue has no chunks")
        return self.stream(items, 1024)

    def begin(self, argument):
        self.put(self.tasks, [argument])
        self.begun += 1

    def settle(self):
        while self.begun:
            self.begun -= len(self.get(self.results))

    def revive(self):
        raise Skip("nobody starts another worker")

    def close(self):
        for worker in self.workers:
            worker.kill()
        for worker in self.workers:
            worker.join()


class MpQueue(Queues):
    """`multiprocessing.Queue`: pickles through a pipe, filled by a thread, emptied under a lock."""

    def queue(self, largest):
        return self.context.Queue()

    def put(self, queue, messages):
        for message in messages:
            queue.put(message)

    def get(self, queue, most=None):
        return [queue.get()]


class FasterFifo(Queues):
    """`faster_fifo.Queue`: pickles in a ring under one process-shared lock, as many at a time as there are."""

    missing = None if faster_fifo else "faster-fifo is not installed: benches/setup does it"
    # It waits for 10 s unless told otherwise.
    patience = 3600.0

    def queue(self, largest):
        return faster_fifo.Queue(max_size_bytes=max(1 << 20, 2 * largest))

    def put(self, queue, messages):
        queue.put_many(messages, timeout=self.patience)

    def get(self, queue, most=1 << 20):
        return queue.get_many(timeout=self.patience, max_messages_to_get=most)
