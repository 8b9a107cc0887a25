# SPDX-License-Identifier: BSD-3-Clause
"""A target that is changed while the kernel's host looks at it, and writes and verifies all the time."""
import os
import random
import tempfile

import pytest
from conftest import VerifiedLoad
from control import Refused
from guest import HOST_ADDRESS
from target import free_port

MIB = 1 << 20
NQN = "nqn.2026-01.example:changed"
HOST = "nqn.2014-08.org.nvmexpress:uuid:00000000-0000-4000-8000-706f6c6c7578"  # as the guest's init says
STRANGER = "nqn.2014-08.org.nvmexpress:uuid:44444444-4444-4444-8444-444444444444"
# Lost paths are tried again soon, and for longer than any test takes.
CONNECT = "--nr-io-queues=2 --reconnect-delay=1 --ctrl-loss-tmo=600 --keep-alive-tmo=60"

# What the kernel says of namespaces that go while it reads their partition tables.
OTHERS_GO = r"nvme\d+n[2-9]|nvme\d+c\d+n[2-9]|nsid=[2-9]|ldm_validate_partition_table|error: \d+ callbacks suppressed"


@pytest.fixture
def target(control):
    """A program with a subsystem, to be told more."""
    program = control(reactors=2)
    program.nqn = NQN
    program("subsystem", NQN, "any-host")
    return program


@pytest.fixture
def disk(target):
    """The file that is namespace 1; in memory, as the last flush of a busy machine's disk may take too long."""
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        file.truncate(32 * MIB)
        target("open", "disk", file.name)
        assert target("add-ns", NQN, "disk") == 1
        yield file.name


@pytest.fixture
def device(host, target, disk):  # pylint: disable=unused-argument
    """The block device of namespace 1 in the host, which is connected."""
    target.port = target("listen", f"127.0.0.1:{free_port()}")
    target("start")
    [path] = host.connect(target, CONNECT)
    return path


@pytest.fixture
def load(host, device):
    """fio on namespace 1, for the whole test. In the end it has found nothing wrong."""
    with VerifiedLoad(host, device) as running:
        yield running


def test_the_load_notices_what_is_wrong(host, device, disk):
    """Blocks that change behind the target's back are what fio has to complain of."""
    load = VerifiedLoad(host, device)
    load.goes_on()
    with open(disk, "r+b") as file:
        while not load.job.done():
            file.seek(0)
            file.write(bytes(16 * MIB))
            file.flush()
            os.fsync(file.fileno())
    status, output = load.job.wait()
    assert status == 1 and "verify" in output, output


def test_namespaces_come_and_go(host, target, load):
    """The host notices by itself. What it writes to one that goes ends with an error, and nothing else does."""
    host.expect(OTHERS_GO)
    for size in (8, 16):
        target("open", "second", f"ram:{size}M")
        assert target.change("add-ns", NQN, "second") == 2
        device = host.wait_namespaces(NQN, 1, 2)[2]
        assert int(host.sh(f"blockdev --getsize64 {device}")) == size * MIB
        writer = host.guest.spawn(
            f"while dd if=/dev/zero of={device} bs=1M count=8 oflag=direct status=none; do :; done")
        host.wait_progress(device, 1024, writer)
        load.goes_on()
        target.change("remove-ns", NQN, 2)
        host.wait_namespaces(NQN, 1)
        writer.wait()
        target("close", "second")
        load.goes_on()


def test_a_namespace_is_attached_to_this_host_and_taken_from_it(host, target, load):
    """As one that comes and goes; what is attached to a stranger is none of this host's."""
    host.expect(OTHERS_GO)
    target("open", "second", "ram:8M")
    target.change("add-ns", NQN, "second", 2, 1, "masked")
    target.change("attach", NQN, 2, STRANGER)
    load.goes_on()
    host.wait_namespaces(NQN, 1)
    for _ in range(2):
        target.change("attach", NQN, 2, HOST)
        device = host.wait_namespaces(NQN, 1, 2)[2]
        writer = host.guest.spawn(
            f"while dd if=/dev/zero of={device} bs=1M count=8 oflag=direct status=none; do :; done")
        host.wait_progress(device, 1024, writer)
        load.goes_on()
        target.change("detach", NQN, 2, HOST)
        host.wait_namespaces(NQN, 1)
        writer.wait()
        load.goes_on()


def test_many_changes_in_a_row(host, target, load):
    """The host need not have noticed one before the next is made; in the end it has what there is."""
    host.expect(OTHERS_GO)
    source = random.Random(8)
    there = set()
    for nsid in range(2, 8):
        target("open", f"disk{nsid}", f"ram:{nsid}M")
    for _ in range(100):
        nsid = source.randrange(2, 8)
        if nsid in there:
            target("remove-ns", NQN, nsid)
        else:
            target("add-ns", NQN, f"disk{nsid}", nsid)
        there ^= {nsid}
        if source.randrange(3):
            target("apply")
    target("apply")
    devices = host.wait_namespaces(NQN, 1, *sorted(there))
    for nsid in there:
        assert int(host.sh(f"blockdev --getsize64 {devices[nsid]}")) == nsid * MIB


def test_a_disk_that_grows_and_shrinks(host, target, load, disk):
    host.expect(r"nvme\d+n1: detected capacity change")
    for size in (48, 32):
        os.truncate(disk, size * MIB)
        target("rescan", "disk")
        host.guest.wait_until(f"[ $(blockdev --getsize64 {load.device}) = {size * MIB} ]")
        load.goes_on()


def test_hosts_are_let_in_and_shut_out(host, target, load):
    """A stranger, who is shut out while he is connected. The other one is not disturbed."""
    host.expect(r"nvme nvme1|nvme1|nvme0c1n1|not allowed|Connect")
    # nvme-cli takes the same subsystem at the same address for the same
    port = target("listen", f"127.0.0.1:{free_port()}")
    connect = (f"nvme connect -t tcp -a {HOST_ADDRESS} -s {port} -n {NQN} --hostnqn={STRANGER}"
               f" --hostid={STRANGER[-36:]} {CONNECT}")
    target("allow", NQN, HOST)
    target.change("disallow", NQN, "any")
    load.goes_on()
    assert host.run(connect)[0] != 0
    assert "is not allowed, hostnqn" in host.log(), "the kernel knows this from the status Connect Invalid Host"
    target.change("allow", NQN, STRANGER)
    host.sh(connect)
    host.wait_controllers(nvme0="live", nvme1="live")
    load.goes_on()
    target.change("disallow", NQN, STRANGER)
    host.wait_controllers(nvme0="live")
    load.goes_on()
    assert host.run(connect)[0] != 0


@pytest.fixture
def second_path(host, target, load):
    """The port of a second listener, which the host is connected to, too."""
    host.expect(r"nvme nvme\d+: ")
    port = target.change("listen", "127.0.0.1:0")
    host.sh(f"nvme connect -t tcp -a {HOST_ADDRESS} -s {port} -n {NQN} {CONNECT}")
    host.wait_controllers(nvme0="live", nvme1="live")
    load.goes_on()
    return port


def test_listeners_come_and_go(host, target, load, second_path):
    """There is always the other one."""
    host.expect(r"nvme_tcp: |no usable path - requeuing|nvme\d+c\d+n1")
    for port, name in ((target.port, "nvme0"), (second_path, "nvme1"), (target.port, "nvme0")):
        states = {"nvme0": "live", "nvme1": "live"}
        target.change("unlisten", port)
        host.wait_controllers(**states | {name: "connecting"})
        load.goes_on()
        assert target.change("listen", f"127.0.0.1:{port}") == port
        host.wait_controllers(**states)
        load.goes_on()


def test_ana_states(host, target, load, second_path):
    """The host goes where the target wants it to."""
    def set_states(first, second):
        target("ana", NQN, target.port, 0, first)
        target.change("ana", NQN, second_path, 0, second)
        host.guest.wait_until(f"""
            cd /sys/class/nvme
            [ "$(cat nvme0/nvme0c0n1/ana_state) $(cat nvme1/nvme0c1n1/ana_state)" = "{first} {second}" ]""")

    def served(path):
        """How many sectors have been moved by that path."""
        return sum(int(host.sh(f"cat /sys/class/nvme/{path}/stat").split()[field]) for field in (2, 6))

    set_states("optimized", "non-optimized")
    for states, idle in ((("non-optimized", "optimized"), "nvme0/nvme0c0n1"), (("optimized", "inaccessible"),
                                                                               "nvme1/nvme0c1n1"),
                         (("inaccessible", "non-optimized"), "nvme0/nvme0c0n1"), (("optimized", "change"),
                                                                                  "nvme1/nvme0c1n1")):
        set_states(*states)
        load.goes_on()  # what was under way is over
        before = served(idle)
        load.goes_on()
        assert served(idle) == before, f"{states}: I/O at {idle}"
    set_states("inaccessible", "inaccessible")
    host.guest.wait_until("dmesg | grep -q 'no usable path - requeuing I/O'")
    set_states("optimized", "optimized")
    load.goes_on()


def test_a_namespace_changes_its_ana_group(host, target, load, second_path):
    """By the second path group 2 is better; the host goes there with its namespace."""
    target("ana", NQN, target.port, 2, "inaccessible")
    for group, states in ((2, "inaccessible optimized"), (1, "optimized optimized")):
        target.change("ns-group", NQN, 1, group)
        host.guest.wait_until(f"""
            cd /sys/class/nvme
            [ "$(cat nvme0/nvme0c0n1/ana_grpid)" = {group} ]
            [ "$(cat nvme0/nvme0c0n1/ana_state) $(cat nvme1/nvme0c1n1/ana_state)" = "{states}" ]""")
        load.goes_on()
    assert second_path


def test_a_subsystem_is_removed(host, target, load):
    """Its host is disconnected for good; that of another subsystem notices nothing."""
    host.expect(r"nvme nvme1|nvme1|nvme_tcp: ")
    other = f"{NQN}-too"
    target("open", "other", "ram:8M")
    target("subsystem", other, "any-host")
    target("add-ns", other, "other")
    target("apply")
    host.sh(f"nvme connect {host.address(target)} -n {other} {CONNECT}")
    host.wait_controllers(nvme0="live", nvme1="live")
    target.change("remove-subsystem", other)
    target("close", "other")
    host.guest.wait_until("[ ! -e /sys/class/nvme/nvme1 ] || [ $(cat /sys/class/nvme/nvme1/state) = connecting ]")
    load.goes_on()
    assert host.run(f"nvme connect {host.address(target)} -n {other}")[0] != 0


def test_what_is_wrong_changes_nothing(target, load):
    """Commands that are refused leave what is served as it was."""
    for words in (("add-ns", NQN, "disk"), ("add-ns", NQN, "disk", 1), ("remove-ns", NQN, 2), ("disallow", NQN, HOST),
                  ("close", "disk"), ("subsystem", NQN), ("listen", f"127.0.0.1:{target.port}")):
        with pytest.raises(Refused):
            target(*words)
    target("apply")
    load.goes_on()
