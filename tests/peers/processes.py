"""Runs one command with everything that it starts: with a time limit, with its CPU time, and leaving nothing behind.

Processes are known by their ancestry: whoever loses its parent becomes a child of ours (Linux's "subreaper"), so that
none gets out of sight. Only processes that descend from the command are ever ended, each by its own number.
"""
import collections
import ctypes
import os
import resource
import signal
import subprocess
import time

SAMPLE_SECONDS = 0.2
# How long what the command started may outlive it, and how long it may take to stop when it is told to.
PATIENCE_SECONDS = 10
PR_SET_CHILD_SUBREAPER = 36
TICKS = os.sysconf('SC_CLK_TCK')

Finished = collections.namedtuple('Finished', 'status wall_seconds cpu_seconds cpu_by_kind timed_out leftovers')
Process = collections.namedtuple('Process', 'pid parent start cpu_seconds')


def adopt_orphans():
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), 'cannot become the parent of orphans')


def run(command, folder, environment, limit_seconds, spare):
    """Runs `command` to its end. `spare` are children of ours that do not belong to it."""
    tree = Tree(spare)
    reaped_before = reaped_cpu_seconds()
    begun = time.monotonic()
    with open(os.path.join(folder, 'stdout'), 'wb') as out, open(os.path.join(folder, 'stderr'), 'wb') as err:
        child = subprocess.Popen(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=out,
                                 stderr=err, start_new_session=True)
    timed_out = False
    try:
        while child.poll() is None:
            tree.sample()
            if time.monotonic() - begun > limit_seconds:
                timed_out = True
                stop(child)
            time.sleep(SAMPLE_SECONDS)
        wall_seconds = time.monotonic() - begun
    finally:
        # Also when we are interrupted: nothing stays.
        if child.poll() is None:
            stop(child)
        leftovers = tree.clear()
    by_kind = tree.cpu_by_kind()
    # Both know less than there was: the samples lack what was used after the last of them, and the kernel's sum lacks
    # the processes that nobody waited for, such as Chrome's sandboxed ones when the browser is killed.
    cpu_seconds = max(reaped_cpu_seconds() - reaped_before, sum(by_kind.values()))
    return Finished(child.returncode, wall_seconds, cpu_seconds, by_kind, timed_out, leftovers)


def stop(child):
    """Asks a child to stop, and ends it if it does not."""
    child.terminate()
    try:
        child.wait(PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait(PATIENCE_SECONDS)


def reaped_cpu_seconds():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class Tree:
    """The processes of a run: who they are, and what they have used so far."""

    def __init__(self, spare):
        self.spare = set(spare)
        self.used = {}  # (pid, start) -> (kind, CPU seconds)

    def sample(self):
        kinds = {}
        for process in self.living():
            key = process.pid, process.start
            # One that has ended has a time still, but no program any more.
            kind = kind_of(process.pid) or self.used.get(key, (None,))[0] or kinds.get(process.parent, 'driver')
            kinds[process.pid] = kind
            self.used[key] = (kind, process.cpu_seconds)

    def cpu_by_kind(self):
        seconds = collections.Counter()
        for kind, used in self.used.values():
            seconds[kind] += used
        return seconds

    def living(self):
        """Our descendants but for the spared ones, parents first."""
        children = collections.defaultdict(list)
        for process in processes():
            children[process.parent].append(process)
        found, parents = [], [os.getpid()]
        for parent in parents:
            for process in children[parent]:
                if process.pid not in self.spare:
                    found.append(process)
                    parents.append(process.pid)
        return found

    def clear(self):
        """Waits until all are gone; ends those that do not go. Returns the names of the latter."""
        leftovers = []
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            self.sample()
            living = self.living()
            if not living:
                return leftovers
            for process in living:
                if process.parent == os.getpid():
                    reap(process.pid)
            if time.monotonic() > deadline:
                for process in living:
                    leftovers.append('%d (%s)' % (process.pid, kind_of(process.pid)))
                    end(process)
                deadline += PATIENCE_SECONDS
            time.sleep(SAMPLE_SECONDS / 4)


def end(process):
    # The number may have gone to another process meanwhile.
    if any(other.start == process.start for other in processes([process.pid])):
        try:
            os.kill(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def reap(pid):
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        pass


def processes(pids=None):
    for pid in pids or [int(name) for name in os.listdir('/proc') if name.isdigit()]:
        try:
            with open('/proc/%d/stat' % pid, encoding='utf-8', errors='replace') as file:
                # The name may hold spaces and brackets; what follows its last bracket does not.
                fields = file.read().rpartition(')')[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        yield Process(pid, int(fields[1]), int(fields[19]), (int(fields[11]) + int(fields[12])) / TICKS)


def kind_of(pid):
    """What a process is; `None` where that cannot be read, and it is what its parent is."""
    try:
        program = os.path.basename(os.readlink('/proc/%d/exe' % pid))
    except OSError:
        return None
    if 'chrom' in program or 'headless' in program:
        return 'chrome'
    return 'postgres' if program in ('postgres', 'initdb') else 'driver'
