# SPDX-License-Identifier: BSD-3-Clause
"""A target whose control path has a reactor of its own, and changes it as fast as it can: for beside.py.

As a program: makes the target (tests/target_control.c), says on one line what it is, "PID HOST PORT"; begins to change
it when told to, says when it is under way, and, told to end, how many changes a second hosts saw applied. Only the
target's other reactor is where targets are measured; the rest keeps off the cores of target and host, as a disturbance.
"""
import contextlib
import os
import select
import subprocess
import sys
import time
from types import SimpleNamespace

from load import RAM
from tools import HOST_CORE, TARGET_CORE, Skip, binary_path

from control import Control

NQN, OTHER = "nqn.2026-01.example:measured", "nqn.2026-01.example:changed"
HOSTNQN = "nqn.2026-01.example:somebody"
BATCH = 10  # rounds of CHANGES that are asked for at once: two of these fit into what target_control keeps
CHANGES = (f"allow {NQN} {HOSTNQN}", f"add-ns {OTHER} extra 1", f"disallow {NQN} {HOSTNQN}", f"remove-ns {OTHER} 1")


# -- as a program ----------------------------------------------------------------------------------------------------


def step_aside(tid):
    """A thread: off the cores of target and host, or where there is no other, only when the host has nothing to do."""
    others = os.sched_getaffinity(0) - {TARGET_CORE, HOST_CORE}
    os.sched_setaffinity(tid, others or {HOST_CORE})
    if not others:
        os.sched_setscheduler(tid, os.SCHED_IDLE, os.sched_param(0))


def build(control):
    for name, disk in (("disk", RAM), ("extra", "ram:1M")):
        control("open", name, disk)
    for nqn in (NQN, OTHER):
        control("subsystem", nqn, "any-host")
    control("add-ns", NQN, "disk")
    port = control("listen", "127.0.0.1:0")
    control("start")
    return port


def place(pid):
    """The target's main thread is its control reactor, the thread that it made first the other."""
    first, second, *more = sorted(int(tid) for tid in os.listdir(f"/proc/{pid}/task"))
    os.sched_setaffinity(second, {TARGET_CORE})
    for tid in (first, *more, *(int(tid) for tid in os.listdir("/proc/self/task"))):
        step_aside(tid)


def told():
    return select.select([sys.stdin], [], [], 0)[0]


def change_until_told(control):
    """Keeps a batch asked for beside the one that is worked on."""
    lines = "".join(f"{change}\napply\n" for change in CHANGES) * BATCH
    asked, each = control.answered, lines.count("\n")
    start, before = time.monotonic(), control.answered
    while not told():
        control.process.stdin.write(lines)
        control.process.stdin.flush()
        asked += each
        while len(control.out.lines) < asked - each:
            time.sleep(0.001)
        if asked == before + 2 * each:
            print("under way", flush=True)
    while len(control.out.lines) < asked:
        time.sleep(0.001)
    took = time.monotonic() - start
    wrong = [line for line in control.out.lines[before:] if line.startswith("error")]
    control.answered = asked
    print(f"failed: {wrong[0]}" if wrong else (asked - before) / 2 / took, flush=True)


def main():
    with Control(reactors=2, apart=True) as control:
        port = build(control)
        place(control.process.pid)
        print(control.process.pid, "127.0.0.1", port, flush=True)
        for line in sys.stdin:
            if line.strip() == "begin":
                change_until_told(control)


# -- for beside.py ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def changing():
    """(a target, what makes it ready to be disturbed)"""
    if not os.access(os.path.join(os.path.dirname(binary_path()), "tests", "target_control"), os.X_OK):
        raise Skip("this build is without its tests, of which target_control is one")
    command = [sys.executable, __file__]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            pid, host, port = process.stdout.readline().split()
            yield SimpleNamespace(pid=int(pid), address=(host, int(port)), nqn=NQN, process=process), lambda: None
        finally:
            process.stdin.close()


@contextlib.contextmanager
def changed(target, _act, _rate, result):
    """Changes it meanwhile; result gets "rate", how many changes a second it saw."""
    process = target.process
    process.stdin.write("begin\n")
    process.stdin.flush()
    process.stdout.readline()
    yield
    process.stdin.write("end\n")
    process.stdin.flush()
    result["rate"] = float(process.stdout.readline())


if __name__ == "__main__":
    main()
