# SPDX-License-Identifier: BSD-3-Clause
"""`pollux perf`: what it takes and refuses, what it prints, and that its figures agree with themselves. How fast
anything is decides no test here."""

import json
import os
import pty
import re
import signal
import subprocess
import time

import pytest

from disks import MIB
from target import binary, sanitized

REFUSED = 2
FAILED = 1
LIMIT = 60
PERCENTILES = ["p50", "p90", "p99", "p99.9", "p99.99"]
IN_PLACE = "ram:8M"


def run(*arguments):
    return subprocess.run([binary(), "perf", *map(str, arguments)], capture_output=True, text=True, timeout=LIMIT,
                          check=False, stdin=subprocess.DEVNULL)


def measured(*arguments):
    """Runs a measurement that must succeed; returns its JSON."""
    result = run("--json", "-", *arguments)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return json.loads(result.stdout)


def refused(*arguments):
    result = run(*arguments)
    assert result.returncode == REFUSED, f"exit status {result.returncode}\n{result.stdout}{result.stderr}"
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("pollux")
    return lines[0]


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "disk.img"
    with open(path, "wb") as file:
        file.truncate(8 * MIB)
    return path


# -- what it refuses -------------------------------------------------------------------------------------------------


def test_no_disk_is_refused():
    refused()


@pytest.mark.parametrize("arguments,word", [
    (["--no-such-option"], "no-such-option"),
    (["-q"], "-q"),
    (["-q", "0"], "0"),
    (["-q", "many"], "many"),
    (["-q", "1", "-P", "2"], "1"),
    (["-P", "0"], "0"),
    (["-o", "1000"], "1000"),
    (["-o", "0"], "0"),
    (["-o", "1G"], "1G"),
    (["-w", "sideways"], "sideways"),
    (["-M", "30"], "30"),
    (["-w", "rw", "-M", "101"], "101"),
    (["-t", "0"], "0"),
    (["-t", "soon"], "soon"),
    (["-m", "x"], "x"),
    (["-m", "4095"], "4095"),
    (["--rate", "0"], "0"),
    (["--rate", "-5"], "-5"),
    (["--count", "0"], "0"),
    (["--count", "1", "-P", "2"], "1"),
    (["--poll", "never"], "never"),
], ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None)
def test_a_wrong_option_is_refused_with_one_line_that_names_it(arguments, word):
    assert word in refused(*([IN_PLACE] + arguments))


@pytest.mark.parametrize("disk,word", [
    ("no-such-file.img", "no-such-file.img"), ("ram:", "ram:"), ("tape:1G", "tape"), ("ram:1M?blok=1", "blok"),
])
def test_a_wrong_disk_is_refused(disk, word):
    assert word in refused(disk)


def test_a_request_smaller_than_a_block_is_refused():
    assert "4096" in refused("-o", "512", "ram:1M?block=4096")


def test_writing_to_a_read_only_disk_is_refused(image):
    assert "read-only" in refused("-w", "randwrite", f"file://{image}?ro=1")


def test_verifying_what_keeps_nothing_is_refused():
    assert "null" in refused("--verify", "null:1G")


def test_a_disk_that_is_too_small_is_refused():
    assert "small" in refused("-o", "1M", "ram:512K")
    assert "small" in refused("-w", "write", "-P", "4", "-o", "1M", "ram:2M")


# -- what it says ----------------------------------------------------------------------------------------------------


def consistent(part, requests=None):
    latency = part["latency_us"]
    assert set(latency) == {"avg", "min", "max", *PERCENTILES}
    values = [latency["min"], *(latency[name] for name in PERCENTILES), latency["max"]]
    assert values == sorted(values)
    assert latency["min"] <= latency["avg"] <= latency["max"]
    assert part["iops"] > 0 and part["requests"] > 0 and part["errors"] == 0
    if requests:
        assert part["requests"] == requests


@pytest.mark.parametrize("workload", ["randread", "randwrite", "randrw", "read", "write", "rw"])
def test_each_workload_runs_and_counts_its_requests(workload):
    result = measured("-w", workload, "-q", "8", "--count", "1000", IN_PLACE)
    consistent(result, 1000)
    assert result["workload"]["kind"] == workload
    assert result["mib_s"] == pytest.approx(result["iops"] * 4096 / MIB, rel=1e-3)


@pytest.mark.parametrize("depth,queues", [(1, 1), (3, 2), (128, 1), (100, 100)])
def test_every_depth_and_number_of_queue_pairs_comes_to_its_count(depth, queues):
    consistent(measured("-q", depth, "-P", queues, "--count", "1001", IN_PLACE), 1001)


def test_disks_are_told_apart_and_summed_up(image):
    result = measured("--count", "500", IN_PLACE, "null:1T", image)
    assert [disk["disk"].split(":")[0] for disk in result["disks"]] == ["ram", "null", "file"]
    for disk in result["disks"]:
        consistent(disk, 500)
    consistent(result, 1500)
    assert result["iops"] == pytest.approx(sum(disk["iops"] for disk in result["disks"]), rel=1e-3)


def test_it_ends_by_itself_when_the_time_is_over():
    result = measured("-t", "0.2", "-q", "4", IN_PLACE)
    consistent(result)
    assert result["seconds"] >= 0.2


def test_the_table_names_what_was_measured():
    result = run("--count", "100", IN_PLACE)
    assert result.returncode == 0 and result.stderr == ""
    heading, row, cpu = result.stdout.splitlines()
    assert all(name in heading for name in ("IOPS", "MiB/s", "avg", *PERCENTILES, "max"))
    assert row.endswith("ram:8M") and cpu.startswith("CPU:")


@pytest.mark.parametrize("length", [["--count", "1"], ["-t", "0.001"], ["-t", "0.3"]], ids=" ".join)
def test_shares_of_cpu_time_are_not_told_of_runs_that_are_too_short_for_them(tmp_path, length):
    path = tmp_path / "result.json"
    result = run(*length, "--json", path, IN_PLACE)
    told = result.stdout.splitlines()[-1]
    wall = json.loads(path.read_text())["cpu"]["wall_seconds"]  # in thousandths
    if wall <= 0.2 and told == "CPU: not told of a run of less than 0.2 s":
        return
    assert wall >= 0.2 and re.fullmatch(r"CPU: \d+\.\d % of a core here", told)


def test_json_goes_to_a_file_beside_the_table(tmp_path):
    path = tmp_path / "result.json"
    result = run("--count", "100", "--json", path, IN_PLACE)
    assert result.returncode == 0 and "IOPS" in result.stdout
    consistent(json.loads(path.read_text()), 100)


def test_json_that_cannot_be_written_is_an_error():
    result = run("-t", "1000", "--json", "/no/such/directory/x.json", IN_PLACE)  # said before, and not after
    assert result.returncode == REFUSED and "/no/such/directory/x.json" in result.stderr


def test_on_a_terminal_there_is_a_line_a_second():
    main, terminal = pty.openpty()
    with subprocess.Popen([binary(), "perf", "-t", "1.5", IN_PLACE], stdout=terminal,
                          stdin=subprocess.DEVNULL) as process:
        os.close(terminal)
        output = b""
        try:
            while chunk := os.read(main, 4096):
                output += chunk
        except OSError:
            pass  # how a terminal ends
        assert process.wait(LIMIT) == 0
    os.close(main)
    assert re.search(rb"^ +\d+ s .*IOPS.*MiB/s", output, re.M)


# -- pacing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["busy", "adaptive", "sleep"])
def test_a_rate_is_not_exceeded(mode):
    result = measured("--rate", "2000", "-P", "2", "--poll", mode, "-t", "0.5", IN_PLACE)
    consistent(result)
    # As many as the schedule holds, or fewer where this machine was held up; never more.
    assert result["requests"] <= result["seconds"] * 2000 + 2


def test_what_cannot_keep_up_says_so_in_latency_and_count():
    """A schedule that nothing can keep: requests are late, and their latency counts from when they were due."""
    result = measured("--rate", "1000000000", "-q", "1", "-t", "0.2", IN_PLACE)
    assert result["late"] > 0
    assert result["latency_us"]["max"] > 50_000


def test_a_rate_and_a_count_go_together():
    consistent(measured("--rate", "5000", "--count", "300", "-P", "3", IN_PLACE), 300)


# -- verifying -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workload", ["randwrite", "randrw", "write", "rw"])
def test_what_was_written_is_read_back(workload):
    result = measured("--verify", "-w", workload, "-q", "16", "-P", "2", "--count", "4000", IN_PLACE)
    assert result["verify"]["wrong"] == 0 and result["verify"]["right"] > 0


def test_a_later_run_checks_what_an_earlier_one_wrote(image):
    measured("--verify", "-w", "write", "--count", 8 * MIB // 4096, image)
    result = measured("--verify", "-w", "read", "--count", 8 * MIB // 4096, image)
    assert result["verify"] == {"right": 8 * MIB // 4096, "wrong": 0, "unknown": 0}


def test_what_was_never_written_cannot_be_checked():
    result = measured("--verify", "-w", "read", "--count", "100", IN_PLACE)
    assert result["verify"] == {"right": 0, "wrong": 0, "unknown": 100}


@pytest.mark.parametrize("damage", ["bit", "misplaced"])
def test_damage_is_found(image, damage):
    measured("--verify", "-w", "write", "--count", 8 * MIB // 4096, image)
    data = bytearray(image.read_bytes())
    if damage == "bit":
        data[5 * 4096 + 3000] ^= 1
    else:
        data[5 * 4096:6 * 4096] = data[6 * 4096:7 * 4096]
    image.write_bytes(data)
    result = run("--verify", "-w", "read", "--count", 8 * MIB // 4096, image)
    assert result.returncode == FAILED
    assert "wrong data" in result.stderr and len(result.stderr.splitlines()) == 1
    assert re.search(rf"LBA {5 * 8 + (5 if damage == 'bit' else 0)} ", result.stderr)
    assert "earlier run" in result.stderr and "--verify again" in result.stderr  # what it may be, and what to do


def test_runs_that_do_not_verify_leave_no_false_traces(image):
    """What they read is not what they write elsewhere."""
    measured("--verify", "-w", "write", "--count", 8 * MIB // 4096, image)
    for workload in ("randrw", "rw"):
        measured("-w", workload, "-q", "8", "--count", "4000", image)
        for check in ("randread", "randrw"):
            assert measured("--verify", "-w", check, "--count", "4000", image)["verify"]["wrong"] == 0


@pytest.mark.parametrize("change", ["moved", "damaged"])
def test_a_run_that_writes_judges_only_what_it_wrote(image, change):
    measured("--verify", "-w", "write", "--count", 8 * MIB // 4096, image)
    data = bytearray(image.read_bytes())
    if change == "moved":
        data = data[4096:] + data[:4096]
    else:
        data[100::512] = bytes(255 - byte for byte in data[100::512])
    image.write_bytes(data)
    told = measured("--verify", "-w", "rw", "--count", 8 * MIB // 4096, image)["verify"]
    assert told["wrong"] == 0 and told["unknown"] > 0 and told["right"] > 0


@pytest.mark.parametrize("before,after", [(512, 4096), (4096, 512)])
def test_blocks_of_another_size_are_nothing_to_check(image, before, after):
    measured("--verify", "-w", "write", "--count", 8 * MIB // 4096, f"file://{image}?block={before}")
    told = measured("--verify", "-w", "read", "--count", 8 * MIB // 4096, f"file://{image}?block={after}")["verify"]
    assert told == {"right": 0, "wrong": 0, "unknown": 8 * MIB // 4096}


# -- being interrupted -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_the_results_so_far(sign):
    with subprocess.Popen([binary(), "perf", "-t", "1000", "-m", "0", IN_PLACE], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True) as process:
        threads = f"/proc/{process.pid}/task"
        while len(os.listdir(threads)) < 2:  # the worker runs
            time.sleep(0.01)
        time.sleep(0.3)
        process.send_signal(sign)
        out, err = process.communicate(timeout=LIMIT)
        assert process.returncode == 0
        assert "IOPS" in out or "interrupted" in err


def test_a_file_is_measured_on_every_core(image):
    cores = sorted(os.sched_getaffinity(0))[:2]
    names = ",".join(map(str, cores))
    result = measured("-m", names, "-w", "randrw", "--verify", "--count", "2000", "-q", "16", image)
    consistent(result)
    assert result["verify"]["wrong"] == 0
    if not sanitized():
        assert result["workload"]["qpairs"] == len(cores)
