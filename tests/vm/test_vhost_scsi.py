# SPDX-License-Identifier: BSD-3-Clause
"""QEMU's vhost-user-scsi-pci, and Linux' virtio-scsi driver: units of a host as disks of a guest."""
import os
import sys

import pytest
from conftest import HERE, VerifiedLoad
from hardware import CORES, F_RING_PACKED, FIO, MIB, RINGS, digest_of, digest_seen, make_disk, sysfs

sys.path.append(str(HERE.parent / "integration"))

from rpc import Server  # noqa: E402

SIZE = 16 * MIB
REMOVED = r"Synchronize Cache\(10\) failed"  # what sd says of a disk that has gone


@pytest.fixture(scope="module")
def guest(sharing):
    sharing.sh("modprobe virtio_scsi; modprobe sd_mod; modprobe ext4")
    return sharing


class Units:
    """A SCSI host of the server, and what the guest has of it. Units are files, by the names of their disks."""

    def __init__(self, client, machine, work):
        self.client, self.machine, self.work = client, machine, work
        self.socket = work / "scsi"
        client.call("vhost_create_scsi_controller", ctrlr="scsi", num_queues=4, packed_ring=True)

    def plug(self, queues=4, packed=False):
        self.host = self.machine.plug_scsi(self.socket, queues, packed)

    def image(self, disk):
        return self.work / f"{disk}.img"

    def make(self, disk, block_size=512, size=SIZE):
        make_disk(self.image(disk), size, fill=True)
        self.client.call("bdev_aio_create", name=disk, filename=str(self.image(disk)), block_size=block_size)

    def add(self, disk, target, lun=0):
        self.client.call("vhost_scsi_controller_add_target", ctrlr="scsi", scsi_target_num=target, lun=lun,
                         bdev_name=disk)

    def remove(self, target, **lun):
        self.client.call("vhost_scsi_controller_remove_target", ctrlr="scsi", scsi_target_num=target, **lun)

    def resize(self, disk, size):
        os.truncate(self.image(disk), size)
        self.client.call("bdev_aio_rescan", name=disk)

    def found(self, target, lun=0):
        """The block device of a unit; which gets which name depends on which is looked at first."""
        at = f"/sys/class/scsi_device/{self.host}:0:{target}:{lun}/device/block"
        name = self.machine.wait_until(f"ls {at} && [ -b /dev/$(ls {at}) ]").strip()
        return f"/dev/{name}"

    def wait_gone(self, *places):
        """Waits until the guest has let all of these (target, lun) go."""
        self.machine.wait_until(" && ".join(f"[ ! -e /sys/class/scsi_device/{self.host}:0:{target}:{lun} ]"
                                            for target, lun in places))


@pytest.fixture
def units(work, machine):
    """Units whose host goes before the server does."""
    with Server(options=["--vhost", work, *CORES]) as server, server.client() as client:
        yield Units(client, machine, work)
        machine.host.expect(REMOVED)
        machine.unplug_all()


# --- what the guest sees ---

@RINGS
def test_units_are_disks(units, machine, rings):
    """Of two targets, with blocks of both sizes, on one queue and on one for each virtual CPU."""
    places = {"small": (0, 0, 512), "big": (0, 1, 4096), "far": (255, 255, 512)}
    for disk, (target, lun, block_size) in places.items():
        units.make(disk, block_size)
        units.add(disk, target, lun)
    units.plug(**rings)
    devices = {disk: units.found(target, lun) for disk, (target, lun, _) in places.items()}
    features = machine.sh(f"cat /sys/class/scsi_host/host{units.host}/device/../features").strip()
    assert features[F_RING_PACKED] == str(int(rings.get("packed", False)))
    for disk, device in devices.items():
        assert machine.sh(f"lsblk -bdno SIZE,LOG-SEC,DISC-MAX {device}").split() == [
            str(SIZE), str(places[disk][2]), "2147483648"]
        assert machine.sh(f"ls /sys/block/{os.path.basename(device)}/mq | wc -l").strip() == str(rings["queues"])
        assert digest_seen(machine, device) == digest_of(units.image(disk))
    jobs = [machine.host.guest.spawn(f"{FIO} --filename={device} --rw=randrw --bsrange=4k-256k --numjobs=4 --size=2M"
                                     " --offset_increment=4M") for device in devices.values()]
    for job in jobs:
        status, output = job.wait()
        assert status == 0, output
    for disk, device in devices.items():
        assert digest_seen(machine, device) == digest_of(units.image(disk))


def test_a_file_system(units, machine):
    units.make("fs", size=64 * MIB)
    units.add("fs", 3)
    units.plug()
    device = units.found(3)
    machine.sh(f"blkdiscard {device} && blkdiscard -z {device} && cmp -n 1048576 {device} /dev/zero")
    machine.sh(f"mkfs.ext4 -q {device} && mount -t ext4 {device} /mnt")
    machine.sh("dd if=/dev/urandom of=/mnt/f bs=1M count=4 && sync && fstrim /mnt && umount /mnt")
    machine.sh(f"e2fsck -fn {device}")
    assert digest_seen(machine, device) == digest_of(units.image("fs"))


# --- what changes while it runs ---

def test_targets_come_and_go(units, machine):
    """Under load on a unit that stays: several targets, with several units each."""
    for disk in ("stays", *"abcdef"):
        units.make(disk, size=MIB if disk != "stays" else SIZE)
    units.add("stays", 0)
    units.plug()
    machine.host.expect(REMOVED)
    places = list(zip("abcdef", ((1, 0), (1, 1), (2, 0), (7, 0), (7, 5), (7, 255))))
    with VerifiedLoad(machine.host, units.found(0)):
        for _ in range(2):
            for disk, place in places:
                units.add(disk, *place)
            devices = [units.found(*place) for _, place in places]
            for (disk, _), device in zip(places, devices):
                assert digest_seen(machine, device) == digest_of(units.image(disk))
            units.remove(7, lun=5)
            units.wait_gone((7, 5))
            assert digest_seen(machine, devices[3]) == digest_of(units.image("d")), "its neighbours stay"
            for target in (2, 1, 7):
                units.remove(target)
            units.wait_gone(*(place for _, place in places))
    assert digest_seen(machine, units.found(0)) == digest_of(units.image("stays"))


def test_a_unit_is_removed_in_mid_io(units, machine):
    """Which costs those their disk who use it, and nobody else; there is another one at its place later."""
    machine.host.expect(REMOVED + "|I/O error|sd[a-z]")
    for disk in ("stays", "goes"):
        units.make(disk)
        units.add(disk, 0, int(disk == "goes"))
    units.plug()
    with VerifiedLoad(machine.host, units.found(0)) as load:
        for _ in range(3):
            lost = VerifiedLoad(machine.host, units.found(0, 1))
            lost.goes_on()
            units.remove(0, lun=1)
            assert lost.job.wait()[0] not in (0, lost.INTERRUPTED), "its disk has gone"
            units.wait_gone((0, 1))
            load.goes_on()
            units.add("goes", 0, 1)
        with VerifiedLoad(machine.host, units.found(0, 1)):
            pass
    for disk in ("stays", "goes"):
        assert digest_seen(machine, units.found(0, int(disk == "goes"))) == digest_of(units.image(disk))


def test_resize_while_running(units, machine):
    machine.host.expect("Capacity data has changed|capacity change")
    units.make("sized")
    units.add("sized", 4, 2)
    units.plug()
    device = units.found(4, 2)
    with VerifiedLoad(machine.host, device):
        for size in (64 * MIB, 48 * MIB):
            units.resize("sized", size)
            machine.wait_until(f"[ $(cat /sys/block/{os.path.basename(device)}/size) = {size // 512} ]")
    machine.sh(f"{FIO} --filename={device} --rw=write --bs=64k --offset=40M --size=8M", 180)
    assert digest_seen(machine, device) == digest_of(units.image("sized"))
