"""What the kernel says about processes."""

import os
import re
from pathlib import Path


def pss(pid):
    """Bytes in memory; a page that n processes share counts as 1/n of a page for each."""
    return 1024 * int(re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)[1])


def threads(pid):
    """Where the kernel tells about each thread of a process. Our own first one is left out: it belongs to the measurement."""
    return [task for task in Path(f"/proc/{pid}/task").iterdir() if task.name != str(os.getpid())]


def stat(where):
    """The fields of proc_pid_stat(5) from the third on. The name before them may hold anything, even a parenthesis."""
    return (where / "stat").read_text().rpartition(")")[2].split()


def ticks(pid):
    """CPU time, in clock ticks (`getconf CLK_TCK`)."""
    return sum(int(field) for thread in threads(pid) for field in stat(thread)[11:13])


def sleeps(pid):
    """How often its threads have gone to sleep, which is how often they have been woken."""
    return sum(
        int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", (thread / "status").read_text(), re.MULTILINE)[1])
        for thread in threads(pid)
    )


def await_sleep(pid):
    """Returns when its first thread sleeps."""
    while stat(Path(f"/proc/{pid}"))[0] != "S":
        os.sched_yield()
