#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""What a 4 KiB read costs beside instructions: counts for docs/why-fast.md.

    bench/why.py here      system calls and context switches of our target and host on this machine (perf)
    bench/why.py lines     cache lines of user memory that change threads (make arm64; qemu-user)
    bench/why.py copies    instructions of reads of 4 KiB and of 64 KiB (valgrind)
    bench/why.py guest     in a virtual machine, as root: our target and the kernel's under the same kernel's host

Counts, and no times: they are the same on a busy machine. Each is of N reads less one of none, or of 2 N less N.
"""
import collections
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO / name) for name in ("bench", "tests", "tests/integration", "tests/vm")]

import instructions  # noqa: E402
from target import Target, binary  # noqa: E402

READS = 2000


def table(title, rows):
    print(f"\n{title}\n")
    for name, value in rows:
        print(f"  {name:<44} {value:10.3f}")


# -- system calls on this machine ------------------------------------------------------------------------------------

SEEN = ("syscalls:sys_enter_recvfrom", "syscalls:sys_enter_recvmsg", "syscalls:sys_enter_sendto",
        "syscalls:sys_enter_sendmsg", "syscalls:sys_enter_epoll_pwait2", "syscalls:sys_enter_read",
        "syscalls:sys_enter_write", "raw_syscalls:sys_enter", "context-switches", "cpu-migrations", "page-faults")


def counted(depth, reads, of, poll):
    """Events of the target, or of the host, while it does so many reads; by perf, which holds them up the least."""
    with tempfile.TemporaryDirectory() as work, Target("ram:64M", options=("-m", "0", "--poll", poll)) as target:
        disk = f"nvme+tcp://{target.address[0]}:{target.address[1]}/{target.nqn}"
        host = [binary(), "perf", "-m", "1", "--poll", poll, "-q", str(depth), "--count", str(reads), disk]
        pid = ["-p", str(target.process.pid)] if of == "target" else []
        subprocess.run(["perf", "stat", "-x,", "-o", f"{work}/out", "-e", ",".join(SEEN), *pid, "--", *host],
                       check=True, capture_output=True)
        lines = Path(f"{work}/out").read_text(encoding="utf-8").splitlines()
    fields = [line.split(",") for line in lines if line and line[0].isdigit()]
    return {each[2].removeprefix("syscalls:sys_enter_"): int(each[0]) for each in fields}


def here():
    for of in ("target", "host"):
        for poll, depth in (("busy", 1), ("sleep", 1), ("adaptive", 32)):
            more, less = (counted(depth, n, of, poll) for n in (11 * READS, READS))
            rows = [(name, (more[name] - less[name]) / READS / 10) for name in more]
            table(f"A read, of our {of}, {depth} in flight, --poll {poll}",
                  sorted((row for row in rows if row[1] >= 0.0005), key=lambda row: -row[1]))


# -- cache lines -----------------------------------------------------------------------------------------------------

class Lines(instructions.Qemu):
    """Counts lines that change threads."""

    @classmethod
    def command(cls, out, within=None):
        words = list(super().command(out, within))
        at = words.index("-plugin") + 1
        words[at] += ",lines=64"
        return tuple(words)


def lines(count=4096):
    with instructions.counting_by(Lines):
        value = instructions.target_read(count)
    table("Cache lines of our target's memory that change threads, a read", [("on one reactor, and control", value)])


def copies(count=1024):
    """What a read takes must not depend on how much it reads, where nobody copies."""
    rows, before = [], instructions.BLOCKS
    for blocks in (8, 128):
        instructions.BLOCKS = blocks
        rows.append((f"{blocks // 2} KiB", instructions.target_read(count)))
    instructions.BLOCKS = before
    table("Instructions of our target, a read", rows)


# -- in a virtual machine ----------------------------------------------------------------------------------------------

NQN = "nqn.2026-01.com.example:why"
EVENTS = ("sched/sched_switch", "sched/sched_wakeup", "irq/irq_handler_entry", "irq/softirq_entry",
          "raw_syscalls/sys_enter", "workqueue/workqueue_execute_start")
COPIES = ("_copy_from_iter", "_copy_to_iter", "skb_copy_datagram_iter", "copy_from_brd", "copy_to_brd",
          "brd_submit_bio", "tcp_sendmsg", "tcp_recvmsg")
PREPARE = f"""
set -e; modprobe configfs; mount -t tracefs tracefs /sys/kernel/tracing; mount -t configfs configfs /sys/kernel/config
modprobe nvmet_tcp; modprobe brd rd_nr=1 rd_size=65536
cd /sys/kernel/config/nvmet
mkdir subsystems/{NQN}; echo 1 >subsystems/{NQN}/attr_allow_any_host
mkdir subsystems/{NQN}/namespaces/1; echo /dev/ram0 >subsystems/{NQN}/namespaces/1/device_path
echo 1 >subsystems/{NQN}/namespaces/1/enable
mkdir ports/1; cd ports/1; echo tcp >addr_trtype; echo ipv4 >addr_adrfam; echo 127.0.0.1 >addr_traddr
echo 4420 >addr_trsvcid; ln -s /sys/kernel/config/nvmet/subsystems/{NQN} subsystems/
"""
FIO = "fio --name=why --filename=$disk --rw=randread --bs=4k --ioengine=io_uring --direct=1 --thread --norandommap"


def trace(guest, port, depth, reads):
    """Of a load against what listens at the port: events by (name, who), and calls of functions by name."""
    events = "\n".join(f"echo {{}} >events/{event}/enable" for event in EVENTS)
    names = " ".join(COPIES)
    text = guest.sh(f"""
nvme connect -t tcp -a 127.0.0.1 -s {port} -n {NQN} --nr-io-queues=1 >/dev/null
disk=$(ls -d /dev/nvme*n1 | tail -1); cd /sys/kernel/tracing
echo 0 >tracing_on; echo 65536 >buffer_size_kb; echo >trace
for f in {names}; do echo $f >>set_ftrace_filter 2>/dev/null; done
{events.format(*[1] * len(EVENTS))}
echo 0 >function_profile_enabled; echo 1 >function_profile_enabled; echo 1 >tracing_on
(cd /; {FIO} --iodepth={depth} --number_ios={reads} >/dev/null)
echo 0 >tracing_on; echo 0 >function_profile_enabled
sed -n 's/^ *\\(.*\\)-[0-9]* *\\[[0-9]*\\] [^:]*: \\([a-z_]*\\):.*/E \\2 \\1/p' trace |
    sed 's,/[0-9u]*:[0-9a-z:-]*,,; s,[0-9]*$,,' | sort | uniq -c
awk '$1 != "Function" && NF > 2 && $2 ~ /^[0-9]/ {{print $2, "F", $1, "-"}}' trace_stat/function*
{events.format(*[0] * len(EVENTS))}
echo >set_ftrace_filter
nvme disconnect -n {NQN} >/dev/null""", timeout=1200)
    found = collections.Counter()
    for line in text.splitlines():
        parts = line.split(None, 3)
        if len(parts) >= 3 and parts[1] in "EF":
            found[parts[1], parts[2], parts[3].strip() if len(parts) > 3 else "-"] += int(parts[0])
    return found


def measure(guest, port, depth, reads=400):
    more, less = (trace(guest, port, depth, n) for n in (2 * reads, reads))
    return {key: (more[key] - less[key]) / reads for key in more}


def guest():
    from guest import Guest
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        command = [REPO / "scripts/vm-image", "--install", Path(binary()).resolve().parent, work / "archive"]
        image = Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
        with Guest(image, work, archives=[work / "archive"]) as machine:
            machine.sh(PREPARE)
            server = machine.spawn(f"exec pollux serve -m 1 -l 127.0.0.1:4421 -n {NQN} --allow-any-host ram:64M")
            machine.sh("until nvme discover -t tcp -a 127.0.0.1 -s 4421 >/dev/null 2>&1; do sleep 1; done")
            for depth in (1, 32):
                for name, port in (("the kernel's target", 4420), ("our target", 4421)):
                    show(f"{name}, the kernel's host, {depth} in flight", measure(machine, port, depth))
            server.interrupt()


def show(title, counts):
    by_event = collections.Counter()
    for (kind, what, _), value in counts.items():
        by_event[kind, what] += value
    rows = [(what, value) for (kind, what), value in sorted(by_event.items(), key=lambda item: -item[1])
            if abs(value) >= 0.01]
    table(title, rows)
    who = [(f"{what} of {who}", value) for (kind, what, who), value in counts.items() if kind == "E" and value >= 0.02]
    table("  by whom", sorted(who, key=lambda row: -row[1])[:24])


if __name__ == "__main__":
    if sys.argv[1:] not in (["here"], ["lines"], ["copies"], ["guest"]):
        sys.exit(__doc__)
    os.chdir(REPO)
    globals()[sys.argv[1]]()
