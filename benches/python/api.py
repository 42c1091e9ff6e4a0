"""What a case asks of a peer."""


class Skip(Exception):
    """There is no figure, and why."""


class Peer:
    """A pool of `workers` processes that run `task`, as a program would use it."""

    # Why it can't be run here.
    missing = None
    # Those that make sense for it; empty: all.
    cases = frozenset()
    # Where its semaphores come from, which its workers are started with.
    context = None

    def __init__(self, task, workers=1, cpu=None, gate=None, largest=1 << 16):
        """`cpu`: where to pin the workers; `gate`: what `tasks.pass_gate` goes through; `largest`: bytes of a message."""
        raise NotImplementedError

    def call(self, argument):
        """The result of one task."""
        raise NotImplementedError

    def stream(self, arguments, outstanding):
        """The results of many tasks in any order, with about so many of them under way."""
        raise NotImplementedError

    def map(self, items, chunked):
        """The results for all `items`, by whatever the peer offers for this."""
        raise NotImplementedError

    def begin(self, argument):
        """Submits one task and doesn't wait for it."""
        raise NotImplementedError

    def settle(self):
        """Waits for the results of all tasks begun."""
        raise NotImplementedError

    def failures(self):
        """What the peer has reported about the tasks begun that won't have a result: an exception for each."""
        return []

    def revive(self):
        """Makes the pool take tasks again after its worker has been killed, if that is left to the program."""

    def close(self):
        raise NotImplementedError

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        # After an error the workers may be in any state: the program ends, and kills them.
        if kind is None:
            self.close()
