# SPDX-License-Identifier: BSD-3-Clause
"""`pollux serve -r SOCKET`, told by calls to be another while the kernel's host writes and verifies all the time."""
import json
import os
import signal
import tempfile

import pytest
from conftest import VerifiedLoad
from controlled import address
from guest import HOST_ADDRESS

MIB = 1 << 20
NQN = "nqn.2026-01.example:controlled"
OTHER = f"{NQN}-too"
HOST = "nqn.2014-08.org.nvmexpress:uuid:00000000-0000-4000-8000-706f6c6c7578"  # as the guest's init says
STRANGER = "nqn.2014-08.org.nvmexpress:uuid:44444444-4444-4444-8444-444444444444"
# Lost paths are tried again soon, and for longer than any test takes.
CONNECT = "--nr-io-queues=2 --reconnect-delay=1 --ctrl-loss-tmo=600 --keep-alive-tmo=60"
LOG_CHANGED = "0x70f002"  # asynchronous event: notice, Discovery Log Page Change, log page 70h (Base 5.2.1, figure 152)

# What the kernel says of namespaces that go while it reads their partition tables.
OTHERS_GO = r"nvme\d+n[2-9]|nvme\d+c\d+n[2-9]|nsid=[2-9]|ldm_validate_partition_table|callbacks suppressed"


@pytest.fixture
def folder():
    """For files that are served; in memory, as the last flush of a busy machine's disk may take too long."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as path:
        yield path


def set_size(path, mib):
    """Of a file, which is made when it is not there."""
    with open(path, "ab") as file:
        file.truncate(mib * MIB)
    return path


def add_file(target, folder, name, mib, nqn=NQN, **namespace):
    """A new file as a namespace. (its path, its identifier)"""
    path = set_size(f"{folder}/{name}", mib)
    target.call("bdev_aio_create", name=name, filename=path)
    return path, target.call("nvmf_subsystem_add_ns", nqn=nqn, namespace={"bdev_name": name, **namespace})


@pytest.fixture
def target(controlled):
    """A program with a subsystem, to be told more."""
    program = controlled(NQN)
    program.call("nvmf_create_transport", trtype="TCP")
    program.call("nvmf_create_subsystem", nqn=NQN, allow_any_host=True)
    program.add_listener(NQN)
    return program


@pytest.fixture
def disk(target, folder):
    """The file that is namespace 1."""
    path, nsid = add_file(target, folder, "disk", 32)
    assert nsid == 1
    return path


@pytest.fixture
def load(host, target, disk):  # pylint: disable=unused-argument
    """fio on namespace 1 of the host, which is connected, for the whole test. In the end it has found nothing wrong."""
    [device] = host.connect(target, CONNECT)
    with VerifiedLoad(host, device) as running:
        yield running


def size_seen(host, device, mib):
    """Waits until the host has noticed the size."""
    host.guest.wait_until(f"[ $(blockdev --getsize64 {device}) = {mib * MIB} ]")


def ends_with_errors(load):
    """Waits until a load ends because its disk is gone, or not its own any more; what it had read was right."""
    status, output = load.job.wait()
    assert status == 1 and "verify: bad" not in output, f"exit status {status}\n{output}"
    return output


def test_namespaces_appear_grow_and_go(host, target, load, disk, folder):
    """The host notices by itself, and goes on with the others."""
    host.expect(rf"{OTHERS_GO}|nvme\d+n\d: detected capacity change")
    path, nsid = add_file(target, folder, "second", 8)
    target.call("bdev_null_create", name="third", num_blocks=8 * MIB // 512, block_size=512)
    assert target.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "third", "nsid": 7}) == 7
    devices = host.wait_namespaces(NQN, 1, nsid, 7)
    for device in (devices[nsid], devices[7]):
        size_seen(host, device, 8)
    with VerifiedLoad(host, devices[nsid], "--size=4M") as second:
        set_size(path, 16)
        target.call("bdev_aio_rescan", name="second")
        target.call("bdev_null_resize", name="third", new_size=24)
        size_seen(host, devices[nsid], 16)
        size_seen(host, devices[7], 24)
        set_size(disk, 48)
        set_size(path, 12)  # smaller is a size, too
        target.process.send_signal(signal.SIGHUP)
        size_seen(host, load.device, 48)
        size_seen(host, devices[nsid], 12)
        second.goes_on()
        target.call("nvmf_subsystem_remove_ns", nqn=NQN, nsid=7)
        host.wait_namespaces(NQN, 1, nsid)
        second.goes_on()
    load.goes_on()
    doomed = VerifiedLoad(host, devices[nsid], "--size=4M")
    doomed.goes_on()
    target.call("nvmf_subsystem_remove_ns", nqn=NQN, nsid=nsid)
    ends_with_errors(doomed)
    host.wait_namespaces(NQN, 1)
    target.call("bdev_aio_delete", name="second")
    load.goes_on()


def test_a_disk_is_deleted_under_load(host, target, load):
    """Commands at it end, and nothing else is taken down: not its neighbour, and not its subsystem."""
    host.expect(OTHERS_GO)
    for name in ("goes", "stays"):
        target.call("bdev_malloc_create", name=name, num_blocks=8 * MIB // 512, block_size=512)
        target.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": name})
    devices = host.wait_namespaces(NQN, 1, 2, 3)
    with VerifiedLoad(host, devices[3], "--size=4M") as neighbour:
        doomed = VerifiedLoad(host, devices[2], "--size=4M")
        doomed.goes_on()
        target.call("bdev_malloc_delete", name="goes")
        ends_with_errors(doomed)
        host.wait_namespaces(NQN, 1, 3)
        assert [each["name"] for each in target.call("bdev_get_bdevs")] == ["disk", "stays"]
        [subsystem] = target.call("nvmf_get_subsystems", nqn=NQN)
        assert [each["nsid"] for each in subsystem["namespaces"]] == [1, 3]
        neighbour.goes_on()
        load.goes_on()
    host.wait_controllers(nvme0="live")


@pytest.fixture
def second_port(host, target, load):
    """The port of a second listener, which the host is connected to, too."""
    port = target.add_listener(NQN, ana_state="non_optimized")
    host.sh(f"nvme connect -t tcp -a {HOST_ADDRESS} -s {port} -n {NQN} {CONNECT}")
    host.wait_controllers(nvme0="live", nvme1="live")
    load.goes_on()
    return port


def set_states(host, target, ports, *states):
    """Sets the ANA states of the two listeners, and waits until the host has them."""
    for port, state in zip(ports, states):
        target.call("nvmf_subsystem_listener_set_ana_state", nqn=NQN, listen_address=address(port), ana_state=state)
    wanted = " ".join(states).replace("_", "-")
    host.guest.wait_until(f"""
        cd /sys/class/nvme
        [ "$(cat nvme0/nvme0c0n1/ana_state) $(cat nvme1/nvme0c1n1/ana_state)" = "{wanted}" ]""")


def states_listed(host):
    """The same two, as `nvme list-subsys` shows them."""
    [listed] = json.loads(host.sh("nvme list-subsys /dev/nvme0n1 -o json"))
    [subsystem] = listed["Subsystems"]
    states = {path["Name"]: path["ANAState"].replace("-", "_") for path in subsystem["Paths"]}
    return states["nvme0"], states["nvme1"]


def sectors_moved(host):
    """By path to namespace 1."""
    stat = [host.sh(f"cat /sys/class/nvme/nvme{i}/nvme0c{i}n1/stat").split() for i in range(2)]
    return [int(fields[2]) + int(fields[6]) for fields in stat]


def test_paths_become_inaccessible_and_come_back(host, target, load, second_port):
    """I/O is where the target wants it to be, and none of it fails."""
    host.expect(r"no usable path - requeuing|callbacks suppressed")
    ports = target.port, second_port
    best, second, none = "optimized", "non_optimized", "inaccessible"
    for states, used in (((best, second), 0), ((none, second), 1), ((best, second), 0), ((second, best), 1),
                         ((second, none), 0), ((none, best), 1)):
        set_states(host, target, ports, *states)
        assert states_listed(host) == states
        load.goes_on()  # what was under way is over
        before = sectors_moved(host)
        load.goes_on()
        after = sectors_moved(host)
        assert after[used] > before[used] and after[not used] == before[not used], f"{states}: {before}, {after}"
    set_states(host, target, ports, none, none)
    host.guest.wait_until("dmesg | grep -q 'no usable path - requeuing I/O'")
    set_states(host, target, ports, second, none)
    load.goes_on()


def test_access_is_revoked_and_restored(host, target, load, folder):
    """At one of two subsystems: the host is disconnected there, refused when it comes back, and nowhere else."""
    host.expect(r"nvme nvme1|nvme1|not allowed|Connect|nvme_tcp: ")
    target.call("nvmf_create_subsystem", nqn=OTHER)
    target.call("nvmf_subsystem_add_host", nqn=OTHER, host=HOST)
    add_file(target, folder, "other", 8, nqn=OTHER)
    port = target.add_listener(OTHER)
    connect = f"nvme connect -t tcp -a {HOST_ADDRESS} -s {port} -n {OTHER} {CONNECT}"
    for revoke, restore in (("nvmf_subsystem_remove_host", "nvmf_subsystem_add_host"),) * 2:
        host.sh(connect)
        device = host.wait_namespaces(OTHER, 1)[1]
        doomed = VerifiedLoad(host, device, "--size=4M")
        doomed.goes_on()
        target.call(revoke, nqn=OTHER, host=HOST)
        ends_with_errors(doomed)
        host.wait_controllers(nvme0="live")
        assert host.run(connect)[0] != 0
        assert "is not allowed, hostnqn" in host.log(), "the kernel knows this from the status Connect Invalid Host"
        load.goes_on()
        target.call(restore, nqn=OTHER, host=HOST)
    host.sh(connect)
    with VerifiedLoad(host, host.wait_namespaces(OTHER, 1)[1], "--size=4M"):
        # Every host may come, also one that is no longer named; then nobody may.
        target.call("nvmf_subsystem_allow_any_host", nqn=OTHER, allow_any_host=True)
        target.call("nvmf_subsystem_remove_host", nqn=OTHER, host=HOST)
        host.wait_controllers(nvme0="live", nvme1="live")
    target.call("nvmf_subsystem_allow_any_host", nqn=OTHER, allow_any_host=False)
    host.wait_controllers(nvme0="live")
    assert host.run(connect)[0] != 0


@pytest.fixture
def events(host):
    """events(): how many times a discovery controller of the host has been told that the log has changed."""
    where = "/tmp/events"
    listener = host.guest.spawn(f"""exec busybox uevent sh -c 'echo "$SUBSYSTEM $NVME_AEN" >>{where}'""")
    host.guest.wait_until(f"echo change >/sys/class/nvme/nvme0/uevent; grep -q ^nvme {where}", during=[listener])
    yield lambda: int(host.run(f"grep -c {LOG_CHANGED} {where}")[1])
    listener.kill()


def test_discovery_is_told_of_what_changes(host, target, load, events):
    """A persistent discovery controller hears of listeners, subsystems and referrals that come and go, and what it
    then reads of them is so."""
    discover = f"nvme discover {host.address(target)} -o json"
    first, heard = target.port, events()

    def log(device=""):
        found = json.loads(host.sh(f"{discover} {device}"))["records"]
        return sorted((each["subtype"], each["subnqn"], int(each["trsvcid"])) for each in found
                      if each["subtype"] != "current discovery subsystem")

    def changes(*expected):
        """The log has changed to this. It is read then, so that the next change is told of again: not by
        libnvme 1.3 alone, which reads a log of more than 4 KiB in parts, all of them with RAE."""
        nonlocal heard
        host.guest.wait_until(f"[ $(grep -c {LOG_CHANGED} /tmp/events) -gt {heard} ]")
        heard = events()
        host.sh("nvme get-log /dev/nvme1 --log-id=0x70 --log-len=1024")
        found = log("--device=nvme1")
        assert found == log() == sorted(expected)
        load.goes_on()

    host.sh(f"{discover} --persistent --keep-alive-tmo=60")
    host.wait_controllers(nvme0="live", nvme1="live")
    here = [("nvme subsystem", NQN, first)]
    assert log("--device=nvme1") == here
    second = target.add_listener(NQN)
    both = [*here, ("nvme subsystem", NQN, second)]
    changes(*both)
    target.call("nvmf_create_subsystem", nqn=OTHER, allow_any_host=True)
    target.call("nvmf_subsystem_add_listener", nqn=OTHER, listen_address=address(second))
    changes(*both, ("nvme subsystem", OTHER, second))
    target.call("nvmf_subsystem_allow_any_host", nqn=OTHER, allow_any_host=False)
    changes(*both)
    elsewhere = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "192.0.2.1", "trsvcid": "8009"}
    target.call("nvmf_discovery_add_referral", address=elsewhere)
    changes(*both, ("discovery subsystem referral", "nqn.2014-08.org.nvmexpress.discovery", 8009))
    target.call("nvmf_discovery_remove_referral", address=elsewhere)
    changes(*both)
    target.call("nvmf_subsystem_remove_listener", nqn=NQN, listen_address=address(second))
    changes(*here)


def test_killed_it_comes_back_as_it_was(host, target, load, disk, folder):
    """It is as after its last acknowledged change. The host reconnects by itself, goes on, and all data is there."""
    host.expect(rf"{OTHERS_GO}|nvme nvme\d+: |nvme_tcp: |no usable path - requeuing|detected capacity change")
    sizes = {1: 32}

    def killed():
        target.kill()
        target.start()
        devices = host.wait_namespaces(NQN, *sizes)
        for nsid, mib in sizes.items():
            size_seen(host, devices[nsid], mib)
            host.sh(f"[ ! -e /tmp/data{nsid} ] || cmp -n {MIB} /tmp/data{nsid} {devices[nsid]}")
        host.wait_controllers(nvme0="live")
        load.goes_on()
        return devices

    for nsid in (2, 3, 4):
        path, got = add_file(target, folder, f"disk{nsid}", 4, nsid=nsid)
        assert got == nsid
        sizes[nsid] = nsid * 4
        set_size(path, sizes[nsid])
        device = killed()[nsid]
        host.sh(f"dd if=/dev/urandom of=/tmp/data{nsid} bs=64k count=16 status=none"
                f" && dd if=/tmp/data{nsid} of={device} bs=64k oflag=direct status=none")
    target.call("nvmf_subsystem_remove_ns", nqn=NQN, nsid=3)
    del sizes[3]
    killed()


class Registrant:
    """A host in its dealings with reservations of namespace 1: by its controller, as one namespace is all that it
    has. The block device takes whichever of its paths is best, and so belongs to several hosts."""

    def __init__(self, host, controller, key):
        self.host, self.device, self.key = host, f"/dev/{controller}", key

    def command(self, name, **options):
        options = " ".join(f"--{option}={value}" for option, value in options.items())
        self.host.sh(f"nvme resv-{name} {self.device} --namespace-id=1 {options}")

    def register(self):
        self.command("register", nrkey=self.key, rrega=0, cptpl=3)

    def acquire(self):
        self.command("acquire", crkey=self.key, rtype=1, racqa=0)  # Write Exclusive

    def preempt(self, other):
        self.command("acquire", crkey=self.key, prkey=other.key, rtype=1, racqa=1)

    def release(self):
        self.command("release", crkey=self.key, rtype=1, rrela=0)

    def report(self):
        """(type, whether it is kept, {key: whether it has the reservation}, generation)"""
        found = json.loads(self.host.sh(f"nvme resv-report {self.device} --namespace-id=1 --eds -o json"))
        holders = {each["rkey"]: each["rcsts"] & 1 for each in found["regctlext"]}
        return found["rtype"], found["ptpls"], holders, found["gen"]

    def may_write(self):
        """Whether it may write the last block, which no load writes."""
        status, output = self.host.run(f"nvme io-passthru {self.device} --namespace-id=1 --opcode=1 --cdw10=65535"
                                       " --data-len=512 --write --input-file=/dev/zero")
        assert not status or "conflict" in output.lower(), output
        return not status


def test_a_reservation_is_preempted_and_kept(host, target, folder):
    """By another host, while the first one writes: that ends. The target is killed, and all is as it was."""
    host.expect(r"nvme nvme\d+: |nvme_tcp: |no usable path - requeuing|nvme0c\d+n1|nvme0n1|deprecated"
                r"|callbacks suppressed")
    add_file(target, folder, "disk", 32, ptpl_file=f"{folder}/reservations")
    ports = target.port, target.add_listener(NQN, ana_state="non_optimized")
    [device] = host.connect(target, CONNECT)
    host.sh(f"nvme connect -t tcp -a {HOST_ADDRESS} -s {ports[1]} -n {NQN} {CONNECT} --hostnqn={STRANGER}"
            f" --hostid={STRANGER[-36:]}")
    host.wait_controllers(nvme0="live", nvme1="live")
    first, second = Registrant(host, "nvme0", 0xa), Registrant(host, "nvme1", 0xb)
    first.register()
    second.register()
    first.acquire()
    assert first.report() == (1, 1, {0xa: 1, 0xb: 0}, 2)
    doomed = VerifiedLoad(host, device)
    doomed.goes_on()
    assert first.may_write() and not second.may_write()
    second.preempt(first)
    assert second.report() == (1, 1, {0xb: 1}, 3)
    assert second.may_write() and not first.may_write()
    assert "Invalid exchange" in ends_with_errors(doomed), "that is what the kernel makes of Reservation Conflict"
    # From here on the block device is the second host's alone, also while only the first one has reconnected.
    set_states(host, target, ports, "inaccessible", "optimized")
    with VerifiedLoad(host, device) as load:
        for _ in range(2):
            target.kill()
            target.start()
            host.wait_controllers(nvme0="live", nvme1="live")
            load.goes_on()
            assert second.report() == (1, 1, {0xb: 1}, 3)
    set_states(host, target, ports, "non_optimized", "optimized")
    assert second.may_write() and not first.may_write()
    second.release()
    assert first.may_write()
