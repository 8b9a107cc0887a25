# SPDX-License-Identifier: BSD-3-Clause
"""`pollux compare` as a command, with our own two sides: what is measured, what is said of what cannot be, and how it
ends. tests/vm has the kernel's sides."""
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

from target import binary, wait_until

LIMIT = 120
NOBODY = 65534
SHORT = ("-t", "0.05", "-q", "8", "-o", "4K", "-M", "100", "-m", "1", "--digests", "off", "--poll", "adaptive",
         "--disk", "null")
OURS = ("--targets", "pollux", "--hosts", "pollux")
HTML_LIMIT = 400 << 10


def run(*words, status=0, **more):
    done = subprocess.run([more.pop("program", binary()), "compare", *map(str, words)], capture_output=True, text=True,
                          timeout=LIMIT, check=False, **more)
    assert done.returncode == status, (done.stdout, done.stderr)
    return done


@pytest.fixture
def program():
    """The command where everybody can get at it."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield shutil.copy(binary(), folder)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """What a short run of our own sides wrote."""
    folder = tmp_path_factory.mktemp("compare")
    run(*SHORT, *OURS, "--json", folder / "a.json", "--html", folder / "a.html")
    return folder


def test_a_cell_has_rounds_and_what_they_say_together(measured):
    doc = json.loads((measured / "a.json").read_text())
    assert doc["complete"] and doc["rounds"] == 6
    cell, = doc["cells"]
    assert (cell["target"], cell["host"], cell["status"]) == ("pollux", "pollux", "measured")
    assert len(cell["rounds"]) == 6
    iops = cell["figures"]["iops"]
    values = sorted(each["fast"]["iops"] for each in cell["rounds"])
    assert iops["low"] == pytest.approx(values[0]) and iops["high"] == pytest.approx(values[5])
    assert iops["mid"] == pytest.approx((values[2] + values[3]) / 2)
    # Those that ended after the time was over count as well: what is slow must not be left out for it.
    assert sum(n for _, n in cell["histogram_ns"]) >= sum(each["paced"]["requests"] for each in cell["rounds"])


def test_all_that_was_measured_on_is_told(measured):
    machine = json.loads((measured / "a.json").read_text())["machine"]
    assert machine["kernel"]["release"] == os.uname().release
    assert machine["cpu"]["count"] == os.cpu_count()
    assert machine["page_size"] == os.sysconf("SC_PAGESIZE")
    assert {"mitigations", "governor", "numa_nodes", "smt"} <= machine["cpu"].keys()
    assert "net/ipv4/tcp_rmem" in machine["sysctls"] and machine["nics"]
    assert {"mtu", "driver", "speed", "offloads"} <= machine["nics"][0].keys()


def test_the_report_is_one_small_file_that_asks_for_nothing(measured):
    page = (measured / "a.html").read_text()
    assert len(page.encode()) <= HTML_LIMIT
    assert not re.search(r"""(?:src|href)\s*=|@import|url\(""", page)
    assert "default-src 'none'" in page
    tables = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    assert "<table>" in tables and "4 KiB read, QD8" in tables


def test_a_report_can_be_made_again_of_what_was_written(measured, tmp_path):
    again = tmp_path / "again.html"
    done = run("--from", measured / "a.json", "--html", again)
    assert again.read_text() == (measured / "a.html").read_text()
    assert "4 KiB read, QD8" in done.stdout


def test_what_a_file_says_steers_neither_a_terminal_nor_a_browser(measured, tmp_path):
    doc = json.loads((measured / "a.json").read_text())
    for name in ("status", "reason"):
        doc["cells"][0][name] = "\x1b[2J<img src=x>"
    del doc["cells"][0]["figures"], doc["cells"][0]["latency_us"]
    doc["settings"] = {"<b>": "<script>"}
    (tmp_path / "evil.json").write_text(json.dumps(doc))
    done = run("--from", tmp_path / "evil.json", "--html", tmp_path / "evil.html")
    assert "\x1b" not in done.stdout and "?[2J" in done.stdout
    page = (tmp_path / "evil.html").read_text()
    assert "<img" not in page and "<b>" not in re.sub("<div class=.card.*", "", page) and page.count("<script") == 3


def test_each_reason_is_told_however_many_there_are(measured, tmp_path):
    doc = json.loads((measured / "a.json").read_text())
    cell = doc["cells"][0]
    del cell["figures"], cell["latency_us"]
    doc["cells"] = [{**cell, "status": "failed", "reason": f"reason {i};"} for i in range(1000)] * 2
    (tmp_path / "many.json").write_text(json.dumps(doc))
    table = run("--from", tmp_path / "many.json").stdout
    assert table.count("failed [9]") == 2 and "\n[9] reason 8;" in table
    assert not [i for i in range(1000) if f"reason {i};" not in table]


def test_where_no_request_was_through_there_is_no_interval(measured, tmp_path):
    doc = json.loads((measured / "a.json").read_text())
    doc["cells"][0]["figures"]["iops"] = {"mid": 0.0, "low": 0.0, "high": 100.0}
    (tmp_path / "none.json").write_text(json.dumps(doc))
    assert not re.search("nan|inf", run("--from", tmp_path / "none.json").stdout)


def test_json_to_standard_output_is_all_that_is_there():
    assert json.loads(run(*SHORT, *OURS, "--json", "-").stdout)["format"] == 1


def test_who_is_not_root_is_told_what_cannot_be_measured(program):
    done = run(*SHORT, program=program, user=NOBODY, group=NOBODY, cwd="/tmp")
    assert done.stdout.count("not measured [1]") == 3
    assert "[1] only root can set the kernel's side up" in done.stdout


def test_where_nothing_can_be_noted_nothing_of_the_kernel_is_set_up():
    if os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("needs root, and a name space for mounts")
    script = 'mount -t tmpfs -o ro none /run && exec "$@"'
    done = subprocess.run(["unshare", "-m", "sh", "-c", script, "sh", binary(), "compare", *SHORT], capture_output=True,
                          text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stderr
    assert "[1] /run/pollux-compare cannot be made: Read-only file system" in done.stdout
    assert done.stdout.count("not measured [1]") == 3


def test_nothing_that_can_be_measured_is_an_error(program):
    done = run(*SHORT, "--targets", "kernel", program=program, user=NOBODY, group=NOBODY, status=1, cwd="/tmp")
    assert done.stderr == ("pollux: nothing of what was asked for can be measured here: only root can set the kernel's "
                           "side up\n")


def test_digests_cores_and_sizes_are_what_was_asked_for(tmp_path):
    run("-t", "0.05", *OURS, "-q", "4", "-o", "512,8K", "-M", "70", "-m", "1", "--digests", "on", "--poll", "sleep",
        "--disk", "null", "--json", tmp_path / "a.json")
    loads = [cell["load"] for cell in json.loads((tmp_path / "a.json").read_text())["cells"]]
    assert [each["text"] for each in loads] == ["512 B 70 % read, QD4, digests, sleeping",
                                                "8 KiB 70 % read, QD4, digests, sleeping"]


def test_both_targets_can_serve_a_file(tmp_path):
    disk = tmp_path / "disk"
    with open(disk, "wb") as file:
        file.truncate(8 << 20)
    run("-t", "0.05", "-q", "8", "-o", "4K", "-M", "0", "-m", "1", "--digests", "off", "--poll", "adaptive", *OURS,
        "--disk", disk)
    assert any(disk.read_bytes())


def children(pid):
    return [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in
            (task / "children").read_text().split()]


def alive(pid):
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def begin(*words):
    """A run that goes on for long, and its processes: our target and the load."""
    process = subprocess.Popen([binary(), "compare", "-t", "0.3", "--rounds", "100", *SHORT[2:], *OURS, *words],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert wait_until(lambda: len(children(process.pid)) == 2)
    return process, children(process.pid)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_and_all_that_it_began(number):
    process, begun = begin()
    process.send_signal(number)
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 1 and "pollux: interrupted" in errors
    assert not any(map(alive, begun))


def notes():
    """Those of runs, with whether the run lives: who may, locks them."""
    for folder in Path("/run/pollux-compare").glob("*"):
        try:
            with open(folder / "lock", "rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield folder, False
        except BlockingIOError:
            yield folder, True
        except FileNotFoundError:  # it has ended meanwhile
            continue


def test_killed_it_leaves_no_process_and_clean_its_notes():
    process, begun = begin()
    process.kill()
    process.communicate(timeout=LIMIT)
    assert wait_until(lambda: not any(map(alive, begun)))

    def clean():
        """What it leaves alone, as a last process of it is still at its end, it does not the next time."""
        run("--clean")
        return not [folder for folder, lives in notes() if not lives]

    assert wait_until(clean)


def test_clean_leaves_a_run_that_lives_alone():
    process, _ = begin()
    run("--clean")
    if os.geteuid() == 0:
        assert any(lives for _, lives in notes())
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=LIMIT) and process.returncode == 1


@pytest.mark.parametrize("words, complaint", [
    (["-q", "0"], "--queue-depth 0: takes numbers from 1 to 1023"),
    (["-q", "1,,2"], "--queue-depth 1,,2: takes a list with a comma between two"),
    (["-q", ""], "--queue-depth : takes a list with a comma between two"),
    (["-q", ",".join(["1"] * 17)], "--queue-depth: takes at most 16 values"),
    (["-o", "100"], "--io-size 100: takes a size from 512 to 1M, a multiple of 512"),
    (["-M", "101"], "--read-percent 101: takes numbers from 0 to 100"),
    (["--digests", "yes"], "--digests yes: takes off and on"),
    (["--targets", "spdk"], "--targets spdk: takes pollux and kernel"),
    (["-t", "0"], "--time 0: takes seconds from 0.05 to 600"),
    (["-t", "1e3"], "--time 1e3: takes seconds from 0.05 to 600"),
    (["--rounds", "5"], "--rounds 5: takes a number from 6 to 100"),
    (["--quick", "-t", "1"], "--quick chooses the time itself: without --time"),
    (["--clean", "--json", "-"], "--clean stands alone"),
    (["everything"], '"everything" is a word too many; "pollux help compare" lists the options'),
    (["--json", "/nowhere/a"], "--json /nowhere/a: cannot be written: No such file or directory"),
    (["--html", "/"], "--html /: cannot be written: Is a directory"),
    (["--from", "/dev/null"], "--from /dev/null: is no file that pollux compare --json wrote"),
    (["-m", "100"], "--cores 100: each side has"),
])
def test_what_is_wrong_is_said_in_a_sentence(words, complaint):
    done = run(*words, status=2)
    assert done.stderr.startswith(f"pollux: {complaint}") and done.stderr.count("\n") == 1, done.stderr


def test_what_fails_stands_in_its_place(tmp_path):
    done = run(*OURS, "-t", "0.05", "-q", "1", "-o", "4K", "-M", "100", "-m", "1", "--digests", "off", "--poll",
               "adaptive", "--disk", tmp_path / "no such file")
    assert "failed [1]" in done.stdout
    assert "[1] our target does not start: there is no file" in done.stdout
