"""CPU time: outside of the workflow sandbox, which has no clocks."""

import time


def burn(millis: int) -> None:
    end = time.thread_time_ns() + millis * 1_000_000
    while time.thread_time_ns() < end:
        pass
