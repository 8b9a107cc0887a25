# SPDX-License-Identifier: BSD-3-Clause
"""Remote controllers by calls: a gateway attaches what another server serves, and hosts use it through that while
paths, namespaces and subsystems come and go."""
import json
import socket
import threading
import uuid

import pytest

import sqe
from controller import Port, Subsystem
from host import Bystander, Controller, new_hostnqn
from nvmetcp import Closed, CommandError
from rpc import DISCOVERY, Server, free_port, listen, prepare, refused_start
from spec import Admin
from target import wait_until
from vhost import IN, IOERR, OK, Frontend

NQN = "nqn.2001-01.example:up"
OTHER = "nqn.2001-01.example:other"
GATEWAY = "nqn.2001-01.example:gateway"
BLOCKS = 2048

ENOENT, EIO, EEXIST, ENODEV, ENXIO, EINVAL = -2, -5, -17, -19, -6, -22
ETIMEDOUT, EALREADY, ECANCELED = -110, -114, -125


@pytest.fixture
def up():
    """The server whose disks are remote, and a client of it."""
    with Server() as server, server.client() as client:
        client.server = server
        yield client


@pytest.fixture
def gateway():
    with Server() as server, server.client() as client:
        client.server = server
        yield client


@pytest.fixture
def silent():
    """A port where connections are taken, and never answered."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield listener.getsockname()[1]


def where(port, **more):
    return {"trtype": "TCP", "traddr": "127.0.0.1", "adrfam": "IPv4", "trsvcid": str(port)} | more


def attach(gateway, port, name="Nvme0", **more):
    return gateway.call("bdev_nvme_attach_controller", **where(port, name=name, subnqn=NQN) | more)


def attach_refused(gateway, port, name="Nvme0", **more):
    return gateway.refused("bdev_nvme_attach_controller", **where(port, name=name, subnqn=NQN) | more)


def detach_path(gateway, port, name="Nvme0"):
    return gateway.call("bdev_nvme_detach_controller", **where(port, name=name))


def unlisten(up, port, nqn=NQN):
    up.call("nvmf_subsystem_remove_listener", nqn=nqn, listen_address=where(port))


def listen_again(up, port, nqn=NQN):
    up.call("nvmf_subsystem_add_listener", nqn=nqn, listen_address=where(port))


def add_disk(up, name, nqn=NQN, **more):
    """One more namespace."""
    up.call("bdev_malloc_create", name=name, num_blocks=BLOCKS, block_size=512)
    return up.call("nvmf_subsystem_add_ns", nqn=nqn, namespace={"bdev_name": name} | more)


def make_slow(gateway, name="slow", base="Nvme0n1"):
    """What stands on a remote disk."""
    return gateway.call("bdev_delay_create", name=name, base_bdev_name=base, uuid=str(uuid.uuid4()), avg_read_latency=1,
                        p99_read_latency=1, avg_write_latency=1, p99_write_latency=1)


def states(gateway, name="Nvme0"):
    """Of each path, by port."""
    [controller] = gateway.call("bdev_nvme_get_controllers", name=name)
    return {int(path["trid"]["trsvcid"]): path["state"] for path in controller["ctrlrs"]}


def controllers(gateway):
    return [controller["name"] for controller in gateway.call("bdev_nvme_get_controllers")]


def disks(gateway):
    return [disk["name"] for disk in gateway.call("bdev_get_bdevs")]


def io_paths(gateway):
    return [path for group in gateway.call("bdev_nvme_get_io_paths")["poll_groups"] for path in group["io_paths"]]


def current(gateway):
    return {int(path["transport"]["trsvcid"]) for path in io_paths(gateway) if path["current"]}


def serve_on(gateway, *names):
    """Has the gateway serve disks of its own, and returns its address."""
    gateway.call("nvmf_create_transport", trtype="TCP")
    gateway.call("nvmf_create_subsystem", nqn=GATEWAY, allow_any_host=True)
    for name in names:
        gateway.call("nvmf_subsystem_add_ns", nqn=GATEWAY, namespace={"bdev_name": name})
    return "127.0.0.1", listen(gateway, GATEWAY)


def mp_policies(client):
    return {disk["name"]: disk["driver_specific"]["mp_policy"] for disk in client.call("bdev_get_bdevs")
            if "nvme" in disk["driver_specific"]}


def config_of(client, method):
    return [call["params"] for call in client.call("framework_get_config", name="bdev") if call["method"] == method]


# ---- attaching

def test_a_disk_for_each_namespace(up, gateway):
    port = prepare(up, NQN)[1]
    add_disk(up, "second")
    assert attach(gateway, port) == ["Nvme0n1", "Nvme0n2"]
    [first, second] = gateway.call("bdev_get_bdevs")
    assert (first["name"], second["name"], second["num_blocks"]) == ("Nvme0n1", "Nvme0n2", BLOCKS)
    assert second["product_name"] == "NVMe disk"
    assert second["uuid"] == up.call("bdev_get_bdevs", name="second")[0]["uuid"]
    [controller] = gateway.call("bdev_nvme_get_controllers")
    [path] = controller["ctrlrs"]
    assert path["trid"] == where(port, subnqn=NQN)
    assert (controller["name"], path["state"]) == ("Nvme0", "enabled")
    assert path["cntlid"] in [c["cntlid"] for c in up.call("nvmf_subsystem_get_controllers", nqn=NQN)]
    assert path["host"]["nqn"] == up.call("nvmf_subsystem_get_controllers", nqn=NQN)[0]["hostnqn"]


def test_a_second_attach_is_one_more_path_or_refused(up, gateway):
    port, second = prepare(up, NQN)[1], listen(up, NQN)
    attach(gateway, port)
    code, text = attach_refused(gateway, port)
    assert code == EALREADY and "already exists with the specified network path" in text
    code, text = attach_refused(gateway, second, multipath="disable")
    assert code == EALREADY and "multipath is disabled" in text
    code, text = attach_refused(gateway, second, subnqn=OTHER)
    assert code == EINVAL and "different subnqn" in text
    code, text = attach_refused(gateway, second, hostnqn=new_hostnqn())
    assert code == EINVAL and "different hostnqn" in text
    assert list(states(gateway)) == [port]
    assert attach(gateway, second, multipath="failover") == ["Nvme0n1"]
    assert states(gateway) == {port: "enabled", second: "enabled"}
    assert disks(gateway) == ["Nvme0n1"]


@pytest.mark.parametrize("code,words,wrong", [
    (ENODEV, "0000:ff:1f.7", {"trtype": "PCIe", "traddr": "0000:ff:1f.7"}),
    (EINVAL, "Failed to parse trtype", {"trtype": "RDMA"}),
    (EINVAL, "Failed to parse trtype", {"trtype": "carrier pigeon"}),
    (EINVAL, "Failed to parse adrfam", {"adrfam": "IPv6"}),
    (EINVAL, "traddr", {"traddr": "localhost"}),
    (EINVAL, "traddr", {"traddr": "[::1]"}),
    (EINVAL, "trsvcid", {"trsvcid": "70000"}),
    (EINVAL, "trsvcid", {"trsvcid": "0"}),
    (EINVAL, "trsvcid", {"trsvcid": "4420x"}),
    (EINVAL, "subnqn", {"subnqn": "nqn"}),
    (EINVAL, "subnqn", {"subnqn": NQN + "?nsid=1"}),
    (EINVAL, "discovery", {"subnqn": DISCOVERY}),
    (EINVAL, "hostnqn", {"hostnqn": "nobody"}),
    (EINVAL, "TLS", {"psk": "key0"}),
    (EINVAL, "authentication", {"dhchap_key": "key0"}),
    (EINVAL, "authentication", {"dhchap_ctrlr_key": "key0"}),
    (EINVAL, "metadata", {"prchk_reftag": True}),
    (EINVAL, "metadata", {"prchk_guard": True}),
    (EINVAL, "ctrlr_loss_timeout_sec", {"ctrlr_loss_timeout_sec": -2}),
    (EINVAL, "reconnect_delay_sec", {"ctrlr_loss_timeout_sec": 10}),
    (EINVAL, "reconnect_delay_sec", {"ctrlr_loss_timeout_sec": 10, "reconnect_delay_sec": 11}),
    (EINVAL, "fast_io_fail_timeout_sec",
     {"ctrlr_loss_timeout_sec": 10, "reconnect_delay_sec": 1, "fast_io_fail_timeout_sec": 11}),
    (EINVAL, "fast_io_fail_timeout_sec",
     {"ctrlr_loss_timeout_sec": -1, "reconnect_delay_sec": 5, "fast_io_fail_timeout_sec": 4}),
    (EINVAL, "ctrlr_loss_timeout_sec", {"fast_io_fail_timeout_sec": 4}),
], ids=lambda value: str(value)[:60])
def test_what_is_not_here_is_refused(up, gateway, code, words, wrong):
    port = prepare(up, NQN)[1]
    refused = attach_refused(gateway, port, **wrong)
    assert refused[0] == code and words in refused[1], refused
    assert controllers(gateway) == []
    assert attach(gateway, port) == ["Nvme0n1"]


def test_a_subsystem_has_to_be_named(up, gateway):
    code, text = gateway.refused("bdev_nvme_attach_controller", name="Nvme0", **where(prepare(up, NQN)[1]))
    assert code == EINVAL and "subnqn is missing" in text


def test_an_attach_that_fails_leaves_nothing_behind(up, gateway):
    port = prepare(up, NQN)[1]
    code, text = attach_refused(gateway, free_port())
    assert code == EIO and "Input/output error" in text and "Connection refused" in text
    code, text = attach_refused(gateway, port, subnqn=OTHER)
    assert code == EIO
    assert controllers(gateway) == disks(gateway) == []
    gateway.call("bdev_malloc_create", name="Nvme0n1", num_blocks=BLOCKS, block_size=512)
    code, text = attach_refused(gateway, port)
    assert code == EEXIST, text
    assert controllers(gateway) == [] and disks(gateway) == ["Nvme0n1"]
    gateway.call("bdev_malloc_delete", name="Nvme0n1")
    assert attach(gateway, port) == ["Nvme0n1"]
    code, text = attach_refused(gateway, free_port())
    assert code == EIO
    assert states(gateway) == {port: "enabled"}
    assert config_of(gateway, "bdev_nvme_attach_controller")[0]["trsvcid"] == str(port)
    assert len(config_of(gateway, "bdev_nvme_attach_controller")) == 1


def test_no_more_disks_than_were_asked_for(up, gateway):
    port = prepare(up, NQN)[1]
    add_disk(up, "second")
    assert attach(gateway, port, max_bdevs=1) == ["Nvme0n1"]


def test_the_other_side_sees_who_we_are(up, gateway):
    me, port = new_hostnqn(), prepare(up, NQN)[1]
    up.call("nvmf_subsystem_allow_any_host", nqn=NQN, allow_any_host=False)
    up.call("nvmf_subsystem_add_host", nqn=NQN, host=me)
    assert attach_refused(gateway, port)[0] == EIO
    assert attach(gateway, port, hostnqn=me, hdgst=True, ddgst=True) == ["Nvme0n1"]
    with Controller(serve_on(gateway, "Nvme0n1"), GATEWAY, io_queues=1) as controller:
        controller.write(1, 0, b"digested" * 64)
        assert controller.read(1, 0, 1) == b"digested" * 64
        assert {c["hostnqn"] for c in up.call("nvmf_subsystem_get_controllers", nqn=NQN)} == {me}


# ---- paths, under verified I/O

def test_io_goes_on_while_paths_come_and_go(up, gateway):
    first, second, third = prepare(up, NQN)[1], listen(up, NQN), listen(up, NQN)
    attach(gateway, first)
    host = Bystander(serve_on(gateway, "Nvme0n1"), GATEWAY, blocks=BLOCKS)
    assert wait_until(lambda: current(gateway) == {first})
    attach(gateway, second)
    assert wait_until(lambda: len(io_paths(gateway)) == 2 and all(path["connected"] for path in io_paths(gateway)))
    host.check()
    detach_path(gateway, first)
    assert current(gateway) == {second} and list(states(gateway)) == [second]
    host.check()
    attach(gateway, first)
    attach(gateway, third)
    gateway.call("bdev_nvme_set_multipath_policy", name="Nvme0n1", policy="active_active")
    assert wait_until(lambda: current(gateway) == {first, second, third})
    host.check()
    gateway.call("bdev_nvme_reset_controller", name="Nvme0")
    assert current(gateway) == {first, second, third}
    host.check()
    gateway.call("bdev_nvme_set_multipath_policy", name="Nvme0n1", policy="active_passive")
    assert wait_until(lambda: len(current(gateway)) == 1)
    for _ in range(3):
        for port in (second, first, third):
            detach_path(gateway, port)
            attach(gateway, port)
    host.check()
    host.close()
    assert [disk["name"] for disk in gateway.call("bdev_get_bdevs")] == ["Nvme0n1"]


def test_io_goes_on_while_listeners_go_and_come(up, gateway):
    first, second = prepare(up, NQN)[1], listen(up, NQN)
    attach(gateway, first)
    attach(gateway, second)
    host = Bystander(serve_on(gateway, "Nvme0n1"), GATEWAY, blocks=BLOCKS)
    for port, left in ((first, second), (second, first)):
        unlisten(up, port)
        assert wait_until(lambda port=port: states(gateway)[port] == "reconnecting")
        assert wait_until(lambda left=left: current(gateway) == {left})
        host.check()
        listen_again(up, port)
        assert wait_until(lambda port=port: states(gateway)[port] == "enabled")
        assert wait_until(lambda: all(path["connected"] for path in io_paths(gateway)))
    host.close()


def test_an_inaccessible_path_is_not_used(up, gateway):
    first, second = prepare(up, NQN)[1], listen(up, NQN)
    attach(gateway, first)
    attach(gateway, second)
    host = Bystander(serve_on(gateway, "Nvme0n1"), GATEWAY, blocks=BLOCKS)
    up.call("nvmf_subsystem_listener_set_ana_state", nqn=NQN, listen_address=where(first), ana_state="inaccessible")

    def accessible():
        return {int(path["transport"]["trsvcid"]): path["accessible"] for path in io_paths(gateway)
                if path["connected"]}

    assert wait_until(lambda: accessible() == {first: False, second: True})
    assert current(gateway) == {second}
    host.close()


def test_requests_fail_when_no_path_is_left_for_long_enough(up, gateway):
    port = prepare(up, NQN)[1]
    attach(gateway, port, ctrlr_loss_timeout_sec=60, reconnect_delay_sec=1, fast_io_fail_timeout_sec=1)
    with Controller(serve_on(gateway, "Nvme0n1"), GATEWAY, io_queues=1) as controller:
        controller.read(1, 0, 1)
        unlisten(up, port)
        with pytest.raises(CommandError):
            controller.read(1, 0, 1)
        listen_again(up, port)
        assert wait_until(lambda: all(path["connected"] for path in io_paths(gateway)))
        controller.read(1, 0, 1)


def test_a_path_is_detached_by_what_is_said_of_it(up, gateway):
    first, second = prepare(up, NQN)[1], listen(up, NQN)
    attach(gateway, first)
    attach(gateway, second)
    code, text = gateway.refused("bdev_nvme_detach_controller", **where(free_port(), name="Nvme0"))
    assert code == ENXIO and "No such device or address" in text
    assert gateway.refused("bdev_nvme_detach_controller", name="Nvme0", subnqn=OTHER)[0] == ENXIO
    assert gateway.refused("bdev_nvme_detach_controller", name="Nvme0", trtype="RDMA")[0] == ENXIO
    assert gateway.call("bdev_nvme_detach_controller", name="Nvme0", trsvcid=str(second))
    assert list(states(gateway)) == [first]
    detach_path(gateway, first)  # the last one
    assert controllers(gateway) == disks(gateway) == []
    code, text = gateway.refused("bdev_nvme_detach_controller", name="Nvme0")
    assert code == ENODEV and "No such device" in text


def test_a_reset_makes_another_association(up, gateway):
    first, second = prepare(up, NQN)[1], listen(up, NQN)
    attach(gateway, first)
    attach(gateway, second)

    def cntlids():
        return [path["cntlid"] for path in gateway.call("bdev_nvme_get_controllers")[0]["ctrlrs"]]

    with Controller(serve_on(gateway, "Nvme0n1"), GATEWAY, io_queues=1) as controller:
        controller.write(1, 0, b"12345678" * 64)
        assert wait_until(lambda: all(path["connected"] for path in io_paths(gateway)))
        was, used = cntlids(), [path["cntlid"] for path in io_paths(gateway)]
        gateway.call("bdev_nvme_reset_controller", name="Nvme0", cntlid=was[0])
        now = cntlids()
        assert now[0] != was[0] and now[1] == was[1]
        now_used = [path["cntlid"] for path in io_paths(gateway)]
        assert now_used[0] != used[0] and now_used[1] == used[1]
        gateway.call("bdev_nvme_reset_controller", name="Nvme0")
        assert not set(cntlids()) & set(now)
        assert not {path["cntlid"] for path in io_paths(gateway)} & set(now_used)
        assert controller.read(1, 0, 1) == b"12345678" * 64
    code, text = gateway.refused("bdev_nvme_reset_controller", name="Nvme0", cntlid=was[0])
    assert code == ENODEV and "No such device" in text
    assert gateway.refused("bdev_nvme_reset_controller", name="none")[0] == ENODEV


# ---- namespaces that come and go

def test_namespaces_come_and_go(up, gateway):
    port = prepare(up, NQN)[1]
    attach(gateway, port)
    host = Bystander(serve_on(gateway, "Nvme0n1"), GATEWAY, blocks=BLOCKS)
    nsid = add_disk(up, "second")
    assert wait_until(lambda: disks(gateway) == ["Nvme0n1", f"Nvme0n{nsid}"])
    gateway.call("nvmf_subsystem_add_ns", nqn=GATEWAY, namespace={"bdev_name": f"Nvme0n{nsid}"})
    assert host.controller.namespaces() == [1, 2]
    host.check()
    up.call("nvmf_subsystem_remove_ns", nqn=NQN, nsid=nsid)
    assert wait_until(lambda: disks(gateway) == ["Nvme0n1"])
    assert wait_until(lambda: host.controller.namespaces() == [1])
    host.close()


def test_a_namespace_is_let_go_when_an_event_tells_so(up, gateway):
    """And not because a target that has come back has not got so far yet."""
    first, second = prepare(up, NQN)[1], listen(up, NQN)
    attach(gateway, first)
    attach(gateway, second)
    for port in (first, second):
        unlisten(up, port)
    assert wait_until(lambda: set(states(gateway).values()) == {"reconnecting"})
    up.call("nvmf_subsystem_remove_ns", nqn=NQN, nsid=1)
    for port in (first, second):
        listen_again(up, port)
    assert wait_until(lambda: set(states(gateway).values()) == {"enabled"})
    gateway.call("bdev_nvme_get_controller_health_info", name="Nvme0")  # behind the list of namespaces
    assert disks(gateway) == ["Nvme0n1"]
    add_disk(up, "second", nsid=7)
    assert wait_until(lambda: disks(gateway) == ["Nvme0n7"])


def comings(gateway, name):
    """What has been told of a disk: whether it came, in order."""
    return [note["type"] == "bdev_register" for note in gateway.call("notify_get_notifications") if note["ctx"] == name]


def test_a_namespace_that_comes_back_while_its_disk_is_closed(up, gateway):
    """Which takes as long as a host holds on to it."""
    port = prepare(up, NQN)[1]
    nsid = add_disk(up, "second")
    attach(gateway, port)
    address = serve_on(gateway, "Nvme0n1", f"Nvme0n{nsid}")
    with Controller(address, GATEWAY, io_queues=1) as host:
        host.io.answer_r2ts = False
        host.io.wait_r2t(host.io.submit(sqe.write(2, 0, 64), out=bytes(64 * 512)))
        up.call("nvmf_subsystem_remove_ns", nqn=NQN, nsid=nsid)
        assert wait_until(lambda: host.namespaces() == [1])
        up.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "second", "nsid": nsid})
        assert wait_until(lambda: comings(gateway, f"Nvme0n{nsid}") == [True, False, True])
    assert disks(gateway) == ["Nvme0n1", f"Nvme0n{nsid}"]


def test_that_a_disk_that_is_gone_was_not_kept_is_told(up, gateway, tmp_path):
    port = prepare(up, NQN)[1]
    nsid = add_disk(up, "second")
    (tmp_path / "kept").mkdir()
    with Server(options=["--state", tmp_path / "kept" / "state"]) as server, server.client() as client:
        attach(client, port)
        (tmp_path / "kept" / "state").unlink()
        (tmp_path / "kept").rmdir()
        up.call("nvmf_subsystem_remove_ns", nqn=NQN, nsid=nsid)
        assert wait_until(lambda: f"Nvme0n{nsid}: No such file or directory: it is done, but will be forgotten"
                          in server.stderr)
        assert disks(client) == ["Nvme0n1"]
        code, text = client.refused("bdev_nvme_detach_controller", name="Nvme0")
        assert code == ENOENT and "it is done, but will be forgotten" in text
        assert disks(client) == controllers(client) == []


def test_health(up, gateway):
    attach(gateway, prepare(up, NQN)[1])
    health = gateway.call("bdev_nvme_get_controller_health_info", name="Nvme0")
    assert health["model_number"] == "Pollux" and health["traddr"] == "127.0.0.1"
    numbers = {"temperature_celsius", "available_spare_percentage", "available_spare_threshold_percentage",
               "percentage_used", "data_units_read", "data_units_written", "host_read_commands", "host_write_commands",
               "controller_busy_time", "power_cycles", "power_on_hours", "unsafe_shutdowns", "media_errors",
               "num_err_log_entries", "warning_temperature_time_minutes",
               "critical_composite_temperature_time_minutes"}
    assert all(isinstance(health[name], int) for name in numbers)
    assert health["available_spare_percentage"] == 100
    assert gateway.refused("bdev_nvme_get_controller_health_info", name="none")[0] == ENODEV


# ---- detaching

def test_detaching_under_load_takes_all_that_stands_on_it(up, gateway):
    port = prepare(up, NQN)[1]
    attach(gateway, port)
    attach(gateway, port, name="Other")
    make_slow(gateway)
    address = serve_on(gateway, "slow", "Othern1")
    healthy = Bystander(address, GATEWAY, nsid=2, blocks=BLOCKS)
    loaded = Bystander(address, GATEWAY, nsid=1, first=BLOCKS, blocks=BLOCKS)
    loaded.check()
    assert gateway.call("bdev_nvme_detach_controller", name="Nvme0")
    assert disks(gateway) == ["Othern1"] and controllers(gateway) == ["Other"]
    assert wait_until(lambda: loaded.error)
    assert isinstance(loaded.error, (CommandError, Closed))
    healthy.close()
    assert config_of(gateway, "bdev_delay_create") == []


def test_detaching_leaves_alone_what_has_the_name_of_its_disk(up, gateway):
    port = prepare(up, NQN)[1]
    attach(gateway, port)
    gateway.call("pollux_disk_close", name="Nvme0n1")
    gateway.call("bdev_null_create", name="Nvme0n1", num_blocks=8, block_size=512)
    assert gateway.call("bdev_nvme_detach_controller", name="Nvme0")
    assert controllers(gateway) == [] and disks(gateway) == ["Nvme0n1"]


def test_a_controller_is_detached_under_a_virtual_machine(up, tmp_path):
    port = prepare(up, NQN)[1]
    add_disk(up, "second")
    with Server(options=["--vhost", tmp_path]) as server, server.client() as client:
        assert attach(client, port) == ["Nvme0n1", "Nvme0n2"]
        client.call("vhost_create_blk_controller", ctrlr="vm", dev_name="Nvme0n2")
        with Frontend(tmp_path / "vm") as front:
            front.start()
            assert front.run(IN, 0, into=512)[0] == OK
            assert client.call("bdev_nvme_detach_controller", name="Nvme0")
            assert disks(client) == controllers(client) == []
            assert front.run(IN, 0, into=512)[0] == IOERR


def test_detaching_ends_an_attach(gateway, silent):
    asked = gateway.send("bdev_nvme_attach_controller", where(silent, name="Nvme0", subnqn=NQN))
    with gateway.server.client() as other:
        assert wait_until(lambda: controllers(other) == ["Nvme0"])
        assert states(other) == {silent: "connecting"}
        assert config_of(other, "bdev_nvme_attach_controller") == []
        assert attach_refused(other, silent)[0] == EALREADY
        other.call("bdev_malloc_create", name="m", num_blocks=BLOCKS, block_size=512)  # nobody waits for it
        assert other.call("bdev_nvme_detach_controller", name="Nvme0")
        assert controllers(other) == []
    answer = gateway.receive()
    assert answer["id"] == asked and answer["error"]["code"] == ECANCELED


def test_the_last_path_that_disks_have_takes_the_controller_along(up, gateway, silent):
    """Whatever is being attached beside it."""
    port = prepare(up, NQN)[1]
    attach(gateway, port)
    gateway.send("bdev_nvme_attach_controller", where(silent, name="Nvme0", subnqn=NQN))
    with gateway.server.client() as other:
        assert wait_until(lambda: len(states(other)) == 2)
        detach_path(other, port)
        assert controllers(other) == disks(other) == []
    assert gateway.receive()["error"]["code"] == ECANCELED


def test_a_path_that_is_being_attached_is_detached_alone(up, gateway, silent):
    port = prepare(up, NQN)[1]
    attach(gateway, port)
    gateway.send("bdev_nvme_attach_controller", where(silent, name="Nvme0", subnqn=NQN))
    with gateway.server.client() as other:
        assert wait_until(lambda: len(states(other)) == 2)
        detach_path(other, silent)
        assert states(other) == {port: "enabled"} and disks(other) == ["Nvme0n1"]
    assert gateway.receive()["error"]["code"] == ECANCELED


def test_the_server_ends_while_attaching(up, silent):
    with Server() as server, server.client() as client, server.client() as other:
        attach(client, prepare(up, NQN)[1], name="there")
        client.send("bdev_nvme_attach_controller", where(silent, name="Nvme0", subnqn=NQN))
        client.send("bdev_nvme_attach_controller", where(silent, name="there", subnqn=NQN))
        client.send("bdev_nvme_start_discovery", where(silent, name="d", wait_for_attach=True))
        assert wait_until(lambda: controllers(other) == ["there", "Nvme0"]
                          and len(other.call("bdev_nvme_get_discovery_info")) == 1)
        server.stop()


# ---- discovery

def discover(gateway, port, name="d", **more):
    return gateway.call("bdev_nvme_start_discovery", **where(port, name=name) | more)


def make_other(up):
    up.call("nvmf_create_subsystem", nqn=OTHER, allow_any_host=True)
    add_disk(up, "other", OTHER)
    return listen(up, OTHER)


def test_discovery_follows_subsystems(up, gateway):
    port = prepare(up, NQN)[1]
    assert discover(gateway, port, wait_for_attach=True) is True
    assert disks(gateway) == ["d0n1"]
    [info] = gateway.call("bdev_nvme_get_discovery_info")
    assert info == {"name": "d", "trid": where(port, subnqn=DISCOVERY), "referrals": []}
    host = Bystander(serve_on(gateway, "d0n1"), GATEWAY, blocks=BLOCKS)
    other = make_other(up)
    assert wait_until(lambda: sorted(disks(gateway)) == ["d0n1", "d1n1"])
    second = listen(up, NQN)
    assert wait_until(lambda: states(gateway, "d0") == {port: "enabled", second: "enabled"})
    host.check()
    unlisten(up, second)
    assert wait_until(lambda: states(gateway, "d0") == {port: "enabled"})
    host.check()
    unlisten(up, other, OTHER)
    assert wait_until(lambda: disks(gateway) == ["d0n1"] and controllers(gateway) == ["d0"])
    listen_again(up, other, OTHER)
    assert wait_until(lambda: sorted(disks(gateway)) == ["d0n1", "d1n1"])
    host.close()
    assert gateway.call("bdev_nvme_stop_discovery", name="d") is True
    assert disks(gateway) == controllers(gateway) == gateway.call("bdev_nvme_get_discovery_info") == []
    assert gateway.refused("bdev_nvme_stop_discovery", name="d")[0] == ENOENT


def test_discovery_that_cannot_start(up, gateway, silent):
    port = prepare(up, NQN)[1]
    code, text = gateway.refused("bdev_nvme_start_discovery", **where(free_port(), name="d", wait_for_attach=True))
    assert code == EIO and "Connection refused" in text
    code, text = gateway.refused("bdev_nvme_start_discovery", **where(silent, name="d", attach_timeout_ms=200))
    assert code == ETIMEDOUT
    assert gateway.call("bdev_nvme_get_discovery_info") == []
    discover(gateway, port, wait_for_attach=True)
    code, text = gateway.refused("bdev_nvme_start_discovery", **where(free_port(), name="d"))
    assert code == EEXIST
    code, text = gateway.refused("bdev_nvme_start_discovery", **where(port, name="e"))
    assert code == EEXIST
    assert gateway.refused("bdev_nvme_start_discovery", **where(port, name="f", trtype="RDMA"))[0] == EINVAL
    assert gateway.refused("bdev_nvme_start_discovery", **where(port, name="f", hostnqn="me"))[0] == EINVAL


def test_discovery_waits_for_a_target_that_is_not_there_yet(up, gateway):
    prepare(up, NQN)
    port = free_port()
    assert discover(gateway, port) is True
    listen_again(up, port)
    assert wait_until(lambda: disks(gateway) == ["d0n1"])


def test_stopping_discovery_ends_its_start(gateway, silent):
    gateway.send("bdev_nvme_start_discovery", where(silent, name="d", wait_for_attach=True))
    with gateway.server.client() as other:
        assert wait_until(lambda: other.call("bdev_nvme_get_discovery_info"))
        assert other.call("bdev_nvme_stop_discovery", name="d")
        assert other.call("bdev_nvme_get_discovery_info") == []
    assert gateway.receive()["error"]["code"] == ECANCELED


# ---- configurations

def test_a_configuration_comes_back_as_it_was(up, gateway, tmp_path):
    first, second = prepare(up, NQN)[1], listen(up, NQN)
    other = make_other(up)
    gateway.call("bdev_nvme_set_options", keep_alive_timeout_ms=7000, multipath_opts={"policy": "active_active"})
    gateway.call("bdev_nvme_set_hotplug", enable=True, period_us=5)
    attach(gateway, first, hdgst=True, num_io_queues=4)
    attach(gateway, second, hdgst=True)
    attach(gateway, first, name="Passive", multipath_opts={"policy": "active_passive"})
    gateway.call("bdev_nvme_set_multipath_policy", name="Nvme0n1", policy="active_passive")
    discover(gateway, other, wait_for_attach=True)
    gateway.call("bdev_nvme_set_multipath_policy", name="Passive", policy="active_active")
    gateway.call("bdev_nvme_set_multipath_policy", name="d1", policy="active_active")
    make_slow(gateway)
    address = serve_on(gateway, "slow", "Passiven1", "d1n1")
    with Controller(address, GATEWAY, io_queues=1) as controller:
        controller.write(1, 0, b"kept" * 128)
    dump, policies = gateway.dump(), mp_policies(gateway)
    assert policies == {"Nvme0n1": "active_passive", "Passiven1": "active_active", "d0n1": "active_passive",
                        "d1n1": "active_active"}
    names = [call["method"] for call in gateway.call("framework_get_config", name="bdev")]
    assert names.index("bdev_nvme_attach_controller") < names.index("bdev_nvme_start_discovery") \
        < names.index("bdev_delay_create")
    gateway.server.stop()
    saved = tmp_path / "saved.json"
    saved.write_text(json.dumps(dump))
    with Server(options=("-c", saved)) as again, again.client() as client:
        assert client.dump() == dump and mp_policies(client) == policies
        with Controller(address, GATEWAY, io_queues=1) as controller:
            assert controller.namespaces() == [1, 2, 3]
            assert controller.read(1, 0, 1) == b"kept" * 128
    for port in (first, second):
        unlisten(up, port)
    status, text = refused_start("-r", tmp_path / "sock", "-c", saved)
    [line] = [line for line in text.splitlines() if " info: " not in line]
    assert status == 2 and "bdev_nvme_attach_controller" in line and "Connection refused" in line


def test_calls_that_mean_nothing_here(up, gateway):
    attach(gateway, prepare(up, NQN)[1])
    assert gateway.refused("bdev_nvme_set_keys", name="none", dhchap_key="k")[0] == ENODEV
    code, text = gateway.refused("bdev_nvme_set_keys", name="Nvme0", dhchap_key="k")
    assert code == -95 and "authentication" in text
    code, text = gateway.refused("bdev_nvme_set_multipath_policy", name="Nvme0n1", policy="active_passive",
                                 selector="queue_depth")
    assert code == -32603
    assert gateway.refused("bdev_nvme_set_multipath_policy", name="none", policy="active_passive")[0] == ENODEV
    assert gateway.refused("bdev_nvme_get_controllers", name="none")[0] == ENODEV
    assert io_paths(gateway) == []


# ---- asked

@pytest.fixture
def mute():
    """A controller that does not tell of its health."""
    with Port(Subsystem(blocks=BLOCKS)) as port:
        port.asked = threading.Event()

        def on_admin(_, command):
            health = command.opcode == Admin.GET_LOG and command.cdw[10] & 0xff == 2
            if health:
                port.asked.set()
            return health
        port.on_admin = on_admin
        yield port


def test_a_disk_that_was_opened_by_name_has_health(up, gateway):
    port = prepare(up, NQN)[1]
    gateway.call("pollux_disk_open", url=f"nvme+tcp://127.0.0.1:{port}/{NQN}", name="plain")
    attach(gateway, port)
    plain, *others = [gateway.call("bdev_nvme_get_controller_health_info", name=name)
                      for name in ("plain", "Nvme0", "Nvme0n1")]
    assert (plain["traddr"], plain["temperature_celsius"]) == ("127.0.0.1", others[0]["temperature_celsius"])
    assert [other["serial_number"] for other in others] == [plain["serial_number"]] * 2
    before = len(up.call("nvmf_subsystem_get_controllers", nqn=NQN))
    gateway.call("bdev_nvme_get_controller_health_info", name="plain")
    assert wait_until(lambda: len(up.call("nvmf_subsystem_get_controllers", nqn=NQN)) <= before)


def test_a_server_ends_while_a_controller_is_asked(mute):
    with Server() as server, server.client() as client:
        client.call("pollux_disk_open", url=mute.url, name="plain")
        client.send("bdev_nvme_get_controller_health_info", {"name": "plain"})
        assert mute.asked.wait(20)


def test_a_controller_that_vanishes_while_it_is_asked_has_no_health(mute, gateway):
    gateway.call("pollux_disk_open", url=mute.url, name="plain")
    gateway.send("bdev_nvme_get_controller_health_info", {"name": "plain"})
    assert mute.asked.wait(20)
    mute.close()
    assert gateway.receive()["error"]["code"] == EIO
