# SPDX-License-Identifier: BSD-3-Clause
"""`pollux version --cpu`: digests are made by the CPU's instructions where it has such."""
import platform
import subprocess

import pytest

from target import binary


def ways():
    out = subprocess.run([binary(), "version", "--cpu"], capture_output=True, text=True, timeout=60, check=True).stdout
    return dict(line.split(None, 1) for line in out.splitlines())


def features():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith(("flags", "Features")):
                return set(line.split(":")[1].split())
    return set()


@pytest.mark.parametrize("machine, wanted, instruction", [
    ("x86_64", {"sse4_2", "pclmulqdq"}, "crc32 and pclmulqdq"), ("x86_64", {"vpclmulqdq", "avx512vl"}, "vpclmulqdq"),
    ("aarch64", {"crc32"}, "crc32c"), ("aarch64", {"crc32", "pmull"}, "pmull")])
def test_crcs_are_made_by_instructions(machine, wanted, instruction):
    if platform.machine() != machine:
        pytest.skip(f"this is no {machine}")
    if not wanted <= features():
        pytest.skip(f"this CPU has not all of {', '.join(sorted(wanted))}")
    told = ways()
    if instruction == "crc32 and pclmulqdq" and "vpclmulqdq" in features():
        instruction = "pclmulqdq"
    assert instruction in told["CRC32C"] and "crc32_iscsi" in told["CRC32C"]
    assert "base" not in told["CRC32C"]
    if {"pclmulqdq", "pmull"} & wanted:
        assert told["CRC64"] == "carry-less multiplication"


def test_what_waits_and_what_is_atomic():
    told = ways()
    assert set(told) == {"CRC32C", "CRC64", "atomics", "waiting", "page"}
    assert told["waiting"] == {"x86_64": "pause", "aarch64": "isb"}[platform.machine()]
    if platform.machine() == "aarch64":
        assert (told["atomics"] == "LSE") == ("atomics" in features())
