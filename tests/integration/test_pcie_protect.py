# SPDX-License-Identifier: BSD-3-Clause
"""SSDs whose blocks have metadata and protection information: what clients are told, and what hosts see of it."""
import contextlib
import os
import random

import pytest

import sqe
from host import Bystander, Controller
from nvmetcp import CommandError
from pcie import A, BLOCK, BLOCKS, Machine, assert_content, model
from rpc import Server, listen
from spec import Io
from target import Target, wait_until

NQN = "nqn.2001-01.example:protected"
ENOTSUP = -95
GUARD, APPLICATION, REFERENCE = 0x282, 0x283, 0x284

pytestmark = pytest.mark.skipif(not os.access(model(), os.X_OK), reason=f"no {model()}: build with -Dtests=true")


@pytest.fixture(autouse=True)
def program(monkeypatch):
    """What runs is the command with controllers of its own."""
    monkeypatch.setenv("POLLUX", str(model()))


@pytest.fixture
def machine(request):
    with Machine(f"{A},{getattr(request, 'param', 'metadata=8,pi=1')}") as made:
        yield made


@pytest.fixture
def client(machine):
    with Server(env=machine.env) as server, server.client() as connected:
        connected.server = server
        yield connected
    assert_content(server.stderr)


def attach(client, **more):
    return client.call("bdev_nvme_attach_controller", name="Nvme0", trtype="PCIe", traddr=A, **more)


def serve(client):
    client.call("nvmf_create_transport", trtype="TCP")
    client.call("nvmf_create_subsystem", nqn=NQN, allow_any_host=True)
    client.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "Nvme0n1"})
    return "127.0.0.1", listen(client, NQN)


def disk(client):
    [found] = client.call("bdev_get_bdevs", name="Nvme0n1")
    return found


def ends_with(status, call, *words):
    with pytest.raises(CommandError) as error:
        call(*words)
    assert error.value.status & 0x7ff == status, hex(error.value.status)


def told_of(client):
    return [line for line in client.server.stderr.splitlines() if "Check Error" in line]


# ---- what it is

@pytest.mark.parametrize("machine,told", [
    ("metadata=8,pi=1", {"md_size": 8, "md_interleave": False, "dif_type": 1, "dif_is_head_of_md": False,
                         "dif_pi_format": 0}),
    ("metadata=64,pi=2,pif=2,pi_first=1,interleaved=1", {"md_size": 64, "md_interleave": True, "dif_type": 2,
                                                         "dif_is_head_of_md": True, "dif_pi_format": 2}),
    ("metadata=16,pi=3", {"md_size": 16, "md_interleave": False, "dif_type": 3, "dif_is_head_of_md": False,
                          "dif_pi_format": 0}),
    ("metadata=16", {"md_size": 16, "md_interleave": False, "dif_type": 0}),
    ("block=512", {}),
], indirect=["machine"], ids=str)
def test_what_blocks_have_is_told(client, told):
    """The disk is one of the blocks' data."""
    attach(client)
    found = disk(client)
    assert (found["block_size"], found["num_blocks"]) == (BLOCK, BLOCKS)
    members = ("md_size", "md_interleave", "dif_type", "dif_is_head_of_md", "dif_pi_format")
    assert {key: found[key] for key in members if key in found} == told
    assert ("enabled_dif_check_types" in found) == bool(told.get("dif_type"))
    types = found["supported_io_types"]
    assert all(types[name] for name in ("read", "write", "flush", "unmap", "write_zeroes", "compare"))


@pytest.mark.parametrize("options,checked", [
    ({}, (True, True)), ({"prchk_guard": True}, (True, True)),
    ({"prchk_reftag": True, "prchk_guard": True}, (True, True)),
    ({"prchk_reftag": False}, (True, False)), ({"prchk_guard": False}, (False, True)),
    ({"prchk_guard": False, "prchk_reftag": False}, (True, True)),  # by the controller
], ids=str)
def test_what_is_checked_is_told_and_kept(client, options, checked):
    attach(client, **options)
    types = disk(client)["enabled_dif_check_types"]
    assert (types["guard"], types["reftag"], types["apptag"]) == (*checked, False)
    groups = client.groups()
    [params] = [call["params"] for group in groups["subsystems"] for call in group["config"] or []
                if call["method"] == "bdev_nvme_attach_controller"]
    assert {key: params[key] for key in params if key.startswith("prchk")} == options


@pytest.mark.parametrize("machine,words", [
    ("metadata=16,pi=1,pif=1", "guards of 32 bits; 16 and 64 bits are possible"),
    ("metadata=16,pi=1,pif=2,sts=8", "storage tags of 8 bits; format it without"),
    ("metadata=512", "metadata of 512 bytes a block; up to 256 are possible"),
], indirect=["machine"], ids=str)
def test_what_cannot_be_is_refused(client, words):
    code, message = client.refused("bdev_nvme_attach_controller", name="Nvme0", trtype="PCIe", traddr=A)
    assert (code, words in message) == (ENOTSUP, True), message


# ---- what hosts see

@pytest.mark.parametrize("options", [{}, {"prchk_guard": False, "prchk_reftag": False}], ids=["here", "controller"])
@pytest.mark.parametrize("machine", ["metadata=8,pi=1", "metadata=16,pi=2,pif=2,interleaved=1", "metadata=64,pi=3",
                                     "metadata=64,pi=1,pif=2,pi_first=1", "metadata=8"],
                         indirect=True, ids=str)
def test_hosts_have_a_disk(client, options):
    attach(client, **options)
    bystander = Bystander(serve(client), NQN)
    bystander.check()
    bystander.close()


@pytest.mark.parametrize("options", [{}, {"prchk_guard": False, "prchk_reftag": False}], ids=["here", "controller"])
@pytest.mark.parametrize("machine,flips", [
    ("metadata=8,pi=1", {3: GUARD, BLOCK + 1: GUARD, BLOCK + 3: 0, BLOCK + 7: REFERENCE}),
    ("metadata=8,pi=1,lax=1", {3: GUARD, BLOCK + 1: GUARD, BLOCK + 3: 0, BLOCK + 7: REFERENCE}),
    ("metadata=16,pi=2,pif=2,interleaved=1", {3: GUARD, BLOCK + 7: GUARD, BLOCK + 9: 0, BLOCK + 15: REFERENCE}),
    ("metadata=16,pi=3,pif=2", {3: GUARD, BLOCK + 7: GUARD, BLOCK + 9: 0, BLOCK + 15: 0}),
], indirect=["machine"], ids=str)
def test_hosts_are_told_what_is_wrong(client, machine, options, flips, request):
    """And everybody else: the statistics, and the log, once with the block."""
    if "lax" in request.node.name and options:
        pytest.skip("nobody looks: the controller does not, though it is left to it")
    attach(client, **options)
    with Controller(serve(client), NQN, io_queues=1) as host:
        wrong = 0
        for turn, (byte, status) in enumerate(flips.items()):
            lba = 1000 + 16 * turn
            data = random.Random(turn).randbytes(16 * BLOCK)
            host.write(1, lba, data)
            machine.tell(A, "flip", 1, lba + 5, byte, 2)
            if status:
                ends_with(status, host.read, 1, lba, 16)
                wrong += 1
            assert host.read(1, lba, 5) == data[:5 * BLOCK]
            assert host.read(1, lba + 6, 10) == data[6 * BLOCK:]
            host.write(1, lba + 5, data[5 * BLOCK:6 * BLOCK])
            assert host.read(1, lba, 16) == data
        [told] = client.call("bdev_get_iostat", name="Nvme0n1")["bdevs"]
        assert told["num_read_ops"] > wrong
    assert wait_until(lambda: len(told_of(client)) == wrong), told_of(client)
    lines = told_of(client)
    assert all("Nvme0n1: block" in line for line in lines)
    if "lax" in request.node.name:
        assert "Nvme0n1: block 1005: End-to-end Guard Check Error" in lines[0]
    else:
        assert "Nvme0n1: blocks 1000 to 1015: End-to-end Guard Check Error, says the controller" in lines[0]
        health = client.call("bdev_nvme_get_controller_health_info", name="Nvme0")
        assert int(health["media_errors"]) == wrong


@pytest.mark.parametrize("hops", [0, 1], ids=["here", "behind-another-target"])
def test_a_verify_is_the_controllers(client, machine, hops):
    """No data is read for it, by nobody on the way."""
    attach(client)
    address, nqn = serve(client), NQN
    with contextlib.ExitStack() as stack:
        if hops:
            near = stack.enter_context(Target(f"nvme+tcp://127.0.0.1:{address[1]}/{NQN}"))
            address, nqn = near.address, near.nqn
        host = stack.enter_context(Controller(address, nqn, io_queues=1))
        host.write(1, 1000, bytes(16 * BLOCK))
        machine.tell(A, "flip", 1, 1005, 3, 2)
        reads, verifies = machine.tell(A, "count", 1, Io.READ), machine.tell(A, "count", 1, Io.VERIFY)
        assert host.io.execute(sqe.verify(1, 1000, 16)).status == GUARD
        host.io.must(sqe.verify(1, 1000, 5))
        host.io.must(sqe.verify(1, 1006, 10))
        assert machine.tell(A, "count", 1, Io.READ) == reads
        assert machine.tell(A, "count", 1, Io.VERIFY) == verifies + 3
    assert wait_until(lambda: told_of(client))
    assert "Nvme0n1: blocks 1000 to 1015: End-to-end Guard Check Error, says the controller" in told_of(client)[0]


def test_an_application_tag_that_is_wanted_is_checked(client, machine):
    client.call("pollux_disk_open", url=f"pcie://{A}/1?apptag=258", name="Nvme0n1")
    assert disk(client)["enabled_dif_check_types"] == {"reftag": True, "apptag": True, "guard": True}
    with Controller(serve(client), NQN, io_queues=1) as host:
        host.write(1, 7, bytes(BLOCK))
        assert host.read(1, 7, 1) == bytes(BLOCK)
        machine.tell(A, "flip", 1, 7, BLOCK + 2, 0)
        ends_with(APPLICATION, host.read, 1, 7, 1)
    assert wait_until(lambda: told_of(client))
    assert "Nvme0n1: block 7: End-to-end Application Tag Check Error, says the controller" in told_of(client)[0]


def test_a_reset_disturbs_nobody(client, machine):
    attach(client)
    bystander = Bystander(serve(client), NQN)
    for turn in range(5):
        before = machine.tell(A, "enables")
        client.call("bdev_nvme_reset_controller", name="Nvme0")
        assert machine.tell(A, "enables") == before + 1, turn
        bystander.check()
    bystander.close()
