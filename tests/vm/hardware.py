# SPDX-License-Identifier: BSD-3-Clause
"""Virtual hardware with vhost-user disks: devices that come and go while the guest runs, and what is on their disks.

The guest runs on QEMU's software CPU, which does not see that another process writes to its memory: so its programs
are in an initramfs, and never on the disks that are served."""
import hashlib
import os
from pathlib import Path

import pytest
from guest import GuestError
from target import wait_until

MIB = 1 << 20
FIO = "fio --name=verify --ioengine=libaio --iodepth=16 --direct=1 --verify=crc32c --verify_fatal=1 --randrepeat=0"
# The kernel's nvme-tcp may send in the name of the process that reads or writes, and without MSG_NOSIGNAL: where the
# target has closed the connection, the signal ends that process instead of the request being tried again.
NO_SIGPIPE = "trap '' PIPE; "
CORES = ("--cores", ",".join(map(str, sorted(os.sched_getaffinity(0))[:2])))  # queues are spread over them
F_RING_PACKED = 34  # virtio 1.2, 6
SLOTS = range(0x10, 0x1f)  # of the PCI bus, free for what is plugged

RINGS = pytest.mark.parametrize("rings", [{"queues": 1}, {"queues": 4}, {"queues": 1, "packed": True},
                                          {"queues": 4, "packed": True}],
                                ids=["1-queue", "4-queues", "1-queue-packed", "4-queues-packed"])


def shared(size="1G"):
    """Options of QEMU for a machine whose memory is a file that it shares, so that others can have requests and data in
    it. There is room for more, which would be of another node."""
    return ("-m", f"{size},slots=2,maxmem=4G", "-object", f"memory-backend-memfd,id=mem,size={size},share=on",
            "-numa", "node,nodeid=0,memdev=mem", "-numa", "node,nodeid=1")


def built_in(socket, slot, driver="vhost-user-blk-pci", **properties):
    """Options of QEMU for a device that is there from the beginning."""
    words = "".join(f",{key}={value}" for key, value in properties.items())
    return ("-chardev", f"socket,id=cold{slot},path={socket}",
            "-device", f"{driver},chardev=cold{slot},addr={slot:x}{words}")


def block_at(guest, slot):
    """The block device that is in a slot of the guest's PCI bus, or behind what is there, once its kernel has it."""
    at = f"/sys/bus/pci/devices/0000:00:{slot:02x}.0/virtio*"
    found = guest.wait_until(f"ls -d {at}/block/* {at}/host*/target*/*/block/* 2>/dev/null | grep .").split()[0]
    device = f"/dev/{os.path.basename(found)}"
    guest.wait_until(f"[ -b {device} ]")
    return device


class Machine:
    """The virtual hardware of a host: devices come and go."""

    def __init__(self, host):
        self.host, self.qmp, self.sh, self.wait_until = host, host.guest.qmp, host.sh, host.guest.wait_until
        self.plugged = {}

    def plug(self, socket, queues=4, packed=False):
        """Plugs a disk: its block device in the guest."""
        return self.found(self.plug_device(socket, "vhost-user-blk-pci", {"num-queues": queues}, packed, reconnect=1))

    def plug_scsi(self, socket, queues=4, packed=False):
        """Plugs a SCSI host: its number in the guest. QEMU 7.2 does not connect again for those."""
        slot = self.plug_device(socket, "vhost-user-scsi-pci", {"num_queues": queues}, packed)
        where = self.wait_until(f"ls -d /sys/bus/pci/devices/{self.address(slot)}/virtio*/host*").split()[0]
        return int(where.rpartition("host")[2])

    def plug_device(self, socket, driver, queues, packed, **chardev):
        slot = next(slot for slot in SLOTS if slot not in self.plugged.values())
        name = f"disk{slot}"
        backend = {"addr": {"type": "unix", "data": {"path": str(socket)}}, "server": False} | chardev
        self.qmp("chardev-add", id=name, backend={"type": "socket", "data": backend})
        self.plugged[name] = slot
        self.qmp("device_add", exact=queues, driver=driver, id=name, chardev=name, packed=packed, addr=f"{slot:#x}")
        return slot

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
