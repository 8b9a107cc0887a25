# SPDX-License-Identifier: BSD-3-Clause
"""Disks of virtual machines: QEMU's vhost-user-blk-pci and Linux's virtio_blk, on sockets of `pollux serve --vhost`.

The guest runs on QEMU's software CPU, which does not see that another process writes to its memory: so its programs
are in an initramfs, and never on the disks that are served."""
import hashlib
import os
import re
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest
from conftest import VerifiedLoad, vm_image
from guest import QEMU, Guest, GuestError
from target import wait_until

MIB = 1 << 20
FIO = "fio --name=verify --ioengine=libaio --iodepth=16 --direct=1 --verify=crc32c --verify_fatal=1 --randrepeat=0"
KILLS = int(os.environ.get("SOAK_KILLS", "10"))
SHARED = ("-object", "memory-backend-memfd,id=mem,size=1G,share=on", "-machine", "memory-backend=mem")
SLOTS = range(0x10, 0x1f)  # of the PCI bus, free for what is plugged
SOCKET = re.compile(r"^vhost-user at (\S+):.*\n", re.M)
F_RING_PACKED = 34  # virtio 1.2, 6

CORES = ("--cores", ",".join(map(str, sorted(os.sched_getaffinity(0))[:2])))  # queues are spread over them

RINGS = pytest.mark.parametrize("rings", [{"queues": 1}, {"queues": 4}, {"queues": 4, "packed": True}],
                                ids=["1-queue", "4-queues", "4-queues-packed"])
KINDS = pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])


@pytest.fixture(scope="module")
def guest(tmp_path_factory):
    """A machine whose memory is a file that QEMU shares, so that others can have requests and data in it."""
    with Guest(vm_image(), tmp_path_factory.mktemp("sharing"), devices=SHARED) as machine:
        yield machine


class Machine:
    """The virtual hardware: disks come and go."""

    def __init__(self, host):
        self.host, self.qmp, self.sh, self.wait_until = host, host.guest.qmp, host.sh, host.guest.wait_until
        self.plugged = {}

    def plug(self, socket, queues=4, packed=False):
        """Plugs a disk: its block device in the guest."""
        slot = next(slot for slot in SLOTS if slot not in self.plugged.values())
        name = f"disk{slot}"
        backend = {"addr": {"type": "unix", "data": {"path": str(socket)}}, "server": False, "reconnect": 1}
        self.qmp("chardev-add", id=name, backend={"type": "socket", "data": backend})
        self.plugged[name] = slot
        self.qmp("device_add", driver="vhost-user-blk-pci", id=name, chardev=name, num_queues=queues, packed=packed,
                 addr=f"{slot:#x}")
        return self.found(slot)

    def found(self, slot):
        """The device of a slot, once the guest's kernel has it."""
        where = self.wait_until(f"ls -d /sys/bus/pci/devices/{self.address(slot)}/virtio*/block/*").split()[0]
        device = f"/dev/{os.path.basename(where)}"
        self.wait_until(f"[ -b {device} ]")
        return device

    @staticmethod
    def address(slot):
        return f"0000:00:{slot:02x}.0"

    def unplug(self, name=None):
        """Asks the guest to let a disk go, as a person would; it is gone then."""
        name = name or next(iter(self.plugged))
        self.qmp("device_del", id=name)
        assert wait_until(lambda: not self.has(name), 120, 0.2), f"the guest does not let {name} go"
        assert wait_until(lambda: self.chardev_removed(name)), f"QEMU does not let the chardev of {name} go"
        self.plugged.pop(name)

    def has(self, name):
        return name in [each["name"] for each in self.qmp("qom-list", path="/machine/peripheral")]

    def chardev_removed(self, name):
        """A device that is gone may have its chardev for a moment yet."""
        try:
            self.qmp("chardev-remove", id=name)
        except GuestError as error:
            if "is busy" not in str(error):
                raise
            return False
        return True

    def unplug_all(self):
        while self.plugged:
            self.unplug()


@pytest.fixture
def machine(host):
    hardware = Machine(host)
    yield hardware
    host.run("umount /mnt 2>/dev/null")
    hardware.unplug_all()


@pytest.fixture
def work():
    """A directory for disks; in memory, as the last flush of a busy machine's disk may take too long."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as path:
        yield Path(path)


@pytest.fixture
def served(serve, work):
    """served(disk, ...): a target that has them on both networks, with `sockets`."""
    sockets = work / "sockets"
    sockets.mkdir()

    def start(*disks, options=()):
        target = serve(*disks, options=("--vhost", sockets, *options))
        assert wait_until(lambda: len(SOCKET.findall(target.stdout)) == len(disks)), target.stdout
        target.sockets = SOCKET.findall(target.stdout)
        return target
    return start


@pytest.fixture
def disk(work):
    return make_disk(work / "disk.img", 64 * MIB)


def make_disk(path, size, fill=False):
    """A file of that size: sparse, or filled with what no read of anything else could return."""
    with open(path, "wb") as file:
        file.truncate(size)
        if fill:
            file.write(os.urandom(size))
    return path


def digest_of(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digest_seen(machine, device):
    """The same, as the guest sees the disk's content, past its cache."""
    return machine.sh(f"dd if={device} bs=1M iflag=direct status=none | sha256sum").split()[0]


def sysfs(machine, device, attribute):
    return machine.sh(f"cat /sys/block/{os.path.basename(device)}/{attribute}").strip()


def agreed(machine, device, feature):
    return sysfs(machine, device, "device/features")[feature] == "1"


def held(target):
    """What a process has of its front-ends: descriptors, and maps of the memory that they share."""
    return target.descriptors(), Path(f"/proc/{target.pid}/maps").read_text().count("/memfd:")


# --- what the guest sees ---

@RINGS
def test_a_disk_is_what_it_is_here(machine, served, disk, rings):
    target = served(disk, f"file://{make_disk(disk.parent / 'big', 48 * MIB)}?block=4096", options=("--serial", "S1"))
    small, big = (machine.plug(socket, **rings) for socket in target.sockets)
    for device, size, block in ((small, 64, 512), (big, 48, 4096)):
        assert int(sysfs(machine, device, "size")) * 512 == size * MIB
        assert int(sysfs(machine, device, "queue/logical_block_size")) == block
        assert sysfs(machine, device, "serial") == "S1"
        assert sysfs(machine, device, "ro") == "0"
        assert sysfs(machine, device, "queue/write_cache") == "write back"
        assert int(sysfs(machine, device, "queue/discard_max_bytes")) > size * MIB, "all of it with one request"
        assert int(sysfs(machine, device, "queue/discard_granularity")) == 4096
        assert int(sysfs(machine, device, "queue/write_zeroes_max_bytes")) > size * MIB
        assert agreed(machine, device, F_RING_PACKED) == rings.get("packed", False)
        assert machine.sh(f"ls /sys/block/{os.path.basename(device)}/mq | wc -l").strip() == str(rings["queues"])


def test_a_serial_number_of_its_own(machine, served, disk):
    """Where none is given, disks can be told apart, and each keeps its own."""
    target = served(disk, "ram:16M")
    devices = [machine.plug(socket) for socket in target.sockets]
    serials = [sysfs(machine, device, "serial") for device in devices]
    assert serials[0] and serials[1] and serials[0] != serials[1]
    target.restart(kill=True)
    assert sysfs(machine, devices[0], "serial") == serials[0]


def test_read_only(machine, served, disk):
    make_disk(disk, 16 * MIB, fill=True)
    before = digest_of(disk)
    device = machine.plug(served(f"file://{disk}?ro=1").sockets[0])
    assert sysfs(machine, device, "ro") == "1"
    assert digest_seen(machine, device) == before
    assert machine.host.run(f"dd if=/dev/zero of={device} bs=4k count=1 oflag=direct")[0] != 0
    assert int(sysfs(machine, device, "queue/discard_max_bytes")) == 0
    assert digest_of(disk) == before


# --- data ---

@RINGS
def test_data(machine, served, disk, rings):
    make_disk(disk, 32 * MIB, fill=True)
    device = machine.plug(served(disk, options=CORES).sockets[0], **rings)
    assert digest_seen(machine, device) == digest_of(disk)
    machine.sh(f"{FIO} --filename={device} --rw=randrw --bsrange=512-1M --numjobs=4 --size=6M --offset_increment=8M",
               180)
    assert digest_seen(machine, device) == digest_of(disk)


def test_ext4(machine, served, work):
    disk = make_disk(work / "disk.img", 256 * MIB)
    device = machine.plug(served(disk).sockets[0])
    machine.sh(f"mkfs.ext4 -q {device} && mount -t ext4 {device} /mnt")
    machine.sh(f"{FIO} --filename=/mnt/direct --rw=randrw --bsrange=512-1M --size=24M", 180)
    machine.sh(f"{FIO} --filename=/mnt/cached --rw=randrw --bsrange=512-1M --size=24M --direct=0 --ioengine=psync"
               " --fsync=8", 180)
    machine.sh("cd /mnt && mkdir many && for i in $(seq 200); do echo $i >many/$i; done && sync")
    machine.sh("rm /mnt/direct && sync && fstrim -v /mnt")
    machine.sh(f"umount /mnt && e2fsck -fn {device}")
    machine.unplug_all()
    checked = subprocess.run(["e2fsck", "-fn", disk], capture_output=True, text=True)
    assert checked.returncode == 0, f"the file does not hold what the guest wrote\n{checked.stdout}{checked.stderr}"


def test_discard_and_zeroes(machine, served, disk):
    make_disk(disk, 32 * MIB, fill=True)
    content = bytearray(disk.read_bytes())
    device = machine.plug(served(disk).sockets[0])
    allocated = disk.stat().st_blocks
    # Offsets in which no block of a file system ends.
    ranges = (("", 8 * MIB, 4 * MIB), ("-z", 16 * MIB + 512, 512 * 7), ("-z", 17 * MIB, 10 * MIB))
    for options, offset, length in ranges:
        machine.sh(f"blkdiscard {options} -o {offset} -l {length} {device}")
        content[offset:offset + length] = bytes(length)
    machine.sh(f"sync {device}")
    assert disk.read_bytes() == content
    assert digest_seen(machine, device) == hashlib.sha256(content).hexdigest()
    assert disk.stat().st_blocks < allocated, "discarded space was not given back"


def test_hosts_and_guests_have_the_same_disk(machine, host, served, disk):
    """One process serves it to a host over NVMe/TCP, and to a virtual machine: each sees what the other writes."""
    target = served(disk)
    of_guest = machine.plug(target.sockets[0])
    [of_host] = host.connect(target, "--nr-io-queues=2")
    with VerifiedLoad(host, of_guest), VerifiedLoad(host, of_host, "--size=16M --offset=32M"):
        pass
    assert digest_seen(machine, of_guest) == digest_seen(machine, of_host) == digest_of(disk)


def test_memory_that_is_not_shared(served, disk):
    """QEMU only says that it cannot restore a ring; so it is said here what is missing. It is the BIOS that asks."""
    target = served(disk)
    plugged = ("-chardev", f"socket,id=c,path={target.sockets[0]}", "-device", "vhost-user-blk-pci,chardev=c")
    with subprocess.Popen([*QEMU, *plugged], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as qemu:
        try:
            assert wait_until(lambda: "no memory of the guest is shared" in target.stderr, 60), target.stderr
        finally:
            qemu.kill()
    assert "memory-backend-memfd,share=on" in target.stderr


# --- what changes while it runs ---

@KINDS
def test_resize_while_running(machine, served, disk, packed):
    target = served(disk)
    device = machine.plug(target.sockets[0], packed=packed)
    with VerifiedLoad(machine.host, device):
        for size in (96, 80):
            os.truncate(disk, size * MIB)
            os.kill(target.pid, signal.SIGHUP)
            machine.wait_until(f"[ $(cat /sys/block/{os.path.basename(device)}/size) = {size * MIB // 512} ]")
    machine.sh(f"{FIO} --filename={device} --rw=write --bs=64k --offset=72M --size=8M", 180)
    assert digest_seen(machine, device) == digest_of(disk)


def test_unplug_and_replug(machine, served, disk):
    target = served(disk)
    before = None
    for _ in range(3):
        device = machine.plug(target.sockets[0])
        before = before or held(target)
        with VerifiedLoad(machine.host, device):
            pass
        assert held(target) == before, "something of the front-end before this one was kept"
        machine.unplug()
        machine.wait_until(f"[ ! -e /sys/block/{os.path.basename(device)} ]")
    assert disk.read_bytes() != bytes(64 * MIB)


@KINDS
def test_the_driver_leaves_in_mid_io(machine, served, disk, packed):
    """The device is reset under it, and begins anew with the driver that comes next."""
    machine.host.expect("[Ee]rror|vd[a-z]")
    target = served(disk)
    device = machine.plug(target.sockets[0], packed=packed)
    [slot] = machine.plugged.values()
    driver = "/sys/bus/pci/drivers/virtio-pci"
    for _ in range(4):
        load = VerifiedLoad(machine.host, device)
        load.goes_on()
        machine.sh(f"echo {machine.address(slot)} >{driver}/unbind")
        assert load.job.wait()[0] != 0, "its disk has gone"
        machine.sh(f"echo {machine.address(slot)} >{driver}/bind")
        device = machine.found(slot)
    assert agreed(machine, device, F_RING_PACKED) == packed
    with VerifiedLoad(machine.host, device):
        pass
    assert digest_seen(machine, device) == digest_of(disk)


# --- when either dies ---

@KINDS
def test_killed_in_mid_write(machine, served, disk, packed):
    """The guest sees nothing of it: what was in flight is done by the next process."""
    target = served(disk, options=CORES)
    device = machine.plug(target.sockets[0], packed=packed)
    with VerifiedLoad(machine.host, device) as load:
        for _ in range(KILLS):
            load.goes_on(1024)
            target.restart(kill=True)
        load.goes_on()
    assert digest_seen(machine, device) == digest_of(disk)


def test_stopped_in_mid_write(machine, served, disk):
    """The same where it is asked to end, which has to have it end well within 5 s."""
    target = served(disk)
    device = machine.plug(target.sockets[0])
    with VerifiedLoad(machine.host, device) as load:
        for _ in range(3):
            load.goes_on(1024)
            target.restart()
        load.goes_on()
    assert digest_seen(machine, device) == digest_of(disk)


def test_a_guest_is_killed_in_mid_io(machine, served, disk, tmp_path):
    """The disk is there for the next one, and nothing is kept of the one that is gone."""
    target = served(disk)
    before = held(target)
    plugged = ("-chardev", f"socket,id=c,path={target.sockets[0]}",
               "-device", "vhost-user-blk-pci,chardev=c,num-queues=2")
    with Guest(vm_image(), tmp_path, cpus=2, devices=(*SHARED, *plugged)) as other:
        load = other.spawn(f"{VerifiedLoad.FIO} --filename=/dev/vda --size=16M")
        other.wait_until("read -r _ _ _ _ _ _ out _ </sys/block/vda/stat; [ $out -gt 4096 ]", during=[load])
    assert wait_until(lambda: held(target) == before), "something of the guest that is gone is kept"
    device = machine.plug(target.sockets[0])
    with VerifiedLoad(machine.host, device):
        pass
    assert digest_seen(machine, device) == digest_of(disk)
