# SPDX-License-Identifier: BSD-3-Clause
"""Clients of the control socket that mean no good, or are not well: the server stays, hosts notice nothing."""
import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack

import pytest

from host import Bystander
from rpc import (INVALID_REQUEST, METHOD_NOT_FOUND, PARSE_ERROR, Client, Closed, Server, prepare, refused_start,
                 request)
from target import sanitized, wait_until

NQN = "nqn.2001-01.example:hostile"
MIB = 1 << 20
REQUEST_BYTES, DEPTH, CLIENTS, BATCH_BYTES = MIB, 64, 256, 32 * MIB  # the server's limits (docs/control.md)
VERSION = request("spdk_get_version", id=1)
NULL_DISK = {"num_blocks": 8, "block_size": 512}


@pytest.fixture(scope="module")
def server():
    with Server() as running:
        with running.client() as client:
            running.where = prepare(client, NQN)
        yield running


@pytest.fixture(scope="module")
def bystander(server):
    """A host that does verified I/O through all tests of this module."""
    running = Bystander(server.where, NQN)
    yield running
    running.close()


@pytest.fixture(autouse=True)
def undisturbed(server, bystander):
    """Whatever a test does: the host noticed nothing, the server answers, and its configuration is as it was."""
    with server.client() as client:
        before = client.dump()
    yield
    bystander.check()
    server.check_alive()
    with server.client() as client:
        assert client.dump() == before


@pytest.fixture
def client(server):
    with server.client() as connected:
        yield connected


def small(count):
    """Fewer where a sanitizer makes everything slow."""
    return count // 4 if sanitized() else count


def grown(server, before):
    """MiB that the server has more than before; 0 where a sanitizer has shadows of it."""
    return 0 if sanitized() else (server.rss() - before) / MIB


def connections(server):
    """Connections to the control socket that the server has yet, as the kernel lists them."""
    with open("/proc/net/unix", encoding="utf-8", errors="replace") as sockets:
        return sum(line.rstrip().endswith(f" 03 {line.split()[6]} {server.path}") for line in sockets if line[0] != "N")


# ---- JSON

CALL = '{"jsonrpc": "2.0", "id": "\\u00e4\\\\\\"}", "method": "bdev_get_bdevs", "params": {"name": "no{[\u00e4]}"}}'
BATCH = f"[{CALL}, {VERSION}]"


@pytest.mark.parametrize("raw", [CALL, BATCH], ids=["call", "batch"])
def test_cut_at_every_byte_it_is_not_answered(server, raw):
    data = raw.encode()
    for end in range(len(data)):
        with server.client() as client:
            client.send_raw(data[:end])
            client.half_close()
            assert client.at_end(), data[:end]


@pytest.mark.parametrize("raw", [CALL, BATCH], ids=["call", "batch"])
def test_in_two_pieces_it_is_answered(server, client, raw):
    """Cut at every byte; another client's call in between sees to it that the first piece has been looked at."""
    data, whole = raw.encode(), client.exchange(raw)
    with server.client() as other:
        for at in range(1, len(data)):
            client.send_raw(data[:at])
            assert other.call("log_get_level")
            assert client.exchange(data[at:]) == whole, at


def test_byte_by_byte_while_others_are_served(server, client):
    with server.client() as other:
        for byte in CALL.encode():
            client.send_raw(bytes([byte]))
            assert other.call("log_get_level")
        assert client.receive()["error"]["code"] == -19


@pytest.mark.parametrize("opening, closing", [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
def test_nested_10000_deep(server, opening, closing):
    for raw in (opening * 10000 + closing * 10000, opening * 10000,
                '{"method": "bdev_get_bdevs", "params": {"name": ' + opening * 10000):
        with server.client() as client:
            try:
                client.send_raw(raw)
            except OSError:
                pass  # it has closed before all was said
            got = client.receive()
            assert got["id"] is None and got["error"]["code"] == PARSE_ERROR and str(DEPTH) in got["error"]["message"]
            assert client.at_end()


def test_nested_as_deep_as_may_be(client):
    inside = "[" * (DEPTH - 2) + "]" * (DEPTH - 2)
    got = client.exchange('{"id": 1, "method": "bdev_get_bdevs", "params": {"name": ' + inside + "}}")
    assert got["id"] == 1 and "an array" in got["error"]["message"]


@pytest.mark.parametrize("text", [b"\\u0000", b"a\\u0000b", b"\0", b"\\ud800", b"\\udc00", b"\\ud800\\ud800", b"\xff",
                                  b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe4", b"\n", b"\t", b"\x01",
                                  b"\\x", b"\\u12", b"\\ud83d\\u0041"])
@pytest.mark.parametrize("where", ["id", "method", "params", "name"])
def test_texts_that_are_none(client, text, where):
    raw = {"id": b'{"id": "%s", "method": "spdk_get_version"}', "method": b'{"id": 1, "method": "%s"}',
           "params": b'{"id": 1, "method": "bdev_get_bdevs", "params": {"name": "%s"}}',
           "name": b'{"id": 1, "method": "bdev_get_bdevs", "params": {"%s": 1}}'}[where] % text
    got = client.exchange(raw)
    assert got["id"] is None and got["error"]["code"] == PARSE_ERROR, got
    assert client.call("spdk_get_version")


@pytest.mark.parametrize("more, code", [(0, METHOD_NOT_FOUND), (1, INVALID_REQUEST)])
def test_the_longest_request(server, more, code):
    with server.client() as client:
        raw = '{"id": 1, "method": "' + "x" * (REQUEST_BYTES - 23 + more) + '"}'
        assert len(raw) == REQUEST_BYTES + more
        got = client.exchange(raw)
        assert got["error"]["code"] == code and len(got["error"]["message"]) < 500
        if more:
            assert str(REQUEST_BYTES) in got["error"]["message"] and client.at_end()


@pytest.mark.parametrize("start", ['{"id": 1, "method": "', "[", '{"id": 1, "params": {', '{"id": 1, "method": ['])
def test_a_stream_without_an_end(server, start):
    """A GiB in one value is refused after its first MiB, and takes no memory."""
    before = server.rss()
    with server.client() as client:
        client.send_raw(start)
        piece, sent = b'"x",' * (1 << 16), 0
        try:
            while sent < 1 << 30:
                client.send_raw(piece)
                sent += len(piece)
        except OSError:
            pass
        assert sent < 16 * MIB
        got = client.receive()
        assert got["error"]["code"] in (INVALID_REQUEST, PARSE_ERROR)
        assert client.at_end()
    assert grown(server, before) < 16


def test_garbage(server):
    """Bytes by chance, and requests that were changed by chance: answers are JSON, the server stays."""
    chance = random.Random(42)
    for turn in range(small(600)):
        data = bytearray((BATCH if turn % 2 else CALL).encode())
        if turn % 3 == 0:
            data = bytearray(b"{") + bytearray(chance.randrange(256) for _ in range(chance.randrange(200)))
        for _ in range(chance.randrange(1, 6)):
            where = chance.randrange(len(data))
            data[where:where + chance.randrange(3)] = bytes(chance.randrange(256) for _ in range(chance.randrange(3)))
            data = data or bytearray(b"{")
        with server.client() as client:
            client.send_raw(bytes(data))
            client.half_close()
            with pytest.raises((Closed, ConnectionResetError)):
                while True:
                    for answer in [client.receive()]:
                        assert isinstance(answer, (dict, list))


# ---- who does not read

def test_answers_that_nobody_reads_take_bounded_memory(server, bystander):
    """Nothing of a client is begun while a MiB of its answers waits to be read."""
    before = server.rss()
    with ExitStack() as stack:
        clients = [stack.enter_context(server.client()) for _ in range(8)]
        for each in clients:
            each.socket.settimeout(0.3)
            with pytest.raises(TimeoutError):  # the server takes no more, as it cannot answer
                each.send_raw(request("pollux_describe_methods", id=1) * 100000)
        bystander.check()
        with server.client() as other:
            for _ in range(200):  # each of them has had as many turns by then
                assert other.call("log_get_level")
        assert grown(server, before) < 8 * 3.5 + 16
        clients[0].socket.settimeout(60)
        for _ in range(50):  # who reads after all gets on
            assert clients[0].receive()["id"] == 1


def test_a_batch_whose_answer_nobody_reads_takes_bounded_memory(server, bystander):
    """An answer of 30 MiB, and one that would be longer: results beyond the limit are left out."""
    with server.client() as client:
        one = len(json.dumps(client.answer("pollux_describe_methods")))
    before = server.rss()
    with ExitStack() as stack:
        clients = [stack.enter_context(server.client()) for _ in range(2)]
        counts = [30 * MIB // one, 36 * MIB // one]
        for each, count in zip(clients, counts):
            calls = ",".join(request("pollux_describe_methods", id=i) for i in range(count))
            each.send_raw(f"[{calls}]")
        with server.client() as other:
            assert other.call("spdk_get_version")
        bystander.check()
        for each, count in zip(clients, counts):
            answers = each.receive()
            assert sorted(a["id"] for a in answers) == list(range(count))
            late = [a for a in answers if "error" in a]
            assert bool(late) == (count == counts[1])
            assert all("too long" in a["error"]["message"] for a in late)
            assert sum(len(json.dumps(a)) for a in answers) < 1.2 * BATCH_BYTES
        assert grown(server, before) < 2 * 2 * 33 + 32
    assert wait_until(lambda: not connections(server))


def test_who_reads_slowly_gets_all(server):
    with server.client(receive_buffer=4096) as client:
        count = small(400)
        sender = threading.Thread(target=client.send_raw, daemon=True, args=("".join(
            request("rpc_get_methods", id=i) for i in range(count)),))
        sender.start()
        assert sorted(client.receive()["id"] for _ in range(count)) == list(range(count))
        sender.join()


# ---- who closes half, or goes

def test_who_says_no_more_gets_its_answers(server):
    """Also those to what was not received yet when it said so."""
    count, blanks = small(20000), " " * 600
    requests = blanks.join(request("bdev_null_create", NULL_DISK | {"name": f"half{i}"}, id=i) if i % 100 == 0 else
                           request("bdev_null_delete", {"name": f"half{i - 1}"}, id=i) if i % 100 == 1 else
                           request("spdk_get_version", id=i) for i in range(count))
    assert len(requests) > 3 * REQUEST_BYTES

    with server.client() as client:
        def speak():
            client.send_raw(requests)
            client.half_close()
        speaker = threading.Thread(target=speak, daemon=True)
        speaker.start()
        answers = [client.receive() for _ in range(count)]
        speaker.join()
        assert [a["id"] for a in answers] == list(range(count)) and all("result" in a for a in answers)
        assert client.at_end()


@pytest.mark.parametrize("raw, answers", [("", 0), (VERSION, 1), (BATCH, 1), (request("spdk_get_version"), 0),
                                          (f"[{request('spdk_get_version')}]", 0), (VERSION + "{", 1),
                                          (VERSION + "garbage", 2), (VERSION * 3 + BATCH, 4)])
def test_who_says_no_more_is_disconnected(server, raw, answers):
    with server.client() as client:
        client.send_raw(raw)
        client.half_close()
        for _ in range(answers):
            client.receive()
        assert client.at_end()


def test_who_listens_no_more_is_let_go(server):
    """It may speak yet, but nothing that it says can be answered."""
    for raw in (VERSION, VERSION * 1000, BATCH):
        with server.client() as client:
            client.socket.shutdown(socket.SHUT_RD)
            try:
                client.send_raw(raw)
            except OSError:
                pass
            client.socket.settimeout(20)
            with pytest.raises(OSError):
                while True:
                    client.send_raw(VERSION)


def slow_calls(number, folder):
    """Calls that take a while: a file is opened by a worker thread, hosts are told, a name is waited for."""
    disk = f"gone{number}"
    return [request("bdev_get_bdevs", {"name": "nothing", "timeout": 100}, id=0),
            request("bdev_aio_create", {"name": disk, "filename": str(folder / "disk.img")}, id=1),
            request("nvmf_subsystem_add_ns", {"nqn": NQN, "namespace": {"bdev_name": disk}}, id=2),
            request("bdev_get_bdevs", {"name": "nothing", "timeout": 100}, id=3),
            request("bdev_aio_delete", {"name": disk}, id=4),
            request("nvmf_subsystem_allow_any_host", {"nqn": NQN, "allow_any_host": True}, id=5)]


@pytest.mark.parametrize("way", ["one by one", "in a batch", "with unread answers"])
def test_who_goes_in_mid_call_leaves_nothing_behind(server, bystander, way):
    chance = random.Random(7)
    with open(server.folder / "disk.img", "wb") as disk:
        disk.truncate(8 * MIB)
    for number in range(small(120)):
        calls = slow_calls(number % 3, server.folder)
        if way == "with unread answers":
            calls += [request("pollux_describe_methods", id=9)] * 30
        with server.client() as client:
            client.send_raw(f"[{','.join(calls)}]" if way == "in a batch" else "".join(calls))
            for _ in range(chance.randrange(4) if way == "one by one" else 0):
                client.receive()
    assert wait_until(lambda: not connections(server), 60)  # then nothing of theirs is begun any more,
    with server.client() as client:
        client.dump()  # and this stands in line behind what was
        for each in client.call("bdev_get_bdevs"):
            if each["name"].startswith("gone"):
                client.call("bdev_aio_delete", name=each["name"])
    bystander.check()


# ---- many

def connect_raw(path):
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(path))
    client.settimeout(60)
    return client


def test_ten_thousand_connections(server, bystander):
    """There is a limit; who comes when it is reached gets the place of whoever was idle for longest."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(10000, hard - 500)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count + 500), hard))
    before = server.rss()
    opened = []
    try:
        for _ in range(count):
            opened.append(connect_raw(server.path))
        assert server.descriptors() < CLIENTS + 60
        with server.client() as client:
            assert client.call("spdk_get_version")
        assert grown(server, before) < 32
        assert opened[0].recv(1) == b""
        with server.client() as client:
            opened[-1].sendall(VERSION.encode())
            assert json.loads(opened[-1].recv(4096))["id"] == 1
        assert wait_until(lambda: "the one that was idle for longest is disconnected" in server.stderr)
        bystander.check()
    finally:
        for each in opened:
            each.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert wait_until(lambda: not connections(server))


def test_when_all_are_busy_a_newcomer_is_told_the_limit():
    with Server(options=["--wait-for-rpc"]) as server, ExitStack() as stack:
        busy = [stack.enter_context(server.client()) for _ in range(CLIENTS)]
        for each in busy:
            each.send("framework_wait_init")
        for each in busy:
            each.send("log_get_level", id="now")
            assert each.receive()["id"] == "now"
        with server.client() as late:
            got = late.receive()
            assert got["error"]["code"] == -16 and str(CLIENTS) in got["error"]["message"]
            assert late.at_end()
        busy[0].send("framework_start_init", id="start")
        for each in busy[1:]:
            assert each.receive()["result"] is True
        assert {busy[0].receive()["id"], busy[0].receive()["id"]} == {1, "start"}
        with server.client() as late:
            assert late.call("spdk_get_version")


AS_NOBODY = """
import os, socket, sys
os.setgid(65534); os.setuid(65534)
s = socket.socket(socket.AF_UNIX); s.settimeout(60); s.connect(sys.argv[1])
if len(sys.argv) > 2: s.sendall(sys.argv[2].encode())
sys.stdout.write(s.recv(65536).decode())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_others_never_get_the_place_of_an_operator():
    with Server() as server, ExitStack() as stack:
        server.folder.chmod(0o755)
        run = [sys.executable, "-c", AS_NOBODY, str(server.path)]
        refused = subprocess.run([*run, VERSION], capture_output=True, text=True, check=False)
        assert "PermissionError" in refused.stderr  # the socket is its owner's
        server.path.chmod(0o666)
        assert json.loads(subprocess.run([*run, VERSION], capture_output=True, text=True, check=True).stdout)["result"]
        idle = [stack.enter_context(server.client()) for _ in range(CLIENTS)]
        idle[-1].call("spdk_get_version")
        told = json.loads(subprocess.run(run, capture_output=True, text=True, check=True).stdout)
        assert told["error"]["code"] == -16 and str(CLIENTS) in told["error"]["message"]
        for each in idle[:3] + idle[-3:]:
            assert each.call("spdk_get_version")
        with server.client() as operator:
            assert operator.call("spdk_get_version")


def expected_answers(name, rounds):
    """A pipeline of one client: requests, and what is to be seen in the answer to each."""
    requests, expected = [], {}
    for i in range(rounds):
        disk, base = f"{name}-{i}", 4 * i
        requests += [request("bdev_null_create", NULL_DISK | {"name": disk}, id=base),
                     request("bdev_get_bdevs", {"name": disk}, id=base + 1),
                     request("bdev_null_delete", {"name": disk}, id=base + 2),
                     request("bdev_get_bdevs", {"name": disk}, id=base + 3)]
        expected |= {base: lambda a, disk=disk: a["result"] == disk,
                     base + 1: lambda a, disk=disk: a["result"][0]["name"] == disk,
                     base + 2: lambda a: a["result"] is True, base + 3: lambda a: a["error"]["code"] == -19}
    return requests, expected


@pytest.mark.parametrize("state", [False, True], ids=["", "with a state file"])
def test_64_clients_with_1024_calls_each_get_all_answers(server, bystander, state):
    """Each client's calls are made in its order; answers may overtake each other."""
    problems = []

    def run(path, number, rounds):
        try:
            requests, expected = expected_answers(f"pipe{number}", rounds)
            with Client(path) as client:
                client.send_raw("".join(requests))
                for _ in range(len(expected)):
                    answer = client.receive()
                    assert expected.pop(answer["id"])(answer), answer
                assert not expected
        except BaseException as error:  # pylint: disable=broad-except
            problems.append(repr(error)[:500])

    def run_all(path, rounds):
        threads = [threading.Thread(target=run, args=(path, n, rounds), daemon=True) for n in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(300)
        assert not problems and not any(thread.is_alive() for thread in threads)

    if not state:
        run_all(server.path, 256)
        bystander.check()
        return
    with Server() as keeper:
        keeper.stop()
        keeper.options += ["--state", str(keeper.folder / "state")]
        keeper.start()
        run_all(keeper.path, 8 if sanitized() else 32)
        with keeper.client() as client:
            assert json.loads((keeper.folder / "state").read_text()) == client.dump()


def test_calls_that_wait_go_with_their_client():
    """One by one, and in a batch."""
    many = [request("framework_wait_init", id=i) for i in range(450)]
    with Server(options=["--wait-for-rpc"]) as server, server.client() as stays:
        stays.send("framework_wait_init", id="waits")
        before = server.rss()
        for i in range(small(100)):
            last = request("log_clear_flag" if i % 2 else "log_set_flag", {"flag": "rpc"}, id="last")
            with server.client() as gone:
                gone.send_raw("".join([*many, "[", ",".join([*many, last]), "]"]))
                assert wait_until(lambda i=i: stays.call("log_get_flags")["rpc"] == (i % 2 == 0))
        assert wait_until(lambda: connections(server) == 1)
        assert grown(server, before) < 16
        stays.send("framework_start_init", id="starts")
        assert {stays.receive()["id"], stays.receive()["id"]} == {"waits", "starts"}
        assert stays.call("bdev_get_bdevs") == []


def test_who_sends_much_keeps_nobody_waiting(server):
    """While one client has thousands of calls waiting, another one's are answered in turn."""
    count, served = small(40000), 0
    with server.client() as greedy, server.client() as modest:
        over = threading.Event()

        def speak():
            greedy.send_raw("".join(request("log_get_level", id=i) for i in range(count)))

        def read():
            for _ in range(count):
                greedy.receive()
            over.set()
        threads = [threading.Thread(target=target, daemon=True) for target in (speak, read)]
        for thread in threads:
            thread.start()
        while not over.is_set():
            modest.call("log_get_level")
            served += 1
        for thread in threads:
            thread.join()
    assert served > 10


def test_batches_of_all_sizes(server, client):
    for raw in ("[[]]", "[[[[]]]]", f"[[{VERSION}]]", "[null]", "[1, 2]"):
        answers = client.exchange(raw)
        assert all(a["error"]["code"] == INVALID_REQUEST and a["id"] is None for a in answers), answers
    count = (REQUEST_BYTES - 2) // (len(VERSION) + 1)
    assert len(client.exchange("[" + ",".join([VERSION] * count) + "]")) == count
    note = request("log_get_level")
    client.send_raw("[" + ",".join([note] * ((REQUEST_BYTES - 2) // (len(note) + 1))) + "]")
    assert client.call("log_get_level")
    before = server.rss()
    answers = client.exchange("[" + ",".join(["{}"] * small(100000)) + "]")
    assert len(answers) == small(100000)
    assert grown(server, before) < 128


def test_batches_and_calls_of_one_client_are_made_in_order(client):
    """Each batch makes a disk that the call behind it deletes."""
    raw = "".join(f'[{request("bdev_null_create", NULL_DISK | {"name": "turn"}, id=0)}, {VERSION}]'
                  + request("bdev_null_delete", {"name": "turn"}, id=2) for _ in range(50))
    client.send_raw(raw)
    for _ in range(50):
        first, second = client.receive(), client.receive()
        assert len(first) == 2 and all("result" in a for a in first) and second["result"] is True


# ---- sockets, locks and signals

def test_a_second_server_on_the_socket_refuses_to_start(server):
    status, said = refused_start("-r", server.path)
    assert status == 2 and "another process" in said and str(server.path) in said and len(said.splitlines()) == 1
    with server.client() as client:
        assert client.call("spdk_get_version")
    assert (server.folder / "control.lock").exists()


def test_what_a_killed_one_left_behind_is_replaced():
    with Server() as first:
        for _ in range(3):
            first.kill()
            assert first.path.is_socket() and (first.folder / "control.lock").exists()
            with pytest.raises(ConnectionRefusedError), connect_raw(first.path):
                pass
            first.start()
            with first.client() as client:
                assert client.call("spdk_get_version")


def test_a_path_that_is_no_socket_is_let_be(tmp_path):
    plain = tmp_path / "x"
    plain.write_text("precious")
    status, said = refused_start("-r", plain)
    assert status == 2 and "no socket" in said and plain.read_text() == "precious"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("path, word", [("x" * 108, "107"), ("", "107"), ("/nowhere/at/all", "No such file"),
                                        ("/proc/1/nothing", "")], ids=["long", "empty", "no folder", "not there"])
def test_a_path_that_cannot_be_one_is_refused(path, word):
    status, said = refused_start("-r", path)
    assert status in (1, 2) and word in said and len(said.splitlines()) == 1, said


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "s.lock").symlink_to(tmp_path / "elsewhere")
    status, said = refused_start("-r", tmp_path / "s")
    assert status in (1, 2) and "s.lock" in said and not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_end_in_mid_call_it_ends_well(sign):
    """With calls that wait, changes that are written, answers that nobody reads, and a host."""
    with Server() as server:
        server.stop()
        server.options += ["--state", str(server.folder / "state")]
        server.start()
        with open(server.folder / "disk.img", "wb") as disk:
            disk.truncate(8 * MIB)
        with ExitStack() as stack:
            client = stack.enter_context(server.client())
            prepare(client, NQN)
            for _ in range(4):
                waits = stack.enter_context(server.client())
                waits.send("bdev_get_bdevs", {"name": "nothing", "timeout": 3600000})
                waits.send_raw("[" + request("bdev_get_bdevs", {"name": "nothing", "timeout": 3600000}, id=1) + "]")
            unread = stack.enter_context(server.client())
            unread.send_raw(request("pollux_describe_methods", id=1) * 40)
            changes = stack.enter_context(server.client())
            for i in range(200):
                changes.send("bdev_null_create", NULL_DISK | {"name": f"kept{i}"})
            answered = [changes.receive()["result"] for _ in range(20)]
            stack.enter_context(server.client()).send_raw("".join(slow_calls(1, server.folder)))
            server.stop(sign)
            try:
                while True:
                    answered.append(changes.receive()["result"])
            except (Closed, ConnectionResetError):
                pass
        kept = json.loads((server.folder / "state").read_text())
        names = {call["params"]["name"] for group in kept["subsystems"] for call in group["config"]
                 if call["method"] == "bdev_null_create"}
        assert set(answered) <= names
        server.start()


def test_asked_to_end_while_it_loads_it_does_not_go_on(tmp_path):
    """In between it logs nothing, as standard error would not take that much."""
    def make(name):
        return {"method": "bdev_null_create", "params": NULL_DISK | {"name": name}}

    def level(name):
        return {"method": "log_set_print_level", "params": {"level": name}}
    many = [make(f"n{i}") for i in range(small(60_000))]  # which would take seconds
    calls = [level("DEBUG"), make("first"), level("ERROR"), *many, level("DEBUG"), make("last")]
    (tmp_path / "c").write_text(json.dumps({"subsystems": [{"subsystem": "bdev", "config": calls}]}))
    with Server() as server:
        server.stop()
        process = subprocess.Popen([*server.command(), "-c", tmp_path / "c"], stderr=subprocess.PIPE, text=True)
        assert "first" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=120)[1]
        assert process.returncode == 0 and said == ""
        server.start()
