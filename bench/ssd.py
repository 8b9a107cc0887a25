# SPDX-License-Identifier: BSD-3-Clause
"""SSDs that are driven from user space: how many requests a core sends to a controller that is a model in memory
(tests/unit/pcie_cost.c), how soon one is attached, there and in a virtual machine, and what ordinary pages cost beside
huge ones behind the IOMMU of that."""

import contextlib
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

from pool import Line
from tools import LIMIT, REPOSITORY, RESULTS, TARGET_CORE, Skip, binary_path, note

ROUNDS = 20_000  # of 128 requests: some 0.15 s
SLICES = 40
ATTACHED = 100
PROCESSES = 5  # in the virtual machine, each of which attaches it
TIMES_EACH = 6
READS = 5_000  # in the virtual machine
TIMES = 20  # there, ordinary and huge pages in turn
HUGE_PAGES = 64
ADDR = "0000:00:10.0"


def _cost(what, rounds, prefix=()):
    program = pathlib.Path(binary_path()).parent / "tests/unit/pcie_cost"
    if not program.exists():
        raise Skip("this build has no tests (meson -Dtests=true)")
    words = ["taskset", "-c", TARGET_CORE, *prefix, program, what, rounds]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=LIMIT, check=True)
    return [float(word) for word in done.stdout.split()]


def rates(_seconds, quick):
    """Short runs in turn: where others use the machine too, the best of many is what it can do."""
    runs = [[_cost(what, ROUNDS)[0] for what in ("driver", "block")] for _ in range(5 if quick else SLICES)]
    driver, block = zip(*runs)
    return [
        Line("driver", f"driver, 4 KiB read, QD128, one core with the model: {len(runs)} runs", "IOPS", driver, None,
             False),
        Line("driver-best", "... the best of them", "IOPS", [max(driver)], 15e6, False),
        Line("block", "the same with the block layer", "IOPS", block, None, False),
        Line("block-best", "... the best of them", "IOPS", [max(block)], None, False),
    ]


def _calls(rounds):
    """System calls of the thread that polls."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    out = RESULTS / "strace"
    _cost("driver", rounds, ("strace", "-c", "-o", out))
    text = out.read_text(encoding="utf-8")
    out.unlink()
    return int(re.search(r"^\s*100\.00\s+\S+\s+\d+\s+(\d+).*total$", text, re.M)[1])


def system_calls(_seconds, _quick):
    if not shutil.which("strace"):
        raise Skip("strace is not installed")
    each = (_calls(2 * ROUNDS) - _calls(ROUNDS)) / ROUNDS / 128
    return [Line("calls", "driver, QD128: system calls a request, polling", "calls", [each], 0.001, True)]


def attached(_seconds, quick):
    times = [us / 1e3 for us in _cost("attach", 10 if quick else ATTACHED)]
    return [Line("attach", f"from nothing to the answer of a first read, {len(times)} times, the controller being "
                 "ready at once", "ms", times, 20, True)]


@contextlib.contextmanager
def _machine(*options):
    """A guest with pollux and the tests' programs in it, and an SSD that vfio-pci has."""
    sys.path[:0] = [str(REPOSITORY / "tests/vm")]
    from guest import Guest  # pylint: disable=import-outside-toplevel
    with tempfile.TemporaryDirectory() as work:
        archives, disk = [pathlib.Path(work) / name for name in ("install", "tests")], pathlib.Path(work) / "disk"
        with open(disk, "wb") as file:
            file.truncate(64 << 20)
        build = pathlib.Path(binary_path()).parent
        image = subprocess.run([REPOSITORY / "scripts/vm-image", "--install", build, archives[0], "--tests", build,
                                archives[1]], capture_output=True, text=True, check=False)
        if image.returncode:
            raise Skip(f"no virtual machine: {image.stderr.strip()}")
        devices = ("-M", "q35,kernel-irqchip=split", "-device",
                   "intel-iommu,intremap=on,caching-mode=on,aw-bits=48", "-drive",
                   f"if=none,id=disk,format=raw,file={disk}", "-device", "nvme,drive=disk,serial=SSD,addr=10", *options)
        with Guest(image.stdout.strip(), work, cpus=1, devices=devices, archives=archives) as guest:
            guest.sh("modprobe vfio-pci; modprobe vfio_iommu_type1")
            guest.sh(f"cd /sys/bus/pci/devices/{ADDR}; [ -e driver ] && echo {ADDR} >driver/unbind; "
                     f"echo vfio-pci >driver_override; echo {ADDR} >/sys/bus/pci/drivers_probe; [ -e driver ]")
            yield guest


def attached_there(_seconds, quick):
    """Its clock counts instructions, one a ns. What is the device's own is left out: a reset of its function takes 100
    ms, and to wake it 10."""
    first, again = [], []
    with _machine("-icount", "shift=0,sleep=on") as guest:
        guest.sh(f"cd /sys/bus/pci/devices/{ADDR}; echo >reset_method; echo on >power/control")
        for _ in range(2 if quick else PROCESSES):
            out = guest.sh(f"/pollux/build/tests/unit/pcie_cost attach {TIMES_EACH} {ADDR}")
            times = [int(us) / 1e3 for us in out.split()]
            first.append(times[0])
            again += times[1:]
    return [
        Line("attach-vm", f"the same of QEMU's SSD, at 1 GHz and an instruction a cycle, {len(again)} times", "ms",
             again, 20, True),
        Line("attach-vm-first", f"... by a program that has just begun, {len(first)} of them", "ms", first, 20, True),
    ]


def _cpu(guest):
    """Seconds that QEMU has had: what the guest's work costs, whoever else uses the machine."""
    fields = pathlib.Path(f"/proc/{guest.qemu.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def _set_pages(guest, huge):
    pages = HUGE_PAGES if huge else 0
    guest.sh(f"echo {pages} >/proc/sys/vm/nr_hugepages; [ $(cat /proc/sys/vm/nr_hugepages) = {pages} ]")


def _read(guest, count):
    """Seconds of QEMU's for so many reads."""
    before = _cpu(guest)
    guest.sh(f"pollux perf --poll sleep -w randread -q 32 --count {count} pcie://{ADDR}/1")
    return _cpu(guest) - before


def _check_pages(guest):
    """That they are taken where there are some."""
    _set_pages(guest, True)
    job = guest.spawn(f"exec pollux perf -w randread -t 100 pcie://{ADDR}/1")
    guest.wait_until(f"[ $(sed -n 's/HugePages_Free: *//p' /proc/meminfo) -lt {HUGE_PAGES} ]", during=[job])
    job.kill()
    job.wait()


def _cost_of_reads(guest, huge):
    """Without what a start takes."""
    _set_pages(guest, huge)
    return _read(guest, 5 * READS) - _read(guest, READS)


def pages(_seconds, quick):
    ratios = []
    with _machine() as guest:
        _check_pages(guest)
        for _ in range(2 if quick else TIMES):
            ordinary, huge, huge_too, ordinary_too = (_cost_of_reads(guest, each)
                                                      for each in (False, True, True, False))
            ratios.append((huge + huge_too) / (ordinary + ordinary_too))
            note(f"... {ratios[-1]:.3f}")
    return [Line("pages", f"ordinary pages, of huge ones: 4 KiB random reads by QEMU's time, {len(ratios)} times ABBA",
                 "", ratios, 0.97, False)]


WORKS = [("ssd-rates", rates), ("ssd-calls", system_calls), ("ssd-attach", attached),
         ("ssd-attach-vm", attached_there), ("ssd-pages", pages)]
