# SPDX-License-Identifier: BSD-3-Clause
"""`pollux tune` as a command: looking, changing and going back, measuring, and what it says to what is wrong."""
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from machines import NET, Machine
from target import binary, wait_until

LIMIT = 120
HERE = Path(__file__).resolve().parent
SWAPPINESS = "proc/sys/vm/swappiness"
KSM = "sys/kernel/mm/ksm/run"
SWAPS = {"proc/swaps": "Filename Type Size Used Priority\n/swap file 1048572 0 -2"}
JOURNAL = "var/lib/pollux-tune/journal.json"
NOBODY = 65534


@pytest.fixture
def machine(tmp_path):
    """A small one, that swaps."""
    made = Machine(tmp_path / "vm", "vm")
    made.write("proc/swaps", SWAPS["proc/swaps"])
    return made


@pytest.fixture
def program():
    """The command where everybody can get at it."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield shutil.copy(binary(), folder)


def run(*words, status=0, **more):
    done = subprocess.run([binary(), "tune", *map(str, words)], capture_output=True, text=True, timeout=LIMIT,
                          check=False, **more)
    assert done.returncode == status, (done.stdout, done.stderr)
    return done


def on(machine, *words, **more):
    return run("--root", machine.root, *words, **more)


# ---- looking

def test_looking_at_this_machine_opens_nothing_to_write():
    done = subprocess.run([sys.executable, HERE / "readonly.py", binary(), "tune", "--json"], capture_output=True,
                          text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["findings"]) >= 40


@pytest.mark.skipif(os.getuid() != 0, reason="takes root, to be somebody else")
def test_nobody_sees_as_much_as_root(program):
    words = "--json", "-m", "0"  # and not wherever other tests have a reactor just now
    done = subprocess.run([program, "tune", *words], capture_output=True, text=True, timeout=LIMIT, check=False,
                          user=NOBODY, group=NOBODY, extra_groups=[])
    assert done.returncode == 0, done.stderr
    theirs = {(f["check"], f["subject"]): f["state"] for f in json.loads(done.stdout)["findings"]}
    ours = {(f["check"], f["subject"]): f["state"] for f in json.loads(run(*words).stdout)["findings"]}
    unknown = {key for key, state in theirs.items() if state == "unknown" and ours[key] != "unknown"}
    assert theirs.keys() == ours.keys()
    assert unknown <= {("cpu.preemption", "")}, "of all files that are read one needs root"


@pytest.mark.skipif(os.getuid() != 0, reason="takes root, to be somebody else")
def test_who_is_not_root_is_told_that_changing_takes_root(program):
    done = subprocess.run([program, "tune", "--apply", "--state", "/etc/pollux-tune/x.json", "mem.ksm"],
                          capture_output=True, text=True, timeout=LIMIT, check=False, user=NOBODY, group=NOBODY)
    assert done.returncode == 1
    assert done.stderr == "pollux: /etc/pollux-tune/: Permission denied; changing settings takes root\n"


def test_for_people_each_finding_says_what_why_how_much_and_how(machine):
    text = on(machine, "-m", "0", "mem", "net").stdout
    finding = text[text.index("better  mem.swap"):].split("\n\n")[0]
    for part in ("found   swap, with swappiness 60", "better  10", "why     A RAM disk", "brings  no figure is known (",
                 'do      sysctl -w vm.swappiness="10"'):
        assert part in finding
    assert "as it should be:\n" in text and "not on this machine:\n" in text
    assert "--undo takes back" in text


def test_a_group_and_a_check_can_be_named(machine):
    findings = json.loads(on(machine, "--json", "limit", "mem.ksm").stdout)["findings"]
    assert [f["check"] for f in findings] == ["mem.ksm", "limit.memlock", "limit.files"]


# ---- changing

def test_what_was_applied_goes_back_exactly(machine):
    machine.write("sys/block/vda/queue/scheduler", "mq-deadline")  # a file that has no brackets to write into
    before = machine.content()
    done = on(machine, "-m", "0", "--apply")
    assert "/proc/sys/vm/swappiness: 60 -> 10\n" in done.stdout
    assert machine.read(SWAPPINESS) == "10"
    assert (machine.root / JOURNAL).stat().st_mode & 0o777 == 0o600
    done = on(machine, "--undo")
    assert "/proc/sys/vm/swappiness: 10 -> 60\n" in done.stdout
    after = {path: content.strip() for path, content in machine.content().items()}
    assert after == {path: content.strip() for path, content in before.items()}
    assert on(machine, "--undo").stdout == ""


def test_settings_of_a_nic_go_back_too(tmp_path):
    machine = Machine(tmp_path / "xeon", "xeon")
    on(machine, "-m", "16,17", "--apply", "nic.queues", "nic.coalesce", "nic.irq-cores")
    assert "combined 2\n" in machine.read("ethtool/eth0/channels")
    assert "adaptive-rx off" in machine.read("ethtool/eth0/coalesce")
    assert machine.read("proc/irq/121/smp_affinity_list") == "17"
    on(machine, "--undo")
    assert "combined 8\n" in machine.read("ethtool/eth0/channels")
    assert "adaptive-rx on" in machine.read("ethtool/eth0/coalesce")
    assert machine.read("proc/irq/121/smp_affinity_list") == "1"


def test_a_choice_is_made_when_it_is_named(machine):
    machine.write(KSM, 1)
    on(machine, "--apply")
    assert machine.read(KSM) == "1"
    on(machine, "--apply", "mem")
    assert machine.read(KSM) == "0"


def test_what_was_closed_for_safety_is_opened_only_when_it_is_named(machine):
    io_uring = "proc/sys/kernel/io_uring_disabled"
    machine.write(io_uring, 2)
    on(machine, "--apply")
    assert machine.read(io_uring) == "2"
    on(machine, "--apply", "kernel.io-uring")
    assert machine.read(io_uring) == "0"


def test_what_may_cut_the_machine_off_is_changed_by_its_own_name_only(machine):
    on(machine, "--apply", "nic")
    assert machine.read(f"{NET}/mtu") == "1500"
    assert machine.read(f"{NET}/napi_defer_hard_irqs") == "10"
    on(machine, "--apply", "nic.mtu")
    assert machine.read(f"{NET}/mtu") == "9000"


def test_after_a_nic_has_stopped_what_is_found_then_is_changed(machine):
    """As if one setting had made another: a link, by which what it is looks well afterwards."""
    usecs = machine.root / "proc/sys/net/core/netdev_budget_usecs"
    machine.write("proc/net/softnet_stat", "00100000 00000000 00010000")
    machine.write("proc/sys/net/core/netdev_budget", 3000)
    usecs.unlink()
    usecs.symlink_to(f"../../../../{NET}/mtu")
    assert on(machine, "--apply", "net.budget", "--dry-run").stdout.count("netdev_budget_usecs") == 1
    assert on(machine, "--apply", "net.budget", "nic.mtu").stdout == f"/{NET}/mtu: 1500 -> 9000\n"


def test_a_dry_run_prints_the_commands_and_changes_nothing(machine):
    before = machine.content()
    done = on(machine, "--apply", "--dry-run", "mem.swap")
    assert done.stdout == 'sysctl -w vm.swappiness="10"\n'
    assert machine.content() == before
    on(machine, "--apply", "mem.swap")
    before = machine.content()
    assert on(machine, "--undo", "--dry-run").stdout == "/proc/sys/vm/swappiness: 10 -> 60\n"
    assert machine.content() == before


def test_a_conflict_is_named_and_left_alone(machine):
    on(machine, "--apply", "mem.swap")
    machine.write(SWAPPINESS, 33)
    done = on(machine, "--undo", status=1)
    assert done.stderr == ("pollux: /proc/sys/vm/swappiness: conflict: it was 60, was set to 10 by us, and is 33 now: "
                           "left alone\n")
    assert machine.read(SWAPPINESS) == "33"
    on(machine, "--undo", "--forget", status=1)
    assert on(machine, "--undo").stdout == ""
    assert machine.read(SWAPPINESS) == "33"


def test_json_has_what_was_done(machine):
    out = json.loads(on(machine, "--apply", "--json", "mem.swap").stdout)
    assert [f["check"] for f in out["findings"]] == ["mem.swap"]
    assert out["messages"] == [{"bad": False, "text": "/proc/sys/vm/swappiness: 60 -> 10"}]
    machine.write(SWAPPINESS, 33)
    out = json.loads(on(machine, "--undo", "--json", status=1).stdout)
    assert out["findings"] == [] and [m["bad"] for m in out["messages"]] == [True]


def test_the_journal_can_be_elsewhere(machine, tmp_path):
    on(machine, "--apply", "--state", tmp_path / "a/b/state.json", "mem.swap")
    assert not (machine.root / JOURNAL).exists()
    entry, = json.loads((tmp_path / "a/b/state.json").read_text())["entries"]
    assert entry == {"setting": "/proc/sys/vm/swappiness", "old": "60", "new": "10", "check": "mem.swap",
                     "boot": machine.read("proc/sys/kernel/random/boot_id")}
    on(machine, "--undo", "--state", tmp_path / "a/b/state.json")
    assert machine.read(SWAPPINESS) == "60"


# ---- measuring

def load(machine, with_it, without):
    return f"[ $(cat '{machine.root}/{SWAPPINESS}') = 10 ] && echo '{with_it}' || echo '{without}'"


def measured(machine, command, *words):
    out = json.loads(on(machine, "--measure", "--load", command, "--rounds", 3, "--json", *words, "mem.swap").stdout)
    assert machine.read(SWAPPINESS) == "60"
    assert not (machine.root / JOURNAL).exists()
    return out["findings"][0]


def test_a_change_that_brings_something_gets_its_figure(machine):
    finding = measured(machine, load(machine, "a line\n110 a second", "100 a second"))
    assert finding["gain"]["text"] == "+10.0 % (95 %: +10.0 to +10.0)"
    assert finding["gain"]["origin"] == "measured" and "cat" in finding["gain"]["source"]
    assert finding["measured"]["with"] == [110] * 3 and finding["measured"]["without"] == [100] * 3


def test_a_change_that_makes_it_worse_says_so(machine):
    assert measured(machine, load(machine, 50, 100))["gain"]["text"].startswith("-50.0 % ")


def test_a_change_that_brings_nothing_is_no_difference(machine):
    finding = measured(machine, "echo 17.5")
    assert finding["gain"]["text"].startswith("no difference (95 %: ")
    assert finding["measured"]["difference"] is False


def test_for_people_the_figure_is_in_the_finding(machine):
    done = on(machine, "--measure", "--load", load(machine, 110, 100), "--rounds", 2, "mem.swap")
    assert "brings  +10.0 % (95 %: +10.0 to +10.0) (measured here: " in done.stdout
    assert done.stderr == "mem.swap: +10.0 % (95 %: +10.0 to +10.0)\n"


def test_iops_of_json_are_a_figure(machine):
    assert measured(machine, load(machine, '{"iops": 3000.5, "errors": 0}', '{"iops": 3000.5}\n}'))["measured"][
        "with"] == [3000.5] * 3


def test_pollux_perf_is_a_load(machine):
    done = on(machine, "--measure", "--target", "ram:1M", "--seconds", 1, "--rounds", 2, "--json", "mem.swap")
    finding, = json.loads(done.stdout)["findings"]
    assert min(finding["measured"]["with"]) > 1000
    assert "perf -t 1" in finding["gain"]["source"] and machine.read(SWAPPINESS) == "60"


@pytest.mark.parametrize("command, said", [
    ("exit 3", "the load failed (exit status 3)"),
    ("kill -9 $$", "the load failed (signal 9)"),
    ("echo no figure", "the load's last line has no number, which would be its figure"),
    ("true", "the load's last line has no number, which would be its figure"),
    ("echo 0", "the load's figure is 0: it has to be above 0, and finite"),
    ("echo '-12 a second'", "the load's figure is -12: it has to be above 0, and finite"),
    ("echo 1e999", "the load's figure is inf: it has to be above 0, and finite"),
])
def test_a_load_without_a_figure_is_told_and_nothing_is_left(machine, command, said):
    done = on(machine, "--measure", "--load", command, "mem.swap", status=1)
    assert done.stderr == f"pollux: {said}\n"
    assert machine.read(SWAPPINESS) == "60" and not (machine.root / JOURNAL).exists()


@contextmanager
def measuring(machine, tmp_path):
    """One whose load, with the change made, does not end by itself."""
    there = tmp_path / "there"
    command = f"[ $(cat '{machine.root}/{SWAPPINESS}') = 60 ] && echo 1 || {{ touch {there}; sleep 600; }}"
    words = [binary(), "tune", "--root", machine.root, "--measure", "--load", command, "mem.swap"]
    with subprocess.Popen(words, start_new_session=True, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL) as process:
        try:
            assert wait_until(there.exists)
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def test_interrupted_it_takes_back_what_is_made(machine, tmp_path):
    with measuring(machine, tmp_path) as process:
        assert machine.read(SWAPPINESS) == "10"
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(LIMIT) == 1
    assert machine.read(SWAPPINESS) == "60" and not (machine.root / JOURNAL).exists()


@pytest.mark.parametrize("ends", [signal.SIGTERM, signal.SIGHUP])
def test_told_to_end_it_takes_back_what_is_made(machine, tmp_path, ends):
    """As when the terminal goes."""
    with measuring(machine, tmp_path) as process:
        os.killpg(process.pid, ends)
        assert process.wait(LIMIT) == 1
    assert machine.read(SWAPPINESS) == "60" and not (machine.root / JOURNAL).exists()


def test_a_long_load_is_run_whole(machine):
    command = f"{':;' * 10000} echo 5"
    assert measured(machine, command)["measured"]["with"] == [5] * 3


def test_killed_while_it_measures_the_next_one_takes_it_back(machine, tmp_path):
    with measuring(machine, tmp_path):
        pass
    assert machine.read(SWAPPINESS) == "10"
    on(machine, "--undo")
    assert machine.read(SWAPPINESS) == "60"


# ---- asked wrongly

@pytest.mark.parametrize("words, said", [
    (("--apply", "--undo"), "--apply, --undo and --measure: one at a time"),
    (("--forget",), "--forget is for --undo"),
    (("--dry-run",), "--dry-run is for --apply and --undo"),
    (("--undo", "mem"), '--undo takes back all changes: "mem" is a word too many'),
    (("--load", "x"), "--load is for --measure"),
    (("--target", "x"), "--target is for --measure"),
    (("--measure",), "--measure takes a load: --load COMMAND, or --target DISK for pollux perf"),
    (("--measure", "--load", "x", "--target", "y"),
     "--measure takes a load: --load COMMAND, or --target DISK for pollux perf"),
    (("--measure", "--load", "x", "--rounds", "1"), "--rounds 1: takes a number from 2 to 100"),
    (("me",), 'there is no check "me"; "pollux tune --list" names them'),
    (("-m", "x"), "--cores x: "),
    (("-m", "0,1024"), "--cores 0,1024: cores are numbered below 1024"),
    (("--root", "/none"), "--root /none: No such file or directory"),
    (("--what",), 'there is no option --what; "pollux help tune" lists them all'),
])
def test_what_is_wrong_is_said_in_a_line(words, said):
    done = run(*words, status=2)
    assert done.stderr.startswith(f"pollux: {said}") and done.stderr.count("\n") == 1


def test_a_second_one_has_to_wait(machine, tmp_path):
    with measuring(machine, tmp_path):
        done = on(machine, "--apply", status=1)
    assert done.stderr == "pollux: another pollux tune is changing settings\n"


def test_without_libhwloc_what_needs_it_is_unknown(machine):
    """By an empty folder in the place of the library's: the loader looks there first."""
    hidden = machine.root / "lib"
    hidden.mkdir()
    (hidden / "libhwloc.so.15").write_bytes(b"none")
    out = on(machine, "-m", "0,1", "--json", "core.smt", env={**os.environ, "LD_LIBRARY_PATH": str(hidden)}).stdout
    finding, = json.loads(out)["findings"]
    assert finding["state"] == "unknown" and "libhwloc.so.15" in finding["found"]
