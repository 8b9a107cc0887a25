# SPDX-License-Identifier: BSD-3-Clause
"""`pollux ctl`: methods by name, verbs, what it says when something is wrong."""

import json
import os
import pathlib
import random
import socket
import stat
import subprocess

import pytest

import sqe
from ctl import Pretender, Server, ctl, results
from disks import MIB
from host import Controller, new_hostnqn
from target import SANITIZER, binary, wait_until

NQN = "nqn.2026-01.org.example:disk"
OTHER = "nqn.2026-01.org.example:other"
DISCOVERY = {"nqn": "nqn.2014-08.org.nvmexpress.discovery", "subtype": "Discovery"}


def make_file(path, size=64 * MIB):
    with open(path, "wb") as file:
        file.truncate(size)
    return path


@pytest.fixture
def server(tmp_path):
    """An empty one, in a folder with disk.img of 64 MiB."""
    make_file(tmp_path / "disk.img")
    with Server(tmp_path) as running:
        yield running


@pytest.fixture
def serving(server):
    """One that serves disk.img to every host; .address is where."""
    line = server.ctl("create", NQN, "--listen", "127.0.0.1:0").out.split()
    server.address = (line[line.index("-a") + 1], int(line[line.index("-s") + 1]))
    server.ctl("add", "disk.img")
    server.ctl("allow", "any")
    return server


def connect(server, **options):
    return Controller(server.address, NQN, **options)


def subsystem(server, nqn=NQN):
    return server.call("nvmf_get_subsystems", f"nqn={nqn}")[0]


# -- methods ----------------------------------------------------------------------------------------------------------


def sent(tmp_path, *words, answer=True):
    """The parameters that a call is made with."""
    with Pretender(tmp_path / "s", lambda request: results({request["method"]: answer})(request)) as pretender:
        result = ctl("-s", pretender.path, *words)
        assert [request["method"] for request in pretender.requests] == [words[0]]
        return pretender.requests[0].get("params"), result


@pytest.mark.parametrize("words, params", [
    (["bdev_malloc_create", "num_blocks=4096", "block_size=512", "numa_id=-1"],
     {"num_blocks": 4096, "block_size": 512, "numa_id": -1}),
    (["nvmf_subsystem_allow_any_host", "nqn=x", "allow_any_host=true"], {"nqn": "x", "allow_any_host": True}),
    (["nvmf_subsystem_allow_any_host", "nqn=x", "allow_any_host=no"], {"nqn": "x", "allow_any_host": False}),
    (["bdev_get_bdevs", "name=7"], {"name": "7"}),
    (["bdev_get_bdevs", "name=a=b,c"], {"name": "a=b,c"}),
    (["bdev_get_bdevs"], {}),
    (["nvmf_subsystem_add_ns", "nqn=x", "namespace.bdev_name=d", "namespace.nsid=3"],
     {"nqn": "x", "namespace": {"bdev_name": "d", "nsid": 3}}),
    (["nvmf_subsystem_add_ns", "nqn=x", 'namespace={"bdev_name": "d"}'],
     {"nqn": "x", "namespace": {"bdev_name": "d"}}),
    (["nvmf_set_config", "dhchap_digests=sha256,sha512"], {"dhchap_digests": ["sha256", "sha512"]}),
    (["nvmf_set_config", 'dhchap_digests=["sha256"]'], {"dhchap_digests": ["sha256"]}),
    (["nvmf_set_config", "dhchap_digests="], {"dhchap_digests": []}),
    (["get_bdevs", "name=x"], {"name": "x"}),
])
def test_values_are_of_the_types_that_the_table_has(tmp_path, words, params):
    assert sent(tmp_path, *words)[0] == params


@pytest.mark.parametrize("words, says", [
    (["nvmf_get_subsytems"], "is nvmf_get_subsystems meant?"),
    (["nvmf_getsubsytem"], "is nvmf_get_subsystems meant?"),
    (["get_subsystem_conf"], "is get_subsystem_config meant?"),
    (["conections"], "is connections meant?"),
    (["frobnicate_everything"], "lists those there are"),
    (["nvmf_subsystem_add_ns", "nqm=x"], "is nqn meant?"),
    (["nvmf_subsystem_add_ns", "nqn=x", "bdev_name=d"], "is namespace.bdev_name meant?"),
    (["nvmf_subsystem_add_ns", "nqn=x", "namespace.bdevname=d"], "is namespace.bdev_name meant?"),
    (["nvmf_subsystem_add_ns", "nqn.x=1"], '"nqn.x"'),
    (["spdk_get_version", "name=x"], "has no parameters"),
    (["bdev_get_bdevs", "Malloc0"], "takes KEY=VALUE"),
    (["bdev_get_bdevs", "name=x", "name=y"], "name is given twice"),
    (["bdev_get_bdevs", "timeout=soon"], "timeout=soon: it takes a number from 0 to 3600000"),
    (["bdev_get_bdevs", "timeout=99999999999999999999"], "it takes a number"),
    (["nvmf_subsystem_allow_any_host", "nqn=x", "allow_any_host=maybe"], "true or false"),
    (["log_set_level", "level=LOUD"], "one of ERROR|WARNING|NOTICE|INFO|DEBUG"),
    (["nvmf_set_config", "dhchap_digests=sha256,md5"], "an array of sha256|sha384|sha512"),
    (["nvmf_set_config", "dhchap_digests=[1"], "an array of"),
    (["nvmf_subsystem_add_ns", "nqn=x", "namespace=d"], "give its members"),
    (["nvmf_subsystem_add_ns", "nqn=x"], "needs namespace.bdev_name="),
    (["nvmf_subsystem_add_ns", "nqn=x", 'namespace={"nsid": 1}'], "needs namespace.bdev_name="),
    (["nvmf_create_subsystem"], "needs nqn="),
    (["bdev_get_bdevs", "--nqn", "x"], "--nqn belongs to add, listen, allow and deny"),
    (["ls", "--name", "x"], "--name belongs to add"),
    (["ls", "--markdown"], "belong to help"),
    (["ls", "now"], '"now" is a word too many'),
    (["rm"], "rm takes NAME: something is missing"),
    (["status", "--timeout", "forever"], "seconds from 0 to 86400"),
    (["stats", "0"], "seconds from 1 to 86400"),
    (["-s", "x" * 200, "status"], "no path of 1 to 107 bytes"),
    ([], "takes a verb or a method"),
    (["help", "nvmf_create_subsytem"], "is nvmf_create_subsystem meant?"),
])
def test_what_is_wrong_with_a_command_line_is_said_before_anything_is_called(tmp_path, words, says):
    with Pretender(tmp_path / "s", results({})) as pretender:
        where = [] if "-s" in words else ["-s", pretender.path]
        assert says in ctl(*where, *words, status=2).err
        assert not pretender.requests


def test_results_are_for_people_or_json(tmp_path):
    assert sent(tmp_path, "bdev_wait_for_examine")[1].out == ""  # true: it is done
    os.unlink(tmp_path / "s")
    assert sent(tmp_path, "bdev_wait_for_examine", "--json")[1].out == "true\n"
    os.unlink(tmp_path / "s")
    result = sent(tmp_path, "bdev_malloc_create", "num_blocks=1", "block_size=512", answer="Malloc0\x1b[31m")[1]
    assert result.out == "Malloc0?[31m\n"
    os.unlink(tmp_path / "s")
    assert json.loads(sent(tmp_path, "nvmf_get_targets", answer=["nvmf_tgt"])[1].out) == ["nvmf_tgt"]


def test_an_error_of_the_server_is_one_line(server):
    result = server.ctl("bdev_malloc_delete", "name=nothing", status=1)
    assert result.err == "pollux: bdev_malloc_delete: No such device: there is no nothing; bdev_get_bdevs lists disks\n"
    assert not result.out


# -- no server, and servers that are none -----------------------------------------------------------------------------


def test_no_server_says_what_would_be_right(tmp_path):
    nowhere = tmp_path / "nowhere"
    err = ctl("-s", nowhere, "status", status=1).err
    assert "there is no such socket" in err and f"pollux serve -r {nowhere}" in err
    with Server(tmp_path) as server:
        os.link(server.socket, nowhere)  # what a server that was killed leaves behind
    assert "the server there has ended" in ctl("-s", nowhere, "status", status=1).err
    assert "-s SOCKET" in ctl("-s", make_file(tmp_path / "file", 0), "status", status=1).err


def test_a_socket_of_somebody_else_says_whose_calls_are_taken(server):
    somebody = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
    os.chmod(server.socket, 0o600 if somebody else 0)
    done = subprocess.run([binary(), "ctl", "-s", server.socket, "status"], capture_output=True, text=True, check=False,
                          cwd="/", **somebody)
    assert done.returncode == 1 and "takes calls of root and of the user who started it" in done.stderr, done.stderr


def test_the_socket_is_the_option_s_and_else_that_of_the_environment(server, tmp_path):
    assert ctl("spdk_get_version", "-s", server.socket, socket=tmp_path / "none").out
    assert ctl("spdk_get_version", socket=server.socket).out
    assert "/var/tmp/pollux.sock" in ctl("help").out
    assert stat.S_IMODE(os.stat(server.socket).st_mode) == 0o600


def reply(text):
    return lambda request: text if text is None else text.replace(b"@", str(request["id"]).encode())


@pytest.mark.parametrize("answer, says", [
    (None, "has disconnected before it answered nvmf_get_targets"),
    (b"hello\n", "cannot be read"),
    (b"\xff{}\n", "cannot be read"),
    (b'{"id": 99, "result": true}\n', "what answers there is no control server"),
    (b'{"id": @, "error": {"code": -5}}\n', "nvmf_get_targets: an error without a message"),
    (b'{"id": null, "error": {"code": -16, "message": "two\\nlines\\u001b"}}\n', "nvmf_get_targets: two?lines?"),
])
def test_what_is_no_answer_is_said(tmp_path, answer, says):
    with Pretender(tmp_path / "s", reply(answer)) as pretender:
        assert says in ctl("-s", pretender.path, "nvmf_get_targets", status=1).err


def test_an_answer_in_pieces_is_waited_for_and_none_is_not(tmp_path):
    def half(request):
        return b'{"id": 1, "result": ["a",'
    with Pretender(tmp_path / "s", half) as pretender:
        err = ctl("-s", pretender.path, "--timeout", "1", "nvmf_get_targets", status=1).err
        assert "nvmf_get_targets is not answered within 1 seconds, and may be done yet" in err


def test_a_long_answer_is_read_whole(tmp_path):
    names = [f"disk{n:06}" for n in range(30_000)]
    with Pretender(tmp_path / "s", results({"nvmf_get_targets": names})) as pretender:
        assert json.loads(ctl("-s", pretender.path, "nvmf_get_targets").out) == names


# -- verbs that change ------------------------------------------------------------------------------------------------


def test_from_nothing_to_a_host_that_reads(server):
    assert "pollux ctl create NQN" in server.ctl("status").out
    assert "there is no subsystem" in server.ctl("add", "disk.img", status=1).err
    line = server.ctl("create", NQN, "--listen", "127.0.0.1:0").out
    assert line.startswith("nvme connect -t tcp -a 127.0.0.1 -s ") and line.endswith(f" -n {NQN}\n")
    assert server.ctl("add", "disk.img").out == f"disk.img is namespace 1 of {NQN}\n"
    host = new_hostnqn()
    server.ctl("allow", host)
    server.address = ("127.0.0.1", int(line.split()[7]))
    with connect(server, hostnqn=host, io_queues=1) as controller:
        assert controller.read(1, 0, 8) == bytes(4096)


def test_a_file_is_found_from_where_it_was_named(serving, tmp_path):
    folder = tmp_path / "else where"
    folder.mkdir()
    make_file(folder / "100%?.img")
    made = ctl("--json", "add", "100%?.img", socket=serving.socket, cwd=folder)
    assert json.loads(made.out) == {"name": "100%?.img", "nsid": 2, "nqn": NQN}
    make_file(folder / "b.img")
    ctl("add", "file:b.img?ro=1", "--name", "b", socket=serving.socket, cwd=folder)
    urls = {call["params"]["url"] for call in serving.call("framework_get_config", "name=bdev")
            if call["method"] == "pollux_disk_open"}
    assert f"file:{folder}/b.img?ro=1" in urls


def test_a_file_may_have_any_name_and_what_is_told_to_the_server_may_not(serving, tmp_path):
    make_file(os.fsencode(tmp_path) + b"/caf\xe9.img")
    make_file(tmp_path / "ähnlich.img")
    assert serving.ctl("add", os.fsdecode(b"caf\xe9.img")).out == f"caf?.img is namespace 2 of {NQN}\n"
    serving.ctl("add", "ähnlich.img")
    urls = [call["params"].get("url", "") for call in serving.call("framework_get_config", "name=bdev")]
    assert f"file:{tmp_path}/caf%e9.img" in urls and f"file:{tmp_path}/ähnlich.img" in urls
    for words in (["rm", b"\xff"], ["allow", b"\xff"], ["add", "ram:1M", "--name", b"\xff"],
                  ["listen", "::1", "--nqn", b"\xff"]):
        words = [os.fsdecode(word) for word in words]
        assert "is not UTF-8" in serving.ctl(*words, status=2).err
    assert "it takes a text" in serving.ctl("bdev_get_bdevs", os.fsdecode(b"name=\xff"), status=2).err


def test_add_names_disks_and_takes_those_that_are_open(serving, tmp_path):
    serving.ctl("bdev_malloc_create", "name=Malloc0", "num_blocks=8192", "block_size=512")
    assert serving.ctl("add", "Malloc0", "--nsid", 9).out == f"Malloc0 is namespace 9 of {NQN}\n"
    assert serving.ctl("add", "ram:8M").out == f"ram0 is namespace 2 of {NQN}\n"
    assert serving.ctl("add", "ram:8M").out == f"ram1 is namespace 3 of {NQN}\n"
    (tmp_path / "sub").mkdir()
    make_file(tmp_path / "sub" / "disk.img")
    assert serving.ctl("add", "sub/disk.img").out == f"disk.img1 is namespace 4 of {NQN}\n"
    assert serving.ctl("add", "ram:1M", "--name", "mine").out == f"mine is namespace 5 of {NQN}\n"


def test_a_subsystem_that_cannot_be_reached_is_not_made(server):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        where = "127.0.0.1:%d" % taken.getsockname()[1]
        assert "nvmf_subsystem_add_listener: " in server.ctl("create", NQN, "--listen", where, status=1).err
    assert "--listen: " in server.ctl("create", NQN, "--listen", "here", status=2).err
    assert [found["subtype"] for found in server.call("nvmf_get_subsystems")] == ["Discovery"]


@pytest.mark.parametrize("name, shown", [(b"caf\xe9.img", "caf?.img"), ("ä" * 120, "ä" * 57 + "?")])
def test_a_server_that_is_controlled_begins_with_files_of_any_name(tmp_path, name, shown):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/" + os.fsencode(name))
    make_file(path)
    with Server(tmp_path, "-l", "127.0.0.1:0", path) as server:
        assert [disk["name"] for disk in server.call("bdev_get_bdevs")] == [shown]


def test_a_disk_that_cannot_be_added_is_closed_again(serving):
    before = serving.call("bdev_get_bdevs")
    assert "nvmf_subsystem_add_ns: Invalid parameters" in serving.ctl("add", "ram:8M", "--nsid", 1, status=1).err
    assert serving.call("bdev_get_bdevs") == before
    assert "./odd:x" in serving.ctl("add", "odd:x", status=2).err
    assert "disk2.img" in serving.ctl("add", "disk2.img", status=1).err


def test_several_subsystems_have_to_be_told_apart(serving):
    serving.ctl("create", OTHER)
    err = serving.ctl("add", "ram:8M", status=2).err
    assert f"--nqn {NQN} or --nqn {OTHER}" in err
    assert serving.ctl("add", "ram:8M", "--nqn", OTHER).out == f"ram0 is namespace 1 of {OTHER}\n"
    serving.ctl("listen", "127.0.0.1:0", "--nqn", OTHER)
    assert len(subsystem(serving, OTHER)["listen_addresses"]) == 1
    assert "not found" in serving.ctl("add", "ram:8M", "--nqn", OTHER + "x", status=1).err


def test_rm_takes_a_disk_from_its_hosts(serving):
    serving.ctl("add", "ram:8M")
    with connect(serving, io_queues=1) as controller:
        assert controller.namespaces() == [1, 2]
        serving.ctl("rm", "ram0")
        assert controller.namespaces() == [1]
    assert "there is no ram0" in serving.ctl("rm", "ram0", status=1).err


def test_allow_and_deny(serving):
    host, other = new_hostnqn(), new_hostnqn()
    assert "every host is let in" in serving.ctl("allow", host).err
    serving.ctl("deny", "any")
    assert subsystem(serving)["hosts"] == [{"nqn": host}] and not subsystem(serving)["allow_any_host"]
    with connect(serving, hostnqn=host):
        pass
    with pytest.raises(Exception):
        connect(serving, hostnqn=other)
    assert not serving.ctl("allow", other).err
    with connect(serving, hostnqn=other) as controller:
        serving.ctl("deny", other)
        controller.admin.wait_closed()


def test_resize_makes_files_larger_and_hosts_see_it(serving, tmp_path):
    with connect(serving, io_queues=1) as controller:
        assert serving.ctl("resize", "disk.img", "80M").out == "80 MiB\n"
        assert controller.namespace(1).nsze == 80 * MIB // 512
        os.truncate(tmp_path / "disk.img", 96 * MIB)
        assert serving.ctl("resize", "disk.img").out == "96 MiB\n"
        assert controller.namespace(1).nsze == 96 * MIB // 512
    err = serving.ctl("resize", "disk.img", "80M", status=2).err
    assert "disk.img has 96 MiB, and what is beyond the new size would be lost" in err
    assert os.path.getsize(tmp_path / "disk.img") == 96 * MIB
    assert "takes a size, such as 20G" in serving.ctl("resize", "disk.img", "huge", status=2).err
    assert "there is no disk nothing" in serving.ctl("resize", "nothing", "1G", status=1).err


def test_resize_of_a_file_that_the_server_was_started_with(tmp_path):
    """Its name is from the folder that the server is in."""
    make_file(tmp_path / "disk.img")
    with Server(tmp_path, "-l", "127.0.0.1:0", "disk.img") as server:
        assert ctl("resize", "disk.img", "80M", socket=server.socket, cwd="/").out == "80 MiB\n"
    assert os.path.getsize(tmp_path / "disk.img") == 80 * MIB


def test_resize_of_what_is_no_file(serving):
    serving.ctl("bdev_null_create", "name=null0", "num_blocks=2048", "block_size=512")
    assert serving.ctl("resize", "null0", "1T").out == "1 TiB\n"
    assert "a multiple of 1M" in serving.ctl("resize", "null0", "1000K", status=2).err
    serving.ctl("add", "ram:8M")
    assert "only files" in serving.ctl("resize", "ram0", "16M", status=2).err


# -- verbs that look --------------------------------------------------------------------------------------------------


def test_ls_shows_disks_and_what_they_are(serving):
    serving.ctl("bdev_malloc_create", "name=Malloc0", "num_blocks=3072", "block_size=4096")
    serving.ctl("bdev_null_create", "name=Null0", "num_blocks=1", "block_size=512")
    serving.ctl("add", "Null0")
    assert serving.ctl("ls").out == (
        "DISK      KIND    SIZE  BLOCK  NSID  SUBSYSTEM\n"
        f"disk.img  file  64 MiB    512     1  {NQN}\n"
        "Malloc0   ram   12 MiB   4096     -  -\n"
        f"Null0     null   512 B    512     2  {NQN}\n")
    both = serving.call("ls")
    assert [disk["name"] for disk in both["disks"]] == ["disk.img", "Malloc0", "Null0"]
    assert both["subsystems"][1]["nqn"] == NQN


def test_status_shows_what_is_served_to_whom(serving):
    text = serving.ctl("status").out
    for part in (f"process {serving.process.pid}, controlled at {serving.socket}", f"subsystem {NQN}\n",
                 f"listens at     127.0.0.1:{serving.address[1]}\n", "lets in        every host\n",
                 "namespaces     1: disk.img, 64 MiB\n", "REACTOR  CORE  BUSY\n"):
        assert part in text
    serving.ctl("deny", "any")
    assert "lets in        nobody" in serving.ctl("status").out
    assert set(serving.call("status")) == {"version", "reactors", "disks", "subsystems"}


def controller(cntlid, host):
    return {"cntlid": cntlid, "hostnqn": host, "hostid": "x", "num_io_qpairs": 4}


def qpair(cntlid, qid, addr):
    return {"cntlid": cntlid, "qid": qid, "state": "enabled",
            "peer_address": {"trtype": "TCP", "adrfam": "IPv6", "traddr": addr, "trsvcid": "40000"}}


def placed(core, why):
    return {"core": core, "placed_by": why, "incoming_cpu": 3}


def test_connections_are_hosts_with_where_they_come_from(tmp_path):
    answer = results({
        "nvmf_get_subsystems": [DISCOVERY, {"nqn": NQN, "subtype": "NVMe"}],
        "nvmf_subsystem_get_controllers": [controller(1, "nqn.a"), controller(2, "nqn.bb")],
        "nvmf_subsystem_get_qpairs": [
            qpair(1, 0, "::1") | placed(3, "interrupts"), qpair(1, 1, "9.9.9.9") | placed(0, "load"),
            qpair(1, 2, "9.9.9.9") | placed(3, "interrupts"), qpair(2, 1, "9.9.9.9")]})
    with Pretender(tmp_path / "s", answer) as pretender:
        assert ctl("-s", pretender.path, "connections").out == (
            "HOST    FROM         CNTLID  QUEUES  CORES                             SUBSYSTEM\n"
            f"nqn.a   [::1]:40000       1       4  3: 2 by interrupts, 0: 1 by load  {NQN}\n"
            f"nqn.bb  -                 2       4  -                                 {NQN}\n")
        asked = {request["method"]: request.get("params") for request in pretender.requests}
        assert asked["nvmf_subsystem_get_controllers"] == {"nqn": NQN}
        assert json.loads(ctl("-s", pretender.path, "--json", "connections").out)[0]["subnqn"] == NQN
        places = json.loads(ctl("-s", pretender.path, "--json", "connections").out)[0]["places"]
        assert places[1] == {"qid": 1, "core": 0, "placed_by": "load", "incoming_cpu": 3}


def test_a_server_that_tells_no_connections_has_a_status_all_the_same(tmp_path):
    answer = results({
        "spdk_get_version": {"version": "Other v1"}, "framework_get_reactors": {"pid": 7, "reactors": []},
        "bdev_get_bdevs": [], "nvmf_get_subsystems": [DISCOVERY, {"nqn": NQN, "subtype": "NVMe"}]})
    with Pretender(tmp_path / "s", answer) as pretender:
        text = ctl("-s", pretender.path, "status").out
        assert text.startswith("Other v1\nprocess 7") and f"subsystem {NQN}" in text and "connected" not in text


def test_commands_in_flight_are_told_with_where_they_are(tmp_path):
    command = {"nqn": NQN, "hostnqn": "nqn.a", "cntlid": 1, "cid": 3, "core": 0}
    answer = results({"pollux_get_inflight": {"left_out": 2, "commands": [
        command | {"age_us": 12_300_000, "where": "in its disk", "qid": 2, "opcode": 2, "nsid": 1, "lba": 64, "nlb": 8,
                   "bdev_name": "disk.img"},
        command | {"age_us": 1500, "where": "held", "qid": 0, "opcode": 2, "nsid": 1},
        command | {"age_us": 7, "where": "held", "qid": 1, "opcode": 0xc5, "nsid": 1}]}})
    with Pretender(tmp_path / "s", answer) as pretender:
        assert ctl("-s", pretender.path, "inflight").out == (
            "   AGE  COMMAND     LBA   NSID  DISK      QUEUE  HOST   WHERE\n"
            "12.3 s  read        64+8     1  disk.img      2  nqn.a  in its disk\n"
            "1.5 ms  admin 02h   -        1  -             0  nqn.a  held\n"
            "  7 us  opcode c5h  -        1  -             1  nqn.a  held\n"
            "2 younger ones are left out\n")


def test_what_a_server_has_in_flight(serving):
    with connect(serving, io_queues=1) as host:
        host.io.answer_r2ts = False
        host.io.wait_r2t(host.io.submit(sqe.write(1, 64, 256), out=bytes(128 << 10)))
        row = serving.ctl("inflight").out.splitlines()[1]
        assert "  write    64+256     1  disk.img      1  " in row and host.hostnqn in row
    assert set(serving.call("inflight")) == {"commands", "left_out"}


RING = {"size": 128, "layout": "packed"}
VMS = [
    {"ctrlr": "d0", "backend_specific": {"block": {"bdev": "disk.img"}}, "state": "started", "sessions": [
        {"state": "started", "state_ms": 90_000, "pid": 4711, "in_flight": 3, "oldest_ms": 7_300_000,
         "oldest_where": "in disk.img", "rings": [RING, RING | {"broken": "why"}]},
        {"state": "draining", "state_ms": 600_000, "in_flight": 1, "oldest_ms": 0, "rings": [RING]}]},
    {"ctrlr": "s0", "state": "waiting", "state_ms": 12, "in_flight": 0, "oldest_ms": 0, "rings": 0, "sessions": [],
     "backend_specific": {"scsi": [{"luns": [{}, {}]}, {"luns": [{}]}]}}]


def test_virtual_machines(tmp_path):
    """A row for each connection, and one for each device that has none."""
    answer = results({"vhost_get_controllers": VMS})
    with Pretender(tmp_path / "s", answer) as pretender:
        assert ctl("-s", pretender.path, "vms").out == (
            "DEVICE  DISK      STATE        FOR  PROCESS  QUEUES                     IN FLIGHT  OLDEST  WHERE\n"
            "d0      disk.img  started   90.0 s     4711  2 packed of 128, 1 broken          3   2.0 h  in disk.img\n"
            "d0      disk.img  draining  10 min        -  1 packed of 128                    1       -  -\n"
            "s0      3 units   waiting    12 ms        -  -                                  0       -  -\n")


def iostat(ticks, reads, writes, rate=1000):
    return {"tick_rate": rate, "ticks": ticks, "bdevs": [{
        "name": "disk.img", "num_read_ops": reads, "bytes_read": reads * 4096, "num_write_ops": writes,
        "bytes_written": writes * 1_048_576, "read_latency_ticks": reads * 2, "write_latency_ticks": 0}]}


def test_stats_are_totals_or_what_was_done_in_an_interval(tmp_path):
    answer = results({"bdev_get_iostat": (iostat(1000, 300, 2), iostat(1000, 300, 2), iostat(3000, 1300, 12))})
    with Pretender(tmp_path / "s", answer) as pretender:
        assert ctl("-s", pretender.path, "stats").out == (
            "DISK      READS     READ  WRITES  WRITTEN  READ TIME  WRITE TIME\n"
            "disk.img    300  1.2 MiB       2  2.0 MiB     2.0 ms           -\n")
        assert ctl("-s", pretender.path, "stats", 1).out == (  # by the server's clock it was 2 s
            "DISK      READS/S   READ/S  WRITES/S  WRITTEN/S  READ TIME  WRITE TIME\n"
            "disk.img      500  2.0 MiB         5    5.0 MiB     2.0 ms           -\n")


def test_stats_of_a_disk_that_is_new_or_was_begun_anew(tmp_path):
    answer = results({"bdev_get_iostat": ({"tick_rate": 1000, "ticks": 0, "bdevs": []}, iostat(1000, 10, 0),
                                          iostat(1000, 500, 0), iostat(2000, 20, 0))})
    with Pretender(tmp_path / "s", answer) as pretender:
        for reads in (10, 20):
            disk = json.loads(ctl("-s", pretender.path, "--json", "stats", 1).out)["disks"][0]
            assert disk["reads_per_sec"] == reads


# -- save and load ----------------------------------------------------------------------------------------------------


def test_what_was_saved_makes_the_same_again(serving, tmp_path):
    serving.ctl("add", "ram:8M?uuid=11111111-2222-4333-8444-555555555555")
    serving.ctl("allow", new_hostnqn())
    saved = serving.ctl("save").out
    serving.__exit__(None, None, None)
    (tmp_path / "saved.json").write_text("/* what was */ " + saved.replace("{", "// and is\n{", 1), encoding="utf-8")
    with Server(tmp_path) as server:
        err = server.ctl("load", "saved.json").err
        assert "calls that set options are left out, " in err
        assert server.call("save") == json.loads(saved)
    with Server(tmp_path, "--wait-for-rpc") as server:
        assert not server.ctl("load", "-", stdin=saved).err
        assert server.call("save") == json.loads(saved)
    with Server(tmp_path, "-c", "saved.json") as server:
        assert server.call("save") == json.loads(saved)


def call(method, **params):
    return {"method": method, "params": params}


def test_a_load_ends_with_the_first_call_that_fails(server, tmp_path):
    calls = [call("bdev_null_create", name="a", num_blocks=8, block_size=512), call("bdev_null_delete", name="b"),
             call("bdev_null_create", name="c", num_blocks=8, block_size=512)]
    (tmp_path / "c.json").write_text(json.dumps({"subsystems": [{"subsystem": "bdev", "config": calls}]}))
    err = server.ctl("load", "c.json", status=1).err
    assert err.startswith("pollux: c.json: bdev_null_delete: No such device")
    assert err.endswith("calls that were made before it: 1\n")
    assert [disk["name"] for disk in server.call("bdev_get_bdevs")] == ["a"]


@pytest.mark.parametrize("text, says", [
    ("", "it is empty"), ("{", "line 1"), ("[]", 'an object with an array "subsystems"'),
    ('{"subsystems": [{}]}', 'entry 0 of "subsystems" has no array'),
    ('{"subsystems": [{"config": [{"params": {}}]}]}', "call 0 has no"), ('{"a": "/*"', "line 1"),
    ('{"a": 1, "a": 2}', "duplicate"),
])
def test_what_is_no_configuration_is_not_loaded(tmp_path, text, says):
    path = tmp_path / "c.json"
    path.write_text(text, encoding="utf-8")
    assert says in ctl("load", path, status=2).err


# -- help -------------------------------------------------------------------------------------------------------------


def test_help_is_of_all_methods_that_the_server_has(server):
    text = server.ctl("help").out
    names = server.call("rpc_get_methods")
    for name in names:
        assert f"  {name} " in text
    assert set(server.ctl("help", "--names").out.split()) >= {*names, "status", "import"}
    assert "older name is get_bdevs" in server.ctl("help", "bdev_get_bdevs").out
    assert "  namespace.bdev_name\n" in server.ctl("help", "nvmf_subsystem_add_ns").out
    assert "add DISK" in server.ctl("help", "add").out
    keys = server.ctl("help", "--keys", "nvmf_subsystem_add_listener").out.splitlines()
    assert "listen_address.traddr= " in keys and "ana_state= optimized non_optimized inaccessible" in keys


def test_help_needs_no_server():
    assert "listen_address" in ctl("help", "nvmf_subsystem_add_listener", socket="/nowhere").out


# -- completion -------------------------------------------------------------------------------------------------------


def completed(line, server=None):
    """What the shell is offered at the end of a line."""
    script = pathlib.Path(__file__).resolve().parents[2] / "packaging" / "completion" / "pollux.bash"
    line = line.replace("pollux", binary(), 1)
    shell = ('source "$1"; compopt() { :; }; COMP_LINE=$2; COMP_POINT=${#2}; _pollux; printf "%s\\n" "${COMPREPLY[@]}"')
    done = subprocess.run(["bash", "-c", shell, "-", script, line], capture_output=True, text=True, check=True,
                          env={**os.environ, "POLLUX_SOCKET": server.socket if server else "/nowhere"})
    assert not done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("line, offers", [
    ("pollux c", ["ctl", "cp", "compare"]),
    ("pollux ctl sta", ["status", "stats"]),
    ("pollux ctl nvmf_subsystem_add_h", ["nvmf_subsystem_add_host"]),
    ("pollux ctl help nvmf_subsystem_add_h", ["nvmf_subsystem_add_host"]),
    ("pollux ctl --timeout 5 -s x nvmf_subsystem_add_host ", ["nqn=", "host=", "tgt_name=", "psk=", "dhchap_key=",
                                                            "dhchap_ctrlr_key="]),
    ("pollux ctl nvmf_subsystem_add_listener nqn=x listen_address.tra", ["listen_address.traddr="]),
    ("pollux ctl nvmf_subsystem_add_listener ana_state=non", ["non_optimized"]),
    ("pollux ctl nvmf_subsystem_add_listener secure_channel=", ["true", "false"]),
    ("pollux ctl --ti", ["--timeout"]),
    ("pollux ctl import ", ["nvmet"]),
    ("pollux ctl allow a", ["any"]),
    ("pollux ctl rm ", []),
    ("pollux serve --st", ["--state"]),
])
def test_completion_offers_what_the_table_has(line, offers):
    assert completed(line) == offers


def test_completion_offers_what_the_server_has(serving):
    assert completed("pollux ctl resize d", serving) == ["disk.img"]
    assert completed("pollux ctl bdev_get_bdevs name=d", serving) == ["disk.img"]
    assert completed("pollux ctl nvmf_delete_subsystem nqn=nqn.2026-01.org.example:d", serving) == ["disk"]
    assert completed("pollux ctl add x --nqn nqn.2026", serving) == [NQN]


# -- import -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def nvmet(tmp_path):
    """A configuration as nvmetcli saves one, whose disks are here."""
    text = (os.path.dirname(__file__) + "/data/nvmet.json")
    with open(text, encoding="utf-8") as file:
        saved = file.read().replace("@FOLDER@", str(tmp_path))
    for name in ("one.img", "two.img", "off.img"):
        make_file(tmp_path / name, 32 * MIB)
    path = tmp_path / "nvmet.json"
    path.write_text(saved, encoding="utf-8")
    return path


def calls_of(text):
    return [(call["method"], call["params"]) for group in json.loads(text)["subsystems"] for call in group["config"]]


def test_what_nvmetcli_has_saved_becomes_calls(nvmet, tmp_path):
    calls = calls_of(ctl("import", "nvmet", nvmet).out)
    block = min(os.stat(tmp_path / "one.img").st_blksize, 4096)  # as the kernel serves a file
    disks = [params for method, params in calls if method == "bdev_aio_create"]
    assert disks == [{"name": name, "filename": str(tmp_path / name), "block_size": block}
                     for name in ("one.img", "two.img")]
    assert ("nvmf_create_transport", {"trtype": "TCP", "in_capsule_data_size": 16384, "max_queue_depth": 64}) in calls
    made = [params for method, params in calls if method == "nvmf_create_subsystem"]
    assert made == [{"nqn": NQN, "allow_any_host": False, "serial_number": "0123456789abcdef", "model_number": "Linux",
                     "min_cntlid": 7, "max_cntlid": 99}]
    spaces = [params["namespace"] for method, params in calls if method == "nvmf_subsystem_add_ns"]
    assert [(ns["nsid"], ns["bdev_name"], ns["anagrpid"]) for ns in spaces] == [
        (1, "one.img", 1), (5, "two.img", 2), (6, "one.img", 3), (8, "two.img", 4), (9, "two.img", 2)]
    assert spaces[0]["nguid"] == "ef90689c6c46d44c89c14067801309a8" and "nguid" not in spaces[1]
    assert spaces[1]["uuid"] == "2d1ac1f9-6a10-4a19-8b0f-3e1f2c6ff1aa"
    states = [(params["anagrpid"], params["ana_state"]) for method, params in calls
              if method == "nvmf_subsystem_listener_set_ana_state"]
    assert states == [(2, "non_optimized"), (3, "inaccessible"), (4, "inaccessible")]  # 4 is at no port
    assert [params["address"]["traddr"] for method, params in calls
            if method == "nvmf_discovery_add_referral"] == ["192.0.2.7"]


def test_what_has_no_equivalent_is_warned_of(nvmet):
    lines = ctl("import", "nvmet", nvmet).err.splitlines()
    assert all(line.startswith(f"pollux: warning: {nvmet}: ") for line in lines)
    wanted = ["version 1.3 has no", "firmware 6.12.9", 'host "hostnqn" does not begin',
              "namespace 7: it is not enabled", "subsystem testnqn: its name", "subsystem testnqn is not there",
              "uuid:11111111-2222-4333-8444-555555555555 has a key", "port 3: it wants TLS", 'transport is "rdma"',
              "group 3 is persistent-loss", "referral off"]
    for part in wanted:
        assert sum(part in line for line in lines) == 1, (part, lines)
    assert len(lines) == len(wanted), lines  # and what was off, or not set, is not warned of


def test_what_was_imported_is_served(nvmet, tmp_path):
    text = ctl("import", "nvmet", nvmet).out.replace('"4420"', '"0"')
    text = json.loads(text)  # port 0: any that is free; ANA states are of the one that was named
    nvmf = text["subsystems"][1]
    nvmf["config"] = [each for each in nvmf["config"] if each["method"] != "nvmf_subsystem_listener_set_ana_state"]
    (tmp_path / "c.json").write_text(json.dumps(text), encoding="utf-8")
    with Server(tmp_path, "-c", "c.json") as server:
        assert wait_until(lambda: "namespace 6: one.img" in server.stdout)
        found = subsystem(server)
        assert found["serial_number"] == "0123456789abcdef" and found["min_cntlid"] == 7
        server.address = ("127.0.0.1", int(found["listen_addresses"][0]["trsvcid"]))
        with connect(server, hostnqn=found["hosts"][0]["nqn"], io_queues=1) as host:
            assert host.namespaces() == [1, 5, 6, 8, 9]


ODD = (None, True, -1, 2**62, "", "x", "\x1b%s%n", [], {}, [None], {"nsid": "x"}, "y" * 5000)


def changed(seed, value, depth=0):
    """A value, of which some members are something else."""
    if depth and seed.random() < 0.06:
        return seed.choice(ODD)
    if isinstance(value, dict):
        return {name: changed(seed, member, depth + 1) for name, member in value.items() if seed.random() > 0.03}
    if isinstance(value, list):
        return [changed(seed, member, depth + 1) for member in value]
    return value


def test_whatever_is_in_a_file_import_ends(nvmet, tmp_path):
    saved = json.loads(nvmet.read_text(encoding="utf-8"))
    path = tmp_path / "c.json"
    for number in range(40):
        path.write_text(json.dumps(changed(random.Random(number), saved)), encoding="utf-8")
        done = subprocess.run([binary(), "ctl", "import", "nvmet", path], capture_output=True, text=True, check=False)
        assert done.returncode in (0, 2) and not SANITIZER.search(done.stderr), (number, done.stderr)
        assert done.returncode or calls_of(done.stdout), number


def test_whatever_a_server_answers_verbs_end(serving, tmp_path):
    with connect(serving, io_queues=1):
        answers = {method: serving.call(method, *words) for method, *words in (
            ["bdev_get_bdevs"], ["nvmf_get_subsystems"], ["spdk_get_version"], ["framework_get_reactors"],
            ["bdev_get_iostat"], ["pollux_get_inflight"], ["nvmf_subsystem_get_controllers", f"nqn={NQN}"],
            ["nvmf_subsystem_get_qpairs", f"nqn={NQN}"], ["framework_get_config", "name=bdev"],
            ["nvmf_get_transports"], ["rpc_get_methods"])}
    answers["vhost_get_controllers"] = VMS
    for number in range(12):
        seed = random.Random(number)
        table = {method: changed(seed, answer, 1) for method, answer in answers.items()}
        os.makedirs(tmp_path / str(number))
        with Pretender(tmp_path / str(number) / "s", results(table)) as pretender:
            for words in (["status"], ["ls"], ["connections"], ["stats"], ["inflight"], ["vms"], ["add", "ram:1M"],
                          ["resize", "disk.img", "1G"], ["create", NQN], ["allow", "any"], ["load", "c.json"]):
                (tmp_path / "c.json").write_text('{"subsystems": []}', encoding="utf-8")
                done = subprocess.run([binary(), "ctl", "-s", pretender.path, *words], capture_output=True, text=True,
                                      check=False, cwd=tmp_path)
                assert done.returncode in (0, 1, 2) and not SANITIZER.search(done.stderr), (number, words, done.stderr)


@pytest.mark.parametrize("text, says", [("{}", "nvmetcli has not saved it"), ("{", "line 1")])
def test_what_nvmetcli_has_not_saved_is_not_imported(tmp_path, text, says):
    path = tmp_path / "c.json"
    path.write_text(text, encoding="utf-8")
    assert says in ctl("import", "nvmet", path, status=2).err
    assert "there is nvmet" in ctl("import", "lio", path, status=2).err


def test_odd_members_of_a_configuration_are_let_be(tmp_path):
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"subsystems": [{}, 7, {"nqn": NQN, "passthru": [{"enable": 1}],
                                                       "namespaces": [{}, {"nsid": 1, "enable": 1}],
                                                       "allowed_hosts": [3]}],
                                "ports": [{}, {"portid": 1, "addr": {"trtype": "tcp", "traddr": "::", "tsas": "tls1.3"},
                                               "subsystems": [NQN, 5], "param": {"inline_data_size": "99999"}}],
                                "hosts": [1], "other": {"a": 1}, "discovery": {"nqn": NQN}}), encoding="utf-8")
    result = ctl("import", "nvmet", path)
    assert "nvmf_subsystem_add_listener" in [method for method, _ in calls_of(result.out)]
    for part in ("inline_data_size 99999 becomes 65536", "[::] is all of IPv6 alone", "other", "passthru",
                 "it offers TLS", "the discovery subsystem is called"):
        assert part in result.err
