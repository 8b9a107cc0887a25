# SPDX-License-Identifier: BSD-3-Clause
"""`pollux compare --network namespaces`: both ends apart, on one machine, and nothing of it left."""
import contextlib
import json
import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from target import binary, wait_until
from test_compare import LIMIT, NOBODY, OURS, SHORT, alive, begin, children, program, run  # noqa: F401
from test_compare_two import GREETING, ask
from test_placement import ip, make_wire, sockets_of  # noqa: F401

APART = ("--network", "namespaces")


def may_make(*how):
    return subprocess.run(["unshare", *how, "true"], capture_output=True, check=False).returncode == 0


@pytest.fixture(autouse=True)
def right():
    if not may_make("-n" if os.geteuid() == 0 else "-Un"):
        pytest.skip("network namespaces cannot be made here")


def visible():
    """What of networks others could see."""
    named = Path("/run/netns")
    return sorted(socket.if_nameindex()), sorted(named.iterdir()) if named.exists() else []


def namespace(pid):
    return os.readlink(f"/proc/{pid}/ns/net")


def test_what_is_between_is_told(tmp_path):
    before = visible()
    run(*SHORT, *OURS, "--network", "namespaces:9000", "--json", tmp_path / "a.json", "--html", tmp_path / "a.html")
    doc = json.loads((tmp_path / "a.json").read_text())
    cell, = doc["cells"]
    assert cell["status"] == "measured" and len(cell["rounds"]) == 6
    assert (doc["settings"]["network"], doc["settings"]["mtu"]) == ("namespaces", 9000)
    assert "Over virtual NICs (MTU 9000) between two network namespaces" in (tmp_path / "a.html").read_text()
    assert visible() == before


@pytest.mark.parametrize("words", [(), ("--network", "loopback")])
def test_without_it_is_the_loopback_whose_mtu_is_told(words):
    settings = json.loads(run(*SHORT, *OURS, *words, "--json", "-").stdout)["settings"]
    assert (settings["network"], settings["mtu"]) == ("loopback", int(Path("/sys/class/net/lo/mtu").read_text()))


@pytest.fixture
def apart():
    """A run, its target and load, and their namespaces, which they enter after they have begun."""
    process, _ = begin(*APART)
    found = {}

    def entered():
        found.clear()
        try:
            found.update((pid, namespace(pid)) for pid in children(process.pid))
        except OSError:  # a round's end
            return False
        return len({*found.values(), namespace("self")}) == 3

    try:
        assert wait_until(entered), found
        yield process, list(found), set(found.values())
    finally:
        process.kill()
        process.communicate(timeout=LIMIT)


def test_target_and_host_are_in_namespaces_of_their_own(apart):
    process, _, _ = apart

    def both_have_theirs():
        try:  # those of this round
            tables = [Path(f"/proc/{pid}/net/fib_trie").read_text() for pid in children(process.pid)]
        except OSError:
            return False
        return {"192.0.2.1", "192.0.2.2"} <= {line.split()[1] for table in tables for line in table.splitlines()
                                              if "|--" in line}

    assert namespace(process.pid) == namespace("self")
    assert wait_until(both_have_theirs)


def living():
    """The namespaces that somebody is in."""
    found = set()
    for each in Path("/proc").glob("[0-9]*/ns/net"):
        with contextlib.suppress(OSError):
            found.add(os.readlink(each))
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_however_it_ends_nothing_is_left(apart, number):
    process, begun, spaces = apart
    before = visible()
    process.send_signal(number)
    process.communicate(timeout=LIMIT)
    assert wait_until(lambda: not any(map(alive, begun)))
    assert visible() == before
    assert wait_until(lambda: not living() & spaces)


def test_who_is_not_root_makes_them_where_the_kernel_lets_him(program):  # noqa: F811
    who = {"user": NOBODY, "group": NOBODY} if os.geteuid() == 0 else {}
    if subprocess.run(["unshare", "-Un", "true"], capture_output=True, check=False, **who).returncode:
        pytest.skip("users may make no namespaces here")
    done = run(*SHORT, *OURS, *APART, program=program, cwd="/tmp", **who)
    assert "failed" not in done.stdout and "not measured" not in done.stdout


def test_without_the_right_it_says_so():
    if os.geteuid() == 0:
        without, words = ["setpriv", "--bounding-set", "-sys_admin", "--"], "no namespace can be made, which takes CAP"
    else:
        without, words = ["unshare", "-U", "--"], "it takes root, or a kernel that lets users have namespaces"
    done = subprocess.run([*without, binary(), "compare", *SHORT, *OURS, *APART], capture_output=True, text=True,
                          timeout=LIMIT, check=False)
    if os.geteuid() and not done.returncode:
        pytest.skip("the kernel lets them here")
    assert done.returncode == 1 and not done.stdout
    assert done.stderr.startswith(f"pollux: --network namespaces: {words}") and done.stderr.count("\n") == 1


def test_where_there_may_be_no_more_of_them_it_says_so():
    if not may_make("-Ur"):
        pytest.skip("no namespace of users can be made here")
    script = 'echo 0 >/proc/sys/user/max_net_namespaces && exec "$@"'
    done = subprocess.run(["unshare", "-Ur", "sh", "-c", script, "sh", binary(), "compare", *SHORT, *OURS, *APART],
                          capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 1 and not done.stdout
    assert "--network namespaces: no namespace can be made" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("words, complaint", [
    (["--network", "wires"], "--network wires: takes loopback, namespaces or namespaces:MTU"),
    (["--network", "namespacesx"], "--network namespacesx: takes loopback, namespaces or namespaces:MTU"),
    (["--network", "namespaces:"], "--network namespaces :"),
    (["--network", "namespaces:575"], "--network namespaces 575: takes an MTU from 576 to 65535"),
    (["--network", "namespaces:65536"], "--network namespaces 65536: takes an MTU from 576 to 65535"),
    (["host", "127.0.0.1", "--key", "x", *APART], "--network is for one machine: two have one between them"),
    (["target", "-l", "127.0.0.1", *APART], "--network is for one machine: two have one between them"),
])
def test_what_is_wrong_is_said_in_a_sentence(words, complaint):
    done = run(*words, status=2)
    assert done.stderr.startswith(f"pollux: {complaint}") and done.stderr.count("\n") == 1, done.stderr


def test_a_host_whose_network_fails_is_gone(wire, tmp_path):  # noqa: F811
    """No word of it comes: its machine lost its power."""
    server, client = wire
    with open(tmp_path / "agent", "wb") as file:
        process = subprocess.Popen(["ip", "netns", "exec", server, binary(), "compare", "target", "-l", "10.99.0.1:0",
                                    "--disk", "null"], stdout=file, stderr=file)
    try:
        assert wait_until(lambda: GREETING.search((tmp_path / "agent").read_text()))
        address, _, key = GREETING.search((tmp_path / "agent").read_text()).groups()
        with sockets_of(client):
            host = socket.create_connection(("10.99.0.1", int(address.rpartition(":")[2])), LIMIT)
        with host, host.makefile("rwb") as stream:
            assert ask(stream, id=1, key=key) == {"id": 1}
            ip("-n", client, "link", "set", "v1", "down")
            assert wait_until(lambda: "is gone; waiting for another" in (tmp_path / "agent").read_text(), LIMIT)
    finally:
        ip("-n", client, "link", "set", "v1", "up")
        process.kill()
        process.wait()
