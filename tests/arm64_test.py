# SPDX-License-Identifier: BSD-3-Clause
"""The aarch64 build ($BUILD), under qemu-user as several CPUs: which way it goes on each, and that there are both."""
import os
import pathlib
import re
import subprocess

import pytest

BUILD = pathlib.Path(os.environ["BUILD"])
OBJDUMP = "aarch64-linux-gnu-objdump"


SYSROOT = BUILD.parent / "build-arm64-sysroot"
LIBC = "/usr/aarch64-linux-gnu/lib"  # as in cross/aarch64.ini.in
START = [f"{LIBC}/ld-linux-aarch64.so.1", "--library-path", f"{LIBC}:{SYSROOT}/usr/lib/aarch64-linux-gnu"]


def ways(cpu, page=4096):
    out = subprocess.run(["qemu-aarch64-static", "-cpu", cpu, "-p", str(page), *START, BUILD / "pollux", "version",
                          "--cpu"], capture_output=True, text=True, timeout=60, check=True).stdout
    return dict(line.split(None, 1) for line in out.splitlines())


@pytest.mark.parametrize("cpu, crc, atomics", [
    ("max", "pmull", "LSE"), ("neoverse-n1", "crc32c", "LSE"), ("cortex-a76", "pmull", "LSE"),
    ("cortex-a72", "crc32c", "exclusive loads and stores"), ("a64fx", "crc32c", "LSE")])
def test_each_cpu_goes_by_its_instructions(cpu, crc, atomics):
    told = ways(cpu)
    assert crc in told["CRC32C"] and "base" not in told["CRC32C"]
    assert told["atomics"] == atomics
    assert told["waiting"] == "isb"


def test_pages_may_be_of_64_kib():
    assert ways("max", 65536)["page"] == "65536 bytes"


@pytest.fixture(scope="module", name="code")
def disassembled():
    out = subprocess.run([OBJDUMP, "-d", "--no-show-raw-insn", BUILD / "pollux"], capture_output=True, text=True,
                         timeout=300, check=True).stdout
    return {name: body for name, body in re.findall(r"^[0-9a-f]+ <([^>]+)>:\n((?:.+\n)+)", out, re.MULTILINE)}


def test_atomics_are_chosen_at_run_time(code):
    """Messages are pushed by a function of libgcc that has both ways."""
    assert re.search(r"bl\s.*<__aarch64_cas8_acq_rel>", code["plx_reactor_send"])
    helper = code["__aarch64_cas8_acq_rel"]
    assert "casal" in helper and "ldaxr" in helper and "stlxr" in helper


def test_sleeping_takes_no_full_barrier(code):
    """A release that is followed by an acquire is enough: stlr and ldar stay in order."""
    arm = code["plx_reactor_arm"]
    assert "stlrb" in arm and "ldar" in arm and "dmb" not in arm


def test_doorbells_are_ordered_by_stores_alone(code):
    """Barriers towards devices are of the outer domain, and of one direction where that is enough."""
    kinds = {kind for body in code.values() for kind in re.findall(r"\tdmb\t(\w+)", body)}
    assert "oshst" in kinds and "oshld" in kinds
    assert not {"sy"} & kinds


def test_waiting_threads_say_so(code):
    assert any("isb" in body for name, body in code.items() if name.startswith("plx_spin_wait"))
