# SPDX-License-Identifier: BSD-3-Clause
"""SSDs that are driven from user space, by calls and by name: attached, served, measured, copied, pulled."""
import json
import os
import random
import subprocess

import pytest

import ctl as ctl_module
import vhost
from host import Bystander, Controller
from nvmetcp import CommandError
from pcie import A, B, BLOCK, BLOCKS, GET_LOG_PAGE, LATE, Machine, assert_content, model
from rpc import Server, listen
from target import Target, binary, sanitized, wait_until

NQN = "nqn.2001-01.example:ssd"
ENOENT, EEXIST, ENODEV, EINVAL, EALREADY = -2, -17, -19, -22, -114
LIMIT = 120

pytestmark = pytest.mark.skipif(not os.access(model(), os.X_OK), reason=f"no {model()}: build with -Dtests=true")


@pytest.fixture(autouse=True)
def program(monkeypatch):
    """What runs is the command with controllers of its own."""
    monkeypatch.setenv("POLLUX", str(model()))


@pytest.fixture
def machine():
    with Machine(f"{A},ns=2,serial=FIRST", f"{B},serial=SECOND") as made:
        yield made


@pytest.fixture
def client(machine):
    with Server(env=machine.env) as server, server.client() as connected:
        connected.server = server
        yield connected
    assert_content(server.stderr)


def attach(client, addr=A, name="Nvme0", **more):
    return client.call("bdev_nvme_attach_controller", name=name, trtype="PCIe", traddr=addr, **more)


def detach(client, name="Nvme0"):
    return client.call("bdev_nvme_detach_controller", name=name)


def refused(client, addr=A, name="Nvme0", **more):
    return client.refused("bdev_nvme_attach_controller", **{"name": name, "trtype": "PCIe", "traddr": addr} | more)


def disks(client):
    return {disk["name"]: disk for disk in client.call("bdev_get_bdevs")}


def state(client, name="Nvme0"):
    [controller] = client.call("bdev_nvme_get_controllers", name=name)
    return controller["ctrlrs"][0]["state"]


def io_paths(client):
    return [path for group in client.call("bdev_nvme_get_io_paths")["poll_groups"] for path in group["io_paths"]]


def serve_on(client, *names):
    """Serves disks, and returns the address."""
    client.call("nvmf_create_transport", trtype="TCP")
    client.call("nvmf_create_subsystem", nqn=NQN, allow_any_host=True)
    for name in names:
        client.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": name})
    return "127.0.0.1", listen(client, NQN)


def run(machine, *words):
    done = subprocess.run([binary(), *map(str, words)], capture_output=True, text=True, timeout=LIMIT, check=False,
                          env=machine.whole_env())
    assert_content(done.stderr)
    return done


# ---- attaching

def test_a_disk_for_each_namespace(client):
    assert attach(client) == ["Nvme0n1", "Nvme0n2"]
    [controller] = client.call("bdev_nvme_get_controllers")
    [path] = controller["ctrlrs"]
    assert path["trid"] == {"trtype": "PCIe", "traddr": A}
    assert (controller["name"], path["state"], path["cntlid"]) == ("Nvme0", "enabled", 1)
    second = disks(client)["Nvme0n2"]
    assert (second["product_name"], second["num_blocks"], second["block_size"]) == ("NVMe disk", BLOCKS, BLOCK)
    [told] = second["driver_specific"]["nvme"]
    assert (told["pci_address"], told["trid"]) == (A, {"trtype": "PCIe", "traddr": A})
    assert told["ctrlr_data"]["serial_number"] == "FIRST" and told["ctrlr_data"]["vendor_id"] == "0x1b36"
    assert told["ctrlr_data"]["subnqn"] == "nqn.2024-01.com.example:FIRST"
    assert told["vs"] == {"nvme_version": "1.4"}
    assert told["ns_data"] == {"id": 2, "can_share": False}


def test_what_belongs_to_networks_says_nothing(client):
    assert attach(client, "01:00.0", adrfam="IPv4", trsvcid="4420", subnqn=NQN, hdgst=True, ddgst=True,
                  num_io_queues=1, multipath="disable", ctrlr_loss_timeout_sec=-1, reconnect_delay_sec=2,
                  fabrics_connect_timeout_us=1) == ["Nvme0n1", "Nvme0n2"]
    assert client.call("bdev_nvme_get_controllers")[0]["ctrlrs"][0]["trid"]["traddr"] == A


@pytest.mark.parametrize("code,words,wrong", [
    (EALREADY, "Nvme0 already exists with the specified network path", {}),
    (EALREADY, "Nvme0 already exists and multipath is disabled", {"traddr": B, "multipath": "disable"}),
    (EINVAL, "over PCIe it has one path", {"traddr": B}),
    (EINVAL, "over PCIe it has one path", {"trtype": "TCP", "traddr": "127.0.0.1", "subnqn": NQN}),
    (EEXIST, f"{A} is attached already, as controller Nvme0", {"name": "Other"}),
    (ENODEV, "0000:09:00.0: there is no such PCI function", {"name": "Other", "traddr": "0000:09:00.0"}),
    (EINVAL, "no address of a PCI function", {"name": "Other", "traddr": "127.0.0.1"}),
    (EINVAL, "Failed to parse adrfam", {"name": "Other", "traddr": B, "adrfam": "pigeon"}),
    (EINVAL, "psk", {"name": "Other", "traddr": B, "psk": "key"}),
], ids=lambda value: str(value)[:50])
def test_what_cannot_be_attached_is_refused(client, code, words, wrong):
    attach(client)
    got, message = refused(client, **wrong)
    assert (got, words in message) == (code, True), message
    assert list(disks(client)) == ["Nvme0n1", "Nvme0n2"]
    assert state(client) == "enabled"


def test_a_device_is_shut_down_when_it_is_detached(client, machine):
    attach(client)
    assert machine.tell(A, "is_open")
    detach(client)
    assert not machine.tell(A, "is_open")
    assert not client.call("bdev_nvme_get_controllers") and not disks(client)
    assert attach(client, name="Again") == ["Againn1", "Againn2"]


def test_max_bdevs(client):
    assert attach(client, max_bdevs=1) == ["Nvme0n1"]


def test_a_configuration_makes_them_again(client, machine, tmp_path):
    attach(client, ctrlr_loss_timeout_sec=20, reconnect_delay_sec=2)
    attach(client, B, "Other")
    groups = client.groups()
    path = tmp_path / "pollux.json"
    path.write_text(json.dumps(groups), encoding="utf-8")
    machine.forget()
    with Server(options=("-c", path), env=machine.env) as server, server.client() as again:
        assert list(disks(again)) == ["Nvme0n1", "Nvme0n2", "Othern1"]
        assert again.groups() == groups
    assert_content(server.stderr)
    machine.forget()


@pytest.mark.skipif(sanitized(), reason="sanitizers keep memory that was freed")
def test_attaching_a_hundred_times_leaks_nothing(client):
    def turn():
        attach(client)
        detach(client)
    def count():
        return server.descriptors(), server.threads()
    server = client.server
    for _ in range(20):  # some turns begin a worker thread, which stays; of those there are 32 at most
        for _ in range(10):
            turn()
        before, memory = count(), server.data_bytes()
        for _ in range(100):
            turn()
        if wait_until(lambda: count() == before, 2):
            break
    assert count() == before
    assert server.data_bytes() < memory + (3 << 20), "64 KiB a turn would be 6 MiB"


def test_arbitration_is_an_option(client, machine):
    client.call("bdev_nvme_set_options", arbitration_burst=3, low_priority_weight=1, medium_priority_weight=2,
                high_priority_weight=300)
    attach(client)
    assert machine.tell(A, "feature", 1) == 0xff020103
    client.call("bdev_nvme_set_options", high_priority_weight=300)
    attach(client, B, "Other")
    assert machine.tell(B, "feature", 1) == 7  # as it was


# ---- namespaces that come and go

def test_namespaces_come_and_go(client, machine):
    attach(client)
    machine.tell(A, "resize", 2, 0)
    assert wait_until(lambda: list(disks(client)) == ["Nvme0n1"])
    machine.tell(A, "resize", 2, 4096)
    assert wait_until(lambda: list(disks(client)) == ["Nvme0n1", "Nvme0n2"])
    assert disks(client)["Nvme0n2"]["num_blocks"] == 4096


def test_a_namespace_that_nobody_uses_is_resized(client, machine):
    attach(client)
    machine.tell(A, "resize", 1, BLOCKS + 8)
    machine.tell(A, "resize", 2, BLOCKS - 8)
    assert wait_until(lambda: [disk["num_blocks"] for disk in disks(client).values()] == [BLOCKS + 8, BLOCKS - 8])


def test_hosts_see_that_a_namespace_is_resized(client, machine):
    attach(client)
    with Controller(serve_on(client, "Nvme0n1"), NQN, io_queues=1) as host:
        machine.tell(A, "resize", 1, BLOCKS + 8)
        assert wait_until(lambda: host.namespace(1).nsze == BLOCKS + 8)
        host.write(1, BLOCKS, bytes(range(256)) * 2)
        assert host.read(1, BLOCKS, 1) == bytes(range(256)) * 2


# ---- resets, failures, removal

def test_a_reset_disturbs_nobody(client, machine):
    """It is the controller that is reset; what was in flight is done again."""
    attach(client)
    bystander = Bystander(serve_on(client, "Nvme0n1"), NQN)
    for turn in range(10):
        before = machine.tell(A, "enables")
        client.call("bdev_nvme_reset_controller", name="Nvme0")
        assert machine.tell(A, "enables") == before + 1, turn
        assert state(client) == "enabled"
        bystander.check()
    bystander.close()


def test_a_reset_of_what_is_not_there_is_refused(client):
    attach(client)
    assert client.refused("bdev_nvme_reset_controller", name="Other")[0] == ENODEV
    assert client.refused("bdev_nvme_reset_controller", name="Nvme0", cntlid=7)[0] == ENODEV


def test_a_controller_that_fails_is_reset(client, machine):
    attach(client)
    bystander = Bystander(serve_on(client, "Nvme0n1"), NQN)
    before = machine.tell(A, "enables")
    machine.tell(A, "fail")
    assert wait_until(lambda: machine.tell(A, "enables") > before and state(client) == "enabled")
    bystander.close()


def test_what_is_pulled_fails_and_the_other_goes_on(client, machine):
    attach(client, ctrlr_loss_timeout_sec=1, reconnect_delay_sec=1)
    attach(client, B, "Other")
    address = serve_on(client, "Nvme0n1", "Othern1")
    bystander = Bystander(address, NQN, nsid=2)
    with Controller(address, NQN, io_queues=1) as host:
        host.write(1, 0, b"a" * BLOCK)
        machine.tell(A, "remove")
        with pytest.raises(CommandError):
            host.read(1, 0, 1)
        assert state(client) == "reconnecting"
        with pytest.raises(CommandError):
            host.write(1, 0, b"b" * BLOCK)
        bystander.check()
        machine.tell(A, "put_back")
        assert wait_until(lambda: state(client) == "enabled" and all(path["connected"] for path in io_paths(client)))
        assert host.read(1, 0, 1) == b"a" * BLOCK
    bystander.close()


def test_what_is_gone_can_be_detached(client, machine):
    attach(client)
    machine.tell(A, "remove")
    assert wait_until(lambda: state(client) == "reconnecting")
    detach(client)
    assert not disks(client)
    assert refused(client)[0] == ENODEV
    machine.tell(A, "put_back")
    assert attach(client) == ["Nvme0n1", "Nvme0n2"]


# ---- those that come and go

def follow(client, enable=True):
    client.call("bdev_nvme_set_hotplug", enable=enable, period_us=10000)


def test_what_comes_is_attached_and_what_goes_is_detached(client, machine):
    machine.tell(B, "remove")
    attach(client)
    follow(client)
    machine.tell(B, "put_back")
    assert wait_until(lambda: list(disks(client)) == ["Nvme0n1", "Nvme0n2", "HotInNvme0n1"])
    machine.tell(A, "remove")
    assert wait_until(lambda: list(disks(client)) == ["HotInNvme0n1"])
    assert [c["name"] for c in client.call("bdev_nvme_get_controllers")] == ["HotInNvme0"]


def test_what_is_detached_by_a_call_stays_so_until_it_has_been_away(client, machine):
    follow(client)
    assert wait_until(lambda: sorted(disks(client)) == ["HotInNvme0n1", "HotInNvme1n1", "HotInNvme1n2"] or
                      sorted(disks(client)) == ["HotInNvme0n1", "HotInNvme0n2", "HotInNvme1n1"])
    [second] = [c["name"] for c in client.call("bdev_nvme_get_controllers") if c["ctrlrs"][0]["trid"]["traddr"] == B]
    detach(client, second)
    machine.tell(A, "remove")  # has been seen, so B was looked at meanwhile
    assert wait_until(lambda: not disks(client))
    machine.tell(B, "remove")
    follow(client, False)
    follow(client)
    machine.tell(B, "put_back")
    assert wait_until(lambda: list(disks(client)) == ["HotInNvme2n1"])


def test_nothing_is_followed_unless_it_is_wished(client, machine):
    """Pulled for as long as attempts to connect fail, and put back: they are what they were."""
    def all_are(wanted):
        return [c["ctrlrs"][0]["state"] for c in client.call("bdev_nvme_get_controllers")] == [wanted] * 2

    follow(client)
    assert wait_until(lambda: len(disks(client)) == 3)
    before = disks(client)
    follow(client, False)
    machine.tell(A, "remove")
    machine.tell(B, "remove")
    assert wait_until(lambda: all_are("reconnecting") and client.server.stderr.count("cannot connect") >= 4)
    machine.tell(A, "put_back")
    machine.tell(B, "put_back")
    assert wait_until(lambda: all_are("enabled"))
    assert list(disks(client)) == list(before)


# ---- health, and what it is

SMART = ["critical_warning", "temperature", "avail_spare", "spare_thresh", "percent_used",
         "endurance_grp_critical_warning_summary", "data_units_read", "data_units_written", "host_read_commands",
         "host_write_commands", "controller_busy_time", "power_cycles", "power_on_hours", "unsafe_shutdowns",
         "media_errors", "num_err_log_entries", "warning_temp_time", "critical_comp_time", "thm_temp1_trans_count",
         "thm_temp2_trans_count", "thm_temp1_total_time", "thm_temp2_total_time"]


def ctl(client, *words, status=0):
    return ctl_module.ctl(*words, socket=client.server.path, status=status)


@pytest.fixture
def names(client):
    """A controller, its disk, one that was opened otherwise, and one with a filter on it."""
    attach(client)
    client.call("pollux_disk_open", url=f"pcie://{A}/1", name="plain")
    client.call("bdev_delay_create", name="slow", base_bdev_name="Nvme0n2", avg_read_latency=1, p99_read_latency=1,
                avg_write_latency=1, p99_write_latency=1)
    return ["Nvme0", "Nvme0n1", "plain", "slow"]


def test_health(client, machine, names):
    machine.tell(A, "smart", 4)
    for name in names:
        health = client.call("bdev_nvme_get_controller_health_info", name=name)
        assert (health["serial_number"], health["traddr"], health["critical_warning"]) == ("FIRST", A, 4), name
        assert (health["temperature_celsius"], health["available_spare_percentage"]) == (37, 100)
    assert machine.tell(A, "enables") == 1


def test_smart(client, machine, names):
    machine.tell(A, "smart", 2)
    host = Controller(serve_on(client, "Nvme0n1"), NQN, io_queues=1)
    for n in range(20):
        host.write(1, 128 * n, bytes(64 * BLOCK))
    host.close()
    for name in names:
        told = json.loads(ctl(client, "--json", "smart", name).out)
        assert list(told) == SMART
        assert (told["critical_warning"], told["temperature"], told["avail_spare"]) == (2, 310, 100)
        assert (told["host_write_commands"], told["data_units_written"]) == (20, 2)  # of 1,000 blocks, rounded up
    lines = ctl(client, "smart", "plain").out.splitlines()
    assert lines[0] == "Smart Log for NVME device:plain namespace-id:ffffffff"
    for line in ("critical_warning\t\t\t: 2", "temperature\t\t\t\t: 37 °C (310 K)", "available_spare\t\t\t\t: 100%",
                 "Data Units Written\t\t\t: 2 (1.02 MB)", "host_write_commands\t\t\t: 20"):
        assert line in lines, lines


def test_identify_of_a_disk_in_use(client, machine, names):
    alone = json.loads(run(machine, "identify", "--json", f"pcie://{A}").stdout)
    assert json.loads(ctl(client, "--json", "identify", "Nvme0").out) == alone
    one = json.loads(ctl(client, "--json", "identify", "slow").out)
    assert one["namespaces"] == [alone["namespaces"][1]]
    assert "sn        : FIRST" in ctl(client, "identify", "plain").out.splitlines()


def test_what_has_no_controller_has_no_health(client):
    client.call("bdev_null_create", name="none", num_blocks=8, block_size=512)
    for name, words in (("none", "none is no namespace of an NVMe"), ("other", "no controller or disk other")):
        code, message = client.refused("bdev_nvme_get_controller_health_info", name=name)
        assert (code, words in message) == (ENODEV, True), message
        for verb in ("smart", "identify"):
            assert words in ctl(client, verb, name, status=1).err


def test_pages_are_read_whole(client, names):
    def page(**more):
        return bytes.fromhex(client.call("pollux_nvme_read", name="Nvme0n2", **more)["data"])
    assert len(page(page="identify", id=1)) == 4096
    assert page(page="identify", id=0)[:8] == BLOCKS.to_bytes(8, "little")
    assert page(page="identify", id=2, nsid=0)[:12] == bytes([1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0])
    assert len(page(page="log", id=2)) == 512 and len(page(page="log", id=2, bytes=4)) == 4
    assert client.refused("pollux_nvme_read", name="Nvme0", page="log", id=2, bytes=6)[0] == EINVAL
    code, message = client.refused("pollux_nvme_read", name="Nvme0", page="log", id=0xde)
    assert (code, "Invalid Log Page" in message) == (-5, True), message


@pytest.mark.parametrize("name", ["Nvme0", "plain"])
def test_a_server_ends_while_a_controller_is_asked(machine, name):
    """The answer comes when nobody is there to hear of it."""
    with Server(env=machine.env) as server, server.client() as client:
        attach(client)
        client.call("pollux_disk_open", url=f"pcie://{A}/1", name="plain")
        machine.tell(A, "fault", LATE, 0, GET_LOG_PAGE, 1, 3000000)
        client.send("bdev_nvme_get_controller_health_info", {"name": name})
        assert wait_until(lambda: machine.tell(A, "count", 0, GET_LOG_PAGE))
    machine.forget()


# ---- zones

ZONE = 4096


@pytest.fixture
def zoned():
    with Machine(f"{A},zoned={ZONE},blocks=65536") as machine:
        with Server(options=["--vhost", machine.folder], env=machine.env) as server, server.client() as client:
            attach(client)
            client.machine = machine
            yield client
        assert_content(server.stderr)


def test_a_zoned_disk_says_what_its_zones_are(zoned):
    disk = disks(zoned)["Nvme0n1"]
    assert (disk["zoned"], disk["zone_size"], disk["max_open_zones"], disk["optimal_open_zones"]) == (True, ZONE, 3, 3)
    types = disk["supported_io_types"]
    assert types["zone_append"] and types["zone_management"] and types["get_zone_info"] and types["write"]
    assert not any(types[name] for name in ("unmap", "write_zeroes", "copy", "compare_and_write"))
    zoned.call("bdev_malloc_create", name="plain", num_blocks=8, block_size=512)
    plain = disks(zoned)["plain"]
    assert not plain["zoned"] and "zone_size" not in plain and not plain["supported_io_types"]["zone_append"]


def test_a_zoned_disk_is_no_guests_and_no_pools(zoned):
    """Nor is what stands on it. Hosts get it as it is: test_zoned.py."""
    for name in "Nvme0n1", "slow":
        if name == "slow":
            zoned.call("bdev_delay_create", base_bdev_name="Nvme0n1", name=name, avg_read_latency=1,
                       p99_read_latency=1, avg_write_latency=1, p99_write_latency=1)
        code, message = zoned.refused("bdev_lvol_create_lvstore", lvs_name="pool", bdev_name=name)
        assert f"{name} is zoned" in message, (code, message)
        code, message = zoned.refused("vhost_create_blk_controller", ctrlr="guest", dev_name=name)
        assert f"{name} is zoned" in message, (code, message)


def test_writes_to_zones_are_not_kept_back(zoned):
    code, message = zoned.refused("pollux_disk_open", url="crash:Nvme0n1", name="crash")
    assert "is zoned" in message, (code, message)


def test_what_zones_are_is_printed():
    with Machine(f"{A},zoned={ZONE},blocks=65536") as machine:
        done = run(machine, "identify", f"pcie://{A}")
        assert "\nmar     : 0x3\nmor     : 0x2\n" in done.stdout and "\nzsze    : 0x1000\n" in done.stdout, done.stdout
        shown = json.loads(run(machine, "identify", "--json", f"pcie://{A}").stdout)
        assert shown["namespaces"][0]["zsze"] == ZONE
    with Machine(A) as machine:
        assert "zsze" not in run(machine, "identify", f"pcie://{A}").stdout


# ---- by name: served, measured, copied

def two_cores():
    cores = sorted(os.sched_getaffinity(0))[:2]
    return "-m", ",".join(map(str, cores))


def test_two_namespaces_are_served_on_two_cores(machine):
    with Target(f"pcie://{A}/1", f"pcie://{A}/2", f"pcie://{B}", options=two_cores(), env=machine.env) as target:
        hosts = [Bystander(target.address, target.nqn, nsid=1 + n % 3, first=1000 * n) for n in range(6)]
        for host in hosts:
            host.close()
        assert machine.tell(A, "enables") == machine.tell(B, "enables") == 1
    assert_content(target.stderr)


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_guests_have_it(machine, tmp_path, packed):
    with Target(f"pcie://{A}/1", options=["--vhost", tmp_path], env=machine.env) as target:
        [path] = [path for path in tmp_path.iterdir() if path.is_socket()]
        with vhost.Frontend(path, packed=packed).start(queues=2) as front:
            for n in range(32):
                data = os.urandom(64 << 10)
                assert front.write(128 * n, data) == vhost.OK
                assert front.read(128 * n, len(data), queue=n % 2) == (vhost.OK, data)
    assert_content(target.stderr)


def test_what_is_written_outlives_a_kill(tmp_path):
    """Of a program that is killed nobody shuts the device down; the next one takes it as it is."""
    data = random.Random(7).randbytes(64 * BLOCK)
    with Machine(f"{A},file={tmp_path / 'medium'}") as machine:
        with Target(f"pcie://{A}", env=machine.env) as target:
            for turn in range(3):
                with Controller(target.address, target.nqn, io_queues=1) as host:
                    if turn:
                        assert host.read(1, 64 * (turn - 1), 64) == data
                    host.write(1, 64 * turn, data)
                    host.flush()
                    if turn < 2:
                        target.restart(kill=True)
        assert_content(target.stderr)


def test_perf_reads_what_it_has_written(machine):
    done = run(machine, "perf", *two_cores(), "--verify", "-w", "randrw", "-q", 16, "-t", 1, f"pcie://{A}/1",
               f"pcie://{A}/2", f"pcie://{B}")
    assert done.returncode == 0, done.stderr


def test_a_copy_is_a_copy(machine, tmp_path):
    image = tmp_path / "disk.img"
    medium = tmp_path / "medium"
    image.write_bytes(random.Random(1).randbytes(BLOCK * BLOCKS))
    with Machine(f"{A},file={medium}", B) as other:
        for words in (["cp", image, f"pcie://{A}"], ["cp", f"pcie://{A}", tmp_path / "back.img"]):
            done = run(other, *words)
            assert done.returncode == 0, done.stderr
        done = run(other, "cp", f"pcie://{A}", f"pcie://{B}")
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "back.img").read_bytes() == image.read_bytes()
    assert medium.read_bytes()[:BLOCK * BLOCKS] == image.read_bytes()
