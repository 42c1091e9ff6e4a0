"""What watching takes from a pool: tasks a second with and without `top` and a scrape each second, in turn.

python3 benches/seeing/measure.py SHMWORKER TURNS SECONDS: prints a table. See ../README.md.
"""

import fcntl
import json
import math
import os
import pty
import signal
import socket
import statistics
import struct
import subprocess
import sys
import termios
import threading
import time

WANTED = 0.99
JOB = '{"task":"echo","args":[1,2,3]}'


def on(cpus, *command):
    """The command, on these CPUs alone."""
    return ["taskset", "--cpu-list", ",".join(map(str, cpus)), *command]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Pool:
    """`shmworker jobs` with as many lines as it takes, until it is left."""

    def __init__(self, shmworker, workers, cpus):
        self.shmworker = shmworker
        options, self.metrics = [], None
        help = subprocess.run([shmworker, "jobs", "--help"], capture_output=True, text=True, check=True).stdout
        if "--metrics" in help:
            self.metrics = f"127.0.0.1:{free_port()}"
            options = ["--metrics", self.metrics]
        self.lines = subprocess.Popen(on(cpus, "yes", JOB), stdout=subprocess.PIPE)
        command = on(cpus, shmworker, "jobs", f"-j{workers}", *options)
        self.jobs = subprocess.Popen(command, stdin=self.lines.stdout, stdout=subprocess.DEVNULL)
        self.lines.stdout.close()

    def __enter__(self):
        # taskset becomes shmworker: it is the same process.
        while not self.finished():
            assert self.jobs.poll() is None, "the pool has ended"
            time.sleep(0.01)
        return self

    def __exit__(self, *_):
        for process in (self.lines, self.jobs):
            process.kill()
            process.wait()

    def finished(self):
        """Tasks that were run so far."""
        command = [self.shmworker, "inspect", "--json", str(self.jobs.pid)]
        seen = subprocess.run(command, capture_output=True, text=True)
        if seen.returncode:
            return 0  # it has only begun
        return sum(p["finished"] for p in json.loads(seen.stdout)["participants"] if p["label"].startswith("worker"))

    def rate(self, seconds):
        """Tasks a second from now on."""
        # The count belongs to the moment in between, whatever looking takes.
        def look():
            begin = time.monotonic()
            n = self.finished()
            return n, (begin + time.monotonic()) / 2

        before, then = look()
        time.sleep(seconds)
        after, now = look()
        return (after - before) / (now - then)


class Watchers:
    """`top` in a terminal, and a scrape each second."""

    def __init__(self, pool, cpus):
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        shmworker, pid = pool.shmworker, str(pool.jobs.pid)
        self.top = subprocess.Popen(
            on(cpus, shmworker, "top", pid), stdin=slave, stdout=slave, stderr=slave, start_new_session=True
        )
        os.close(slave)
        self.reader = threading.Thread(target=self.drain, daemon=True)
        self.reader.start()
        scrape = f"exec {shmworker} inspect --json {pid}"
        if pool.metrics:
            # bash's own, so that what is measured is the answer and not the start of a client.
            address, port = pool.metrics.split(":")
            scrape = f"exec 3<>/dev/tcp/{address}/{port}; printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3"
        script = f"while :; do ({scrape}) >/dev/null; sleep 1; done"
        self.scraper = subprocess.Popen(on(cpus, "bash", "-c", script), start_new_session=True)

    def drain(self):
        try:
            while os.read(self.master, 65536):
                pass
        except OSError:
            pass  # its other end is closed

    def __enter__(self):
        time.sleep(0.5)  # what it takes to begin is not what is looked for
        self.check()
        return self

    def __exit__(self, *_):
        self.check()
        for watcher in (self.scraper, self.top):
            os.killpg(watcher.pid, signal.SIGKILL)
            watcher.wait()
        self.reader.join()  # else it would read what has this number next
        os.close(self.master)

    def check(self):
        assert self.top.poll() is None and self.scraper.poll() is None, "nobody watches"

    def send(self, sig):
        for watcher in (self.scraper, self.top):
            os.killpg(watcher.pid, sig)

    def cpu(self):
        """Seconds of CPU time that `top` has used, by all its threads."""
        spent = 0
        for thread in os.listdir(f"/proc/{self.top.pid}/task"):
            with open(f"/proc/{self.top.pid}/task/{thread}/schedstat") as stat:
                spent += int(stat.read().split()[0])
        return spent / 1e9


def measure(shmworker, turns, seconds, workers, own, others):
    """Rates without and with watchers, by turns, and the share of a CPU that `top` used."""
    alone, watched, cpu = [], [], []
    with Pool(shmworker, workers, own) as pool, Watchers(pool, others) as watchers:
        watchers.send(signal.SIGSTOP)
        pool.rate(2)  # to warm up

        def with_watchers():
            watchers.send(signal.SIGCONT)
            used, then = watchers.cpu(), time.monotonic()
            watched.append(pool.rate(seconds))
            cpu.append((watchers.cpu() - used) / (time.monotonic() - then))
            watchers.send(signal.SIGSTOP)

        def without():
            alone.append(pool.rate(seconds))

        # The same pool, and turns so short that what else changes changes for both.
        for turn in range(turns):
            for run in (without, with_watchers) if turn % 2 else (with_watchers, without):
                run()
        watchers.send(signal.SIGCONT)
        scrape = "metrics" if pool.metrics else "inspect --json"
    return alone, watched, cpu, scrape


def interval(values):
    """Of the median, with 95 %: from which to which of the sorted values it lies (by the signs, whatever their distribution)."""
    values, n = sorted(values), len(values)
    reach = 0.98 * math.sqrt(n)
    return values[max(0, math.floor(n / 2 - reach))], values[min(n - 1, math.ceil(n / 2 + reach))]


def main():
    shmworker, turns, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        sys.exit("two CPUs are needed, to tell what watching takes by itself")
    places = [("1 worker on a CPU, watchers on another", 1, cpus[:1], cpus[1:2])]
    places.append((f"{len(cpus)} workers and watchers on {len(cpus)} CPUs", len(cpus), cpus, cpus))
    print("| | tasks/s alone | tasks/s watched | ratio | its 95 % | `top`'s CPU | wanted |")
    print("|---|---|---|---|---|---|---|")
    for name, workers, own, others in places:
        alone, watched, cpu, scrape = measure(shmworker, turns, seconds, workers, own, others)
        ratios = [w / a for w, a in zip(watched, alone)]
        ratio = statistics.median(ratios)
        low, high = interval(ratios)
        verdict = "reached" if ratio >= WANTED else "**missed**"
        print(
            f"| {name} | {statistics.median(alone):.0f} | {statistics.median(watched):.0f} | {ratio:.4f}, {verdict} "
            f"| {low:.3f} to {high:.3f} | {100 * statistics.median(cpu):.1f} % | {WANTED} |",
            flush=True,
        )
    print(f"\nThe scrape was `{scrape}`.")


main()
