# SPDX-License-Identifier: BSD-3-Clause
"""Configurations: saved, begun with, kept at every change, and what is said of those that are wrong."""
import json
import os
import random
import shutil
import subprocess
import time

import pytest

from host import Controller
from nvmetcp import CommandError
from rpc import (DISCOVERY, WRONG_STATE, RpcError, Server, describe, free_port, listen, prepare,
                 refused_start)
from target import sanitized, wait_until

NQN = "nqn.2001-01.example:config"
HOST = "nqn.2014-08.org.nvmexpress:uuid:3fc90ca3-70a1-4e25-90ba-dc3f7b641f96"
MIB = 1 << 20


def seed():
    """What repeats a run: POLLUX_SEED=number."""
    chosen = int(os.environ.get("POLLUX_SEED") or random.SystemRandom().getrandbits(32))
    print(f"POLLUX_SEED={chosen}")
    return chosen


def make_file(path, size=8 * MIB):
    with open(path, "wb") as file:
        file.truncate(size)
    return str(path)


# ---- all there is

def configure_startup(client):
    """What may be set before the initialisation only."""
    client.call("iobuf_set_options", small_pool_count=9000, large_bufsize=1 << 18)
    client.call("sock_set_default_impl", impl_name="uring")
    client.call("sock_impl_set_options", impl_name="posix", recv_buf_size=4096, enable_quickack=True)
    client.call("sock_impl_set_options", impl_name="ssl", tls_version=13)
    client.call("accel_set_options", task_count=77)
    client.call("bdev_set_options", bdev_io_pool_size=5000, bdev_auto_examine=False)
    client.call("nvmf_set_config", discovery_filters=["match_any"], admin_cmd_passthru={"sanitize": True})
    client.call("nvmf_set_max_subsystems", max_subsystems=77)
    client.call("nvmf_set_crdt", crdt1=1, crdt2=2, crdt3=3)


def configure_disks(client, folder):
    client.call("bdev_malloc_create", name="m0", num_blocks=2048, block_size=4096, optimal_io_boundary=8)
    client.call("bdev_malloc_create", num_blocks=2048, block_size=512,
                uuid="11111111-2222-3333-4444-555555555555")
    client.call("bdev_null_create", name="n0", num_blocks=1 << 20, block_size=512, physical_block_size=4096)
    client.call("bdev_null_resize", name="n0", new_size=4096)
    client.call("bdev_aio_create", name="a0", filename=make_file(folder / "a b?c%41&d#.img"), block_size=4096)
    client.call("bdev_aio_create", name="a1", filename=make_file(folder / "ro.img"), readonly=True)
    client.call("bdev_uring_create", name="u0", filename=make_file(folder / "\u00fc.img"))
    client.call("pollux_disk_open", name="p0", url="ram:1M")


def configure_more(client, folder):
    """Methods that are there only where what they are for was built in."""
    methods = describe(client)
    if "bdev_set_qos_limit" in methods:
        client.call("bdev_set_qos_limit", name="m0", rw_ios_per_sec=20000, r_mbytes_per_sec=100)
    if "bdev_delay_create" in methods:
        client.call("bdev_malloc_create", name="below", num_blocks=2048, block_size=512)
        client.call("bdev_delay_create", name="slow", base_bdev_name="below", avg_read_latency=10,
                    p99_read_latency=20, avg_write_latency=30, p99_write_latency=40)
    if "bdev_error_create" in methods:
        client.call("bdev_malloc_create", name="EEbase", num_blocks=2048, block_size=512)
        client.call("bdev_error_create", base_name="EEbase")
    if "keyring_file_add_key" in methods:
        key = folder / "key"
        key.write_text("NVMeTLSkey-1:01:MDAxMTIyMzM0NDU1NjY3Nzg4OTlhYWJiY2NkZGVlZmZwJEiQ:\n")
        key.chmod(0o600)
        client.call("keyring_file_add_key", name="key0", path=str(key))
    if "nvmf_ns_add_host" in methods:
        client.call("bdev_null_create", name="masked", num_blocks=2048, block_size=512)
        client.call("nvmf_subsystem_add_ns", nqn=NQN,
                    namespace={"bdev_name": "masked", "nsid": 40, "no_auto_visible": True})
        client.call("nvmf_ns_add_host", nqn=NQN, nsid=40, host=HOST)


def configure_subsystems(client):
    client.call("nvmf_create_transport", trtype="TCP", max_queue_depth=64, max_io_qpairs_per_ctrlr=7,
                in_capsule_data_size=4096, max_io_size=1 << 18, c2h_success=False)
    client.call("nvmf_create_subsystem", nqn=NQN, serial_number="SN 1", model_number="A \"model\"", max_namespaces=64,
                allow_any_host=False, min_cntlid=5, max_cntlid=500, ana_reporting=True)
    client.call("nvmf_create_subsystem", nqn=NQN + "2", allow_any_host=True)
    client.call("nvmf_create_subsystem", nqn=NQN + "3")
    client.call("nvmf_subsystem_add_host", nqn=NQN, host=HOST)
    client.call("nvmf_subsystem_add_host", nqn=NQN, host="nqn.2001-01.example:host")
    client.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "m0", "nsid": 5})
    client.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={
        "bdev_name": "a0", "nguid": "00112233445566778899AABBCCDDEEFF", "eui64": "0011223344556677",
        "uuid": "99999999-2222-3333-4444-555555555555", "anagrpid": 3})
    client.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "a1", "nsid": 64})
    client.call("nvmf_subsystem_add_ns", nqn=NQN + "2", namespace={"bdev_name": "p0"})
    client.call("nvmf_subsystem_add_ns", nqn=NQN + "2", namespace={"bdev_name": "u0"})


def address(port, host="127.0.0.1"):
    return {"trtype": "TCP", "adrfam": "IPv6" if ":" in host else "IPv4", "traddr": host, "trsvcid": str(port)}


def configure_access(client):
    listen(client, NQN + "2", host="::1", ana_state="inaccessible")
    first, second = listen(client, NQN), listen(client, NQN, ana_state="non_optimized")
    client.call("nvmf_subsystem_add_listener", nqn=NQN + "2", listen_address=address(second))
    client.call("nvmf_subsystem_listener_set_ana_state", nqn=NQN, listen_address=address(first), anagrpid=3,
                ana_state="inaccessible")
    client.call("nvmf_subsystem_listener_set_ana_state", nqn=NQN, listen_address=address(second), anagrpid=1,
                ana_state="optimized")
    listen(client, DISCOVERY)
    client.call("nvmf_subsystem_add_listener", nqn=DISCOVERY, listen_address=address(first))
    client.call("nvmf_discovery_add_referral", address=address(8009, "192.0.2.7"))
    client.call("nvmf_discovery_add_referral", address=address(8010, "2001:db8::7"))
    client.call("bdev_raid_set_options", process_window_size_kb=2048)
    return first, second


def configure_all(client, folder):
    configure_startup(client)
    client.call("framework_start_init")
    configure_disks(client, folder)
    configure_subsystems(client)
    ports = configure_access(client)
    configure_more(client, folder)
    return ports


VOLATILE = ("m0", "p0", "below", "slow", "EEbase", "EE_EEbase")


def shown(client):
    """What methods show of it, without what is chosen anew at each start: UUIDs of disks of memory, whose data is
    gone, unless they were given one."""
    disks, subsystems = client.call("bdev_get_bdevs"), client.call("nvmf_get_subsystems")
    namespaces = [namespace for subsystem in subsystems for namespace in subsystem.get("namespaces", [])]
    for disk in disks:
        if disk["name"] in VOLATILE:
            del disk["uuid"], disk["aliases"]
    for namespace in namespaces:
        if namespace["bdev_name"] in VOLATILE:
            del namespace["uuid"], namespace["nguid"]
    listeners = [client.call("nvmf_subsystem_get_listeners", nqn=NQN + end) for end in ("", "2", "3")]
    return {"disks": disks, "subsystems": subsystems, "listeners": listeners,
            "transports": client.call("nvmf_get_transports"), "referrals": client.call("nvmf_discovery_get_referrals"),
            "sock": client.call("sock_impl_get_options", impl_name="posix")}


def uuids(client, names):
    """Of disks, and of namespaces that are such disks."""
    namespaces = [namespace for subsystem in client.call("nvmf_get_subsystems")
                  for namespace in subsystem.get("namespaces", []) if namespace["bdev_name"] in names]
    return {disk["uuid"] for disk in client.call("bdev_get_bdevs") if disk["name"] in names} | {
        namespace[key] for namespace in namespaces for key in ("uuid", "nguid")}


@pytest.mark.parametrize("way", ["dump", "groups"])
def test_all_there_is_comes_back(way, tmp_path):
    """Saved by the one call, or group by group as clients do it; begun with again; saved again: the same."""
    with Server(options=["--wait-for-rpc"]) as server, server.client() as client:
        first, second = configure_all(client, tmp_path)
        saved, before, volatile = getattr(client, way)(), shown(client), uuids(client, VOLATILE)
        assert client.dump() == client.groups()
    with open(tmp_path / "config.json", "w", encoding="utf-8") as file:
        json.dump(saved, file, indent=2)
    with Server(options=["-c", tmp_path / "config.json"]) as server, server.client() as client:
        assert getattr(client, way)() == saved
        assert shown(client) == before
        options = {call["method"]: call["params"] for group in saved["subsystems"] for call in group["config"]}
        assert options["iobuf_set_options"]["small_pool_count"] == 9000
        assert uuids(client, VOLATILE).isdisjoint(volatile)  # so no host goes on with what is gone
        assert options["nvmf_set_crdt"] == {"crdt1": 1, "crdt2": 2, "crdt3": 3}
        for port in (first, second):
            with Controller(("127.0.0.1", port), NQN, hostnqn=HOST) as host:
                assert {5, 64, 1} <= set(host.namespaces())


def test_a_configuration_can_be_made_again_call_by_call(tmp_path):
    """SPDK's load_config: in the order of the groups, what may be called at the time."""
    with Server(options=["--wait-for-rpc"]) as server, server.client() as client:
        configure_all(client, tmp_path)
        saved = client.groups()
    with Server(options=["--wait-for-rpc"]) as server, server.client() as client:
        left = [call for group in saved["subsystems"] for call in group["config"]]
        for _ in range(2):
            now = set(client.call("rpc_get_methods", current=True))
            later = []
            for call in left:
                if call["method"] in now and call["method"] != "framework_start_init":
                    client.call_with(call["method"], call.get("params"))
                else:
                    later.append(call)
            left = later
            if "framework_start_init" in now:
                client.call("framework_start_init")
        assert not left
        assert client.groups() == saved


def test_a_dump_of_nothing_comes_back():
    with Server() as server, server.client() as client:
        saved = client.dump()
        config = server.folder / "config.json"
        config.write_text(json.dumps(saved))
        server.stop()
        server.options += ["-c", str(config)]
        server.start()
        with server.client() as again:
            assert again.dump() == saved


def test_the_command_line_is_saved_as_calls(tmp_path):
    disk = make_file(tmp_path / "disk.img")
    with Server("ram:1M", disk, options=["-n", NQN]) as server, server.client() as client:
        saved = client.dump()
        disks = client.call("bdev_get_bdevs")
        assert {d["name"] for d in disks} == {"ram0", "disk.img"}
        used = client.call("nvmf_get_subsystems", nqn=NQN)[0]
        assert [ns["bdev_name"] for ns in used["namespaces"]] == ["ram0", "disk.img"] and used["listen_addresses"]
        server.stop()
        (tmp_path / "config").write_text(json.dumps(saved))
    with Server(options=["-c", tmp_path / "config"]) as server, server.client() as client:
        assert client.dump() == saved


def test_one_group_that_differs_is_one_line_of_a_dump():
    with Server() as server, server.client() as client:
        client.call("nvmf_create_transport", trtype="TCP")
        client.call("nvmf_create_subsystem", nqn=NQN)
        where = address(listen(client, NQN, ana_state="non_optimized"))
        for group in (1, 5, 128):
            client.call("nvmf_subsystem_listener_set_ana_state", nqn=NQN, listen_address=where, anagrpid=group,
                        ana_state="inaccessible")
        lines = [call["params"] for call in client.call("framework_get_config", name="nvmf")
                 if "ana_state" in call.get("params", {})]
        assert [(line.get("anagrpid"), line["ana_state"]) for line in lines] == \
            [(None, "non_optimized"), (1, "inaccessible"), (5, "inaccessible"), (128, "inaccessible")]


# ---- what a configuration may look like

COMMENTED = """// a comment first
{ /* one
   of two lines */ "subsystems": [ // to the end of the line
    {"subsystem": "bdev", "config": [
      {"method": "bdev_null_create", /**/ "params": {"name": "a//b/*c*/", "num_blocks": 8, "block_size": 512}}
    ]}, {"subsystem": "scheduler", "config": null}, {"config": []}
  ] /* the end */ }
// and more"""


def test_a_configuration_may_have_comments(tmp_path):
    (tmp_path / "c.json").write_text(COMMENTED)
    with Server(options=["-c", tmp_path / "c.json"]) as server, server.client() as client:
        assert [d["name"] for d in client.call("bdev_get_bdevs")] == ["a//b/*c*/"]


def test_a_configuration_may_come_by_a_pipe(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with subprocess.Popen(["sh", "-c", 'printf "%s" "$1" >"$2"', "sh", COMMENTED, str(fifo)]):
        with Server(options=["-c", fifo]) as server, server.client() as client:
            assert len(client.call("bdev_get_bdevs")) == 1


def test_what_is_for_before_the_initialisation_comes_first(tmp_path):
    calls = [{"method": "bdev_null_create", "params": {"name": "n", "num_blocks": 8, "block_size": 512}},
             {"method": "nvmf_set_crdt", "params": {"crdt1": 7}}, {"method": "framework_wait_init"}]
    (tmp_path / "c").write_text(json.dumps({"subsystems": [{"subsystem": "x", "config": calls}]}))
    with Server(options=["-c", tmp_path / "c"]) as server, server.client() as client:
        assert client.call("bdev_get_bdevs")[0]["name"] == "n"
        nvmf = client.call("framework_get_config", name="nvmf")
        assert {"method": "nvmf_set_crdt", "params": {"crdt1": 7, "crdt2": 0, "crdt3": 0}} in nvmf


def test_a_configuration_of_many_calls(tmp_path):
    """They are made one after the other, and not one within the other."""
    calls = [{"method": "log_get_level"}] * 50000 + [{"method": "bdev_raid_set_options"}] * 2000
    (tmp_path / "c").write_text(json.dumps({"subsystems": [{"subsystem": "x", "config": calls}]}))
    with Server(options=["-c", tmp_path / "c"]) as server, server.client() as client:
        assert client.call("spdk_get_version")


def a_call(method, **params):
    return json.dumps({"subsystems": [{"subsystem": "x", "config": [{"method": method, "params": params}]}]})


MISTAKES = {
    "nothing": ("", "line 1"),
    "no JSON": ("hello", "line 1, column"),
    "cut off": ('{"subsystems": [\n{"subsystem": "bdev", "config": [', "line 2"),
    "more behind": ('{"subsystems": []} {}', "line 1"),
    "a comment without an end": ('{"subsystems": [] /* }', "line 1"),
    "twice": ('{"subsystems": [], "subsystems": []}', "duplicate"),
    "an array": ("[]", '"subsystems"'),
    "no subsystems": ("{}", '"subsystems"'),
    "subsystems is an object": ('{"subsystems": {}}', '"subsystems"'),
    "a subsystem is a text": ('{"subsystems": [{"subsystem": "x", "config": []}, "bdev"]}', "entry 1"),
    "no config": ('{"subsystems": [{"subsystem": "bdev"}]}', "entry 0"),
    "config is an object": ('{"subsystems": [{"subsystem": "bdev", "config": {}}]}', '"config"'),
    "a call is a text": ('{"subsystems": [{"config": ["x"]}]}', "call 0"),
    "no method": ('{"subsystems": [{"config": [{"params": {}}]}]}', '"method"'),
    "a method that there is not": (a_call("no_such_method"), "no_such_method"),
    "params is a number": ('{"subsystems": [{"config": [{"method": "bdev_null_create", "params": 5}]}]}', "by name"),
    "params is an array": ('{"subsystems": [{"config": [{"method": "bdev_null_create", "params": []}]}]}', "by name"),
    "a parameter is missing": (a_call("bdev_null_create", name="x"), "num_blocks"),
    "a parameter that there is not": (a_call("bdev_null_create", name="x", num_blocks=8, block_size=512, y=1), "y"),
    "of another type": (a_call("bdev_null_create", name="x", num_blocks="8", block_size=512), "num_blocks"),
    "beyond a limit": (a_call("bdev_null_create", name="x", num_blocks=8, block_size=511), "block_size"),
    "a file that there is not": (a_call("bdev_aio_create", name="x", filename="/nowhere/x.img"), "/nowhere/x.img"),
    "a disk that there is not": (a_call("bdev_null_delete", name="nothing"), "nothing"),
    "no transport": (a_call("nvmf_subsystem_add_listener", nqn=DISCOVERY, listen_address=address(4420)),
                     "nvmf_create_transport"),
    "started again": (a_call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "x"}), NQN),
    "a zero": ('{"subsystems": []}\0', "configuration"),
    "not UTF-8": (b'{"subsystems": [{"config": [{"method": "\xff"}]}]}', "decode byte 0xff"),
    "nested deeply": ("[" * 100000, "line 1"),
}


def errors_of(text):
    return [line for line in text.splitlines() if not line.startswith("pollux: info: ")]


@pytest.mark.parametrize("name", MISTAKES)
@pytest.mark.parametrize("way", ["-c", "--state"])
def test_a_mistake_is_told_in_one_line(name, way, tmp_path):
    text, word = MISTAKES[name]
    path = tmp_path / "config.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    status, said = refused_start("-r", tmp_path / "s", way, path)
    said = errors_of(said)
    assert status == 2 and len(said) == 1, said
    assert said[0].startswith("pollux: ") and str(path) in said[0] and word in said[0]
    assert path.read_bytes() == (text if isinstance(text, bytes) else text.encode())
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.json"]  # no socket, no lock


@pytest.mark.parametrize("way", ["-c", "--state"])
def test_a_file_that_cannot_be_read_is_told(way, tmp_path):
    status, said = refused_start("-r", tmp_path / "s", way, tmp_path)
    assert status == 2 and "directory" in said and str(tmp_path) in said
    if way == "-c":
        status, said = refused_start("-r", tmp_path / "s", way, tmp_path / "nothing")
        assert status == 2 and "No such file" in said and "nothing" in said


def test_what_contradicts_itself_is_refused(tmp_path):
    (tmp_path / "c").write_text('{"subsystems": []}')
    for words, word in ((("--wait-for-rpc", "ram:1M"), "--rpc"),
                        (("-r", tmp_path / "s", "--wait-for-rpc", "-c", tmp_path / "c"), "--config"),
                        (("-r", tmp_path / "s", "--wait-for-rpc", "ram:1M"), "a disk")):
        status, said = refused_start(*words)
        assert status == 2 and word in said and len(said.splitlines()) == 1, said


# ---- kept at every change

class Kept(Server):
    """A server that keeps its state in a file of its folder."""

    def __init__(self, **more):
        super().__init__(options=["--state", "STATE"], **more)
        self.state = self.folder / "state.json"
        self.options[-1] = str(self.state)

    def kept(self):
        return json.loads(self.state.read_text(encoding="utf-8"))


def test_every_change_is_kept_before_it_is_answered(tmp_path):
    changes = 0
    with Kept() as server, server.client() as client:
        assert not server.state.exists()
        configure_disks(client, tmp_path)
        assert server.kept() == client.dump()
        configure_subsystems(client)
        configure_access(client)
        configure_more(client, tmp_path)
        for method, params in (("bdev_null_resize", {"name": "n0", "new_size": 8192}),
                               ("nvmf_subsystem_allow_any_host", {"nqn": NQN, "allow_any_host": True}),
                               ("nvmf_subsystem_remove_host", {"nqn": NQN, "host": HOST}),
                               ("nvmf_subsystem_remove_ns", {"nqn": NQN, "nsid": 5}),
                               ("bdev_malloc_delete", {"name": "Malloc0"}),
                               ("bdev_aio_delete", {"name": "a0"}),
                               ("nvmf_delete_subsystem", {"nqn": NQN + "2"}),
                               ("nvmf_discovery_remove_referral", {"address": address(8009, "192.0.2.7")})):
            before = server.state.read_bytes()
            client.call_with(method, params)
            assert server.kept() == client.dump() and server.state.read_bytes() != before, method
            changes += 1
        assert changes == 8 and (server.state.stat().st_mode & 0o777) == 0o600
        saved, before = client.dump(), server.state.stat().st_ino
        for method in ("bdev_get_bdevs", "nvmf_get_subsystems", "pollux_save", "framework_get_subsystems"):
            client.call(method)
        client.refused("bdev_null_delete", name="nothing")
        assert server.state.stat().st_ino == before  # nothing was written
        server.restart(kill=True)
        with server.client() as again:
            assert again.dump() == saved
        server.restart()
        with server.client() as again:
            assert again.dump() == saved


def test_a_state_goes_before_a_configuration_and_disks():
    with Kept() as server:
        with server.client() as client:
            client.call("bdev_null_create", name="kept", num_blocks=8, block_size=512)
        config = server.folder / "c"
        config.write_text(a_call("bdev_null_create", name="other", num_blocks=8, block_size=512))
        server.options += ["-c", str(config)]
        server.restart()
        with server.client() as client:
            assert [d["name"] for d in client.call("bdev_get_bdevs")] == ["kept"]
        server.stop()
        server.state.unlink()
        server.start()
        with server.client() as client:
            assert [d["name"] for d in client.call("bdev_get_bdevs")] == ["other"]


def test_a_state_begins_with_the_initialisation():
    """Who is killed before that waits for it again; afterwards the state is there, and nothing waits."""
    options = {"small_pool_count": 9000}
    with Kept() as server:
        server.options += ["--wait-for-rpc"]
        server.restart()
        for _ in range(2):
            with server.client() as client:
                client.call_with("iobuf_set_options", options)
                assert client.refused("bdev_get_bdevs")[0] == WRONG_STATE
            assert not server.state.exists()
            server.restart(kill=True)
        with server.client() as client:
            client.call_with("iobuf_set_options", options)
            client.call("framework_start_init")
            assert server.kept() == client.dump()
        server.restart(kill=True)
        said = f"{server.state} is there, so nothing waits for framework_start_init"
        assert wait_until(lambda: said in server.stderr)
        with server.client() as client:
            assert client.call("bdev_get_bdevs") == []
            assert options.items() <= client.call("framework_get_config", name="iobuf")[0]["params"].items()


def whole(config, disk):
    """Whether a disk is there with the namespaces that it is, or neither is there."""
    calls = [(call["method"], call.get("params", {})) for group in config["subsystems"] for call in group["config"]]
    made = any(p.get("name") == disk for _, p in calls)
    used = sum(p["namespace"]["bdev_name"] == disk for method, p in calls if method == "nvmf_subsystem_add_ns")
    return (made, used) in ((True, 2), (False, 0))


def test_half_of_a_change_is_never_seen_or_kept():
    """A disk is deleted, and its namespaces before it, while another client's change is written, and a third dumps."""
    with Kept() as server, server.client() as client, server.client() as other, server.client() as third:
        for end in ("", "2"):
            client.call("nvmf_create_subsystem", nqn=NQN + end)
        for i in range(40):
            client.call("bdev_null_create", name="whole", num_blocks=8, block_size=512)
            for end in ("", "2"):
                client.call("nvmf_subsystem_add_ns", nqn=NQN + end, namespace={"bdev_name": "whole"})
            other.send("bdev_null_create", {"name": f"n{i}", "num_blocks": 8, "block_size": 512})
            client.send("bdev_null_delete", {"name": "whole"})
            third.send("pollux_save")
            assert other.receive()["result"] == f"n{i}"
            assert whole(server.kept(), "whole"), i
            assert whole(third.receive()["result"], "whole"), i
            assert client.receive()["result"] is True
            assert server.kept() == client.dump()


def test_a_change_that_fails_is_not_kept():
    taken = free_port()
    with Kept() as server, server.client() as client, Server() as blocker, blocker.client() as occupant:
        occupant.call("nvmf_create_transport", trtype="TCP")
        occupant.call("nvmf_subsystem_add_listener", nqn=DISCOVERY, listen_address=address(taken))
        client.call("nvmf_create_transport", trtype="TCP")
        client.call("nvmf_create_subsystem", nqn=NQN)
        before = client.dump()
        assert "in use" in client.refused("nvmf_subsystem_add_listener", nqn=NQN, listen_address=address(taken))[1]
        assert client.dump() == before == server.kept()


# ---- kill -9

class Changer:
    """Changes the disks and subsystems of its own, one call after the other, and knows what there must be."""

    def __init__(self, client, name, chance):
        self.client, self.name, self.chance = client, name, chance
        self.disks, self.subsystems = {}, {}
        self.number = 0

    def choose(self):
        """(method, params, what there is when it is done)"""
        disks, subsystems = dict(self.disks), {nqn: dict(ns) for nqn, ns in self.subsystems.items()}
        self.number += 1
        kind = self.chance.choice(["make", "make", "resize", "delete", "subsystem", "namespace", "remove"])
        free = [(nqn, nsid) for nqn in subsystems for nsid in range(1, 6) if nsid not in subsystems[nqn]]
        if kind == "namespace" and disks and free:
            (nqn, nsid), disk = self.chance.choice(free), self.chance.choice(list(disks))
            if any(disk in ns.values() for ns in subsystems.values()):
                kind = "make"
            else:
                subsystems[nqn][nsid] = disk
                return ("nvmf_subsystem_add_ns", {"nqn": nqn, "namespace": {"bdev_name": disk, "nsid": nsid}},
                        (disks, subsystems))
        if kind == "resize" and disks:
            disk = self.chance.choice(list(disks))
            disks[disk] += self.chance.randrange(1, 9)  # a namespace may grow only
            return "bdev_null_resize", {"name": disk, "new_size": disks[disk]}, (disks, subsystems)
        if kind == "delete" and disks:
            disk = self.chance.choice(list(disks))
            del disks[disk]
            subsystems = {nqn: {i: d for i, d in ns.items() if d != disk} for nqn, ns in subsystems.items()}
            return "bdev_null_delete", {"name": disk}, (disks, subsystems)
        if kind == "subsystem":
            nqn = f"nqn.2001-01.example:{self.name}-{self.number}"
            subsystems[nqn] = {}
            return "nvmf_create_subsystem", {"nqn": nqn}, (disks, subsystems)
        if kind == "remove" and subsystems:
            nqn = self.chance.choice(list(subsystems))
            del subsystems[nqn]
            return "nvmf_delete_subsystem", {"nqn": nqn}, (disks, subsystems)
        disk = f"{self.name}-{self.number}"
        disks[disk] = self.chance.randrange(1, 9)
        return ("bdev_null_create", {"name": disk, "num_blocks": disks[disk] * 2048, "block_size": 512},
                (disks, subsystems))

    def begin(self):
        method, params, self.next = self.choose()
        self.client.send(method, params)

    def end(self):
        answer = self.client.receive()
        assert "result" in answer, (answer, self.disks, self.subsystems)
        self.disks, self.subsystems = self.next

    def seen(self, client):
        """What there is of it."""
        disks = {d["name"]: d["num_blocks"] // 2048 for d in client.call("bdev_get_bdevs")
                 if d["name"].startswith(self.name + "-")}
        subsystems = {s["nqn"]: {ns["nsid"]: ns["bdev_name"] for ns in s["namespaces"]}
                      for s in client.call("nvmf_get_subsystems") if f":{self.name}-" in s["nqn"]}
        return disks, subsystems

    def check(self, client):
        """It is as after the last change that was answered, or the one under way."""
        seen = self.seen(client)
        assert seen in ((self.disks, self.subsystems), self.next)
        self.disks, self.subsystems = self.next = seen
        self.client = client


@pytest.mark.parametrize("kind", ["one client", "three clients"])
def test_killed_at_any_moment_it_comes_back_as_it_was_answered(kind):
    chance = random.Random(seed())
    with Kept() as server:
        changers = [Changer(None, name, chance) for name in ("a", "b", "c")[:1 if kind == "one client" else 3]]
        for _ in range(6 if sanitized() else 15):
            for changer in changers:
                changer.client = server.client()
                changer.next = changer.disks, changer.subsystems
            for _ in range(chance.randrange(12)):
                for changer in changers:
                    changer.begin()
                for changer in changers:
                    changer.end()
            for changer in changers:
                changer.begin()
            time.sleep(chance.random() * 0.004)
            server.kill()
            server.start()
            with server.client() as client:
                for changer in changers:
                    changer.client.close()
                    changer.check(client)


# ---- where nothing can be written

def fill(client, reason):
    """Makes disks until that cannot be kept; returns how many there are."""
    for i in range(5000):
        try:
            client.call("bdev_null_create", name=f"filler-with-a-long-name-{i:200}".replace(" ", "x"), num_blocks=8,
                        block_size=512)
        except RpcError as error:
            assert reason in error.message and "restart" in error.message, error
            return error.code, i
    raise AssertionError("it is never full")


def use_up(server, client, code, reason, state):
    client.call("bdev_null_create", name="first", num_blocks=8, block_size=512)
    got, made = fill(client, reason)
    assert got == code and made > 1
    kept = json.loads(state.read_text(encoding="utf-8"))
    disks = [call for group in kept["subsystems"] for call in group["config"] if call["method"] == "bdev_null_create"]
    assert len(disks) == made + 1  # whole, and as before
    assert not state.with_name(state.name + ".new").exists()
    assert len(client.call("bdev_get_bdevs")) == made + 2  # but done
    for disk in client.call("bdev_get_bdevs")[1:]:
        try:
            client.call("bdev_null_delete", name=disk["name"])
        except RpcError as error:
            assert reason in error.message
    assert json.loads(state.read_text(encoding="utf-8")) == client.dump()  # there is room again
    assert server.alive()


def test_a_file_that_may_not_grow_is_an_error_of_the_change():
    with Kept(prefix=("prlimit", "--fsize=20000")) as server, server.client() as client:
        use_up(server, client, -27, "File too large", server.state)


def test_a_full_disk_is_an_error_of_the_change():
    mount = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=64k none "$0" && exec "$@"')
    probe = subprocess.run([*mount, "/mnt", "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("this user may not mount: " + probe.stderr.decode(errors="replace").strip())
    with Kept() as server:
        full = server.folder / "full"
        full.mkdir()
        server.stop()
        server.state = full / "state"
        server.options[-1] = str(server.state)
        server.prefix = [*mount, str(full)]
        server.start()
        with server.client() as client:
            inside = server.folder.__class__(f"/proc/{server.pid}/root{server.state}")
            use_up(server, client, -28, "No space left", inside)


def test_a_folder_that_is_gone_is_an_error_of_the_change():
    with Kept() as server, server.client() as client:
        folder = server.folder / "sub"
        folder.mkdir()
        server.stop()
        server.state = folder / "state"
        server.options[-1] = str(server.state)
        server.start()
        with server.client() as client:
            client.call("bdev_null_create", name="a", num_blocks=8, block_size=512)
            shutil.rmtree(folder)
            code, message = client.refused("bdev_null_create", name="b", num_blocks=8, block_size=512)
            assert code == -2 and "No such file" in message and "restart" in message
            folder.mkdir()
            client.call("bdev_null_create", name="c", num_blocks=8, block_size=512)
            assert server.kept() == client.dump()


# ---- and a host that uses it all the while

def test_data_is_there_after_a_restart(tmp_path):
    with Kept() as server:
        disk = make_file(tmp_path / "disk.img")
        with server.client() as client:
            where = prepare(client, NQN)
            client.call("bdev_aio_create", name="file", filename=disk)
            client.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "file", "nsid": 7})
        data = os.urandom(4096)
        with Controller(where, NQN, io_queues=1) as host:
            identity, size = host.identify(0x00, nsid=7), host.namespace(7).nsze
            host.write(7, 8, data)
            host.flush(7)
        server.restart(kill=True)
        assert wait_until(server.alive)
        with Controller(where, NQN, io_queues=1) as host:
            assert host.read(7, 8, 8) == data and host.namespace(7).nsze == size
            again = host.identify(0x00, nsid=7)
            assert (again[:16], again[24:]) == (identity[:16], identity[24:])  # NUSE is what has been written


def test_a_disk_that_may_not_be_written_is_an_error_of_the_write(tmp_path):
    """Beyond the size that its files may have: the process is not killed for it."""
    with Server(prefix=("prlimit", "--fsize=1048576")) as server, server.client() as client:
        where = prepare(client, NQN)
        client.call("bdev_aio_create", name="file", filename=make_file(tmp_path / "disk.img"))
        client.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "file", "nsid": 7})
        with Controller(where, NQN, io_queues=1) as host:
            host.write(7, 0, bytes(4096))
            for slba in (4096, 2048 * 4):
                with pytest.raises(CommandError):
                    host.write(7, slba, bytes(4096))
            assert host.read(7, 4096, 8) == bytes(4096)
