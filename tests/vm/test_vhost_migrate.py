# SPDX-License-Identifier: BSD-3-Clause
"""Live migration: a guest moves from one QEMU to another while its disks are written and checked.

What the device writes to the guest's memory reaches the other QEMU by the log of written pages alone, wherever the
guest does not write to the same pages. The test has it be just that: a disk is read into the guest's cache when all of
its memory has been sent once, and looked at on the other side without the disk; and requests that have been in rings
for long end when the guest has stopped."""
import contextlib
import sys
import tempfile
from pathlib import Path

from conftest import HERE, Host, VerifiedLoad, vm_image
from guest import LIMIT, Guest
from hardware import (CORES, F_RING_PACKED, MIB, SLOTS, agreed, block_at, built_in, digest_of, digest_seen, make_disk,
                      shared, sysfs)
from target import wait_until

sys.path.append(str(HERE.parent / "integration"))

from rpc import Client  # noqa: E402

SIZE, LARGE = 8 * MIB, 64 * MIB
# 512 MiB, and 8 KiB: QEMU before 9.0 forgets what its software CPU writes to where whole words of its bitmap of dirty
# pages are looked at, which it does if memory ends with one ("physmem: Fix migration dirty bitmap coherency with TCG
# memory access"). Guests die of that, without any vhost-user device as well.
MEMORY = "524296k"
KINDS = {"split": {}, "packed": {"packed": "on"}}
USES = {"read": "{}", "written": "{}", "slow": "delay:[{}]?write=5s", "unit": "{}"}  # the last one of a SCSI host


def serving(served, work, *disks):
    """A server of these, one for each use with each kind of ring, that has SCSI hosts for the units."""
    control = Path(tempfile.mkdtemp(dir=work)) / "control"
    target = served(*disks, options=(*CORES, "-r", control))
    with Client(control) as client:
        for kind, unit in zip(KINDS, target.sockets[len(USES) - 1::len(USES)]):
            client.call("vhost_create_scsi_controller", ctrlr=f"host-{kind}", packed_ring=True)
            client.call("vhost_scsi_controller_add_target", ctrlr=f"host-{kind}", scsi_target_num=0,
                        bdev_name=Path(unit).name)
    return target


def devices_at(target):
    """Of QEMU, one after the other: a disk for each use with each kind of ring."""
    sockets, slots, devices = iter(target.sockets), iter(SLOTS), shared(MEMORY)
    for kind, ring in KINDS.items():
        for use in USES:
            socket = Path(next(sockets))
            if use == "unit":
                devices += built_in(socket.parent / f"host-{kind}", next(slots), "vhost-user-scsi-pci", **ring)
            else:
                devices += built_in(socket, next(slots), **{"num-queues": 4}, **ring)
    return devices


def requests(guest, disk):
    """How many reads a disk has had."""
    return int(sysfs(guest, disk, "stat").split()[0])


def digest(guest, disk):
    return guest.sh(f"sha256sum <{disk}").split()[0]


def ram(guest):
    return guest.migration().get("ram", {"remaining": LARGE, "dirty-sync-count": 0})


def wait_for_passes(guest, passes):
    assert wait_until(lambda: ram(guest)["dirty-sync-count"] >= passes, LIMIT), "what is dirty is not sent"


def begin(guest, devices):
    """Begins to migrate while the guest writes: fast at first, then so slowly that what is written meanwhile is too
    much for it to come to its end by itself; until all of the memory has been sent. The job that writes to memory."""
    writes = guest.spawn("while :; do dd if=/tmp/data of=/tmp/copy bs=1M conv=notrunc status=none; done")
    guest.begin_migration(devices, downtime_limit=1, max_bandwidth=256 * MIB)
    assert wait_until(lambda: ram(guest)["remaining"] < LARGE, LIMIT)
    guest.qmp("migrate-set-parameters", max_bandwidth=32 * MIB)
    wait_for_passes(guest, 2)
    return writes


def stay(guest, devices):
    """Thinks better of it in the middle."""
    writes = begin(guest, devices)
    guest.cancel_migration()
    writes.kill()
    writes.wait()


def move(guest, devices, read, slow):
    """Migrates. When all of the memory has been sent, disks are read, and slow writes begun."""
    writes = begin(guest, devices)
    for disk in read:
        guest.sh(f"dd if={disk} of=/dev/null bs=64k status=none")
    begun = []
    for disk in slow:
        writes_done = int(sysfs(guest, disk, "stat").split()[4])
        begun.append(guest.spawn(f"dd if=/tmp/data of={disk} bs=4k count=1 oflag=direct"))
        guest.wait_until(f"""cd /sys/block/{disk.rpartition('/')[2]}; read -r _ writing <inflight
            read -r _ _ _ _ done _ <stat; [ $writing = 1 ] || [ $done -gt {writes_done} ]""")
    wait_for_passes(guest, ram(guest)["dirty-sync-count"] + 2)  # so that what the guest wrote about them has been sent
    assert guest.migration()["status"] == "active", "it has come to its end by itself"
    writes.kill()
    writes.wait()
    guest.end_migration(downtime_limit=1000, max_bandwidth=0)
    for write in begun:
        assert write.wait()[0] == 0


def test_nothing_is_lost(served, work, tmp_path):
    """To another QEMU at the same server, and from there to one at the server of another machine, which has the disks
    from the first. Disks of each kind are written to and checked all the time."""
    images = [make_disk(work / f"{kind}-{use}", SIZE, fill=True) for kind in KINDS for use in USES]
    here = serving(served, work, *(use.format(image) for image, use in zip(images, 2 * list(USES.values()))))
    at = f"nvme+tcp://127.0.0.1:{here.port}/{here.nqn}"
    there = serving(served, work, *(f"{at}?nsid={n + 1}" for n in range(len(images))))
    # Memory that the guest is given is not to be written to by its kernel first.
    with Guest(vm_image(), tmp_path, devices=devices_at(here), options="init_on_alloc=0") as guest:
        guest.sh("modprobe virtio_scsi; modprobe sd_mod")
        disks = [block_at(guest, slot) for slot in SLOTS[:len(images)]]
        host = Host(guest, "migration")
        read, written, slow, units = (disks[n::len(USES)] for n in range(len(USES)))
        assert [agreed(guest, disk, F_RING_PACKED) for disk in (*read, *slow)] == [False, True] * 2
        wanted = [digest_of(image) for image in images[::len(USES)]]
        guest.spawn(f"exec sleep 1000000 <{read[0]} 3<{read[1]}")  # else what was read is gone when it is closed
        guest.sh("dd if=/dev/urandom of=/tmp/data bs=1M count=16")
        with contextlib.ExitStack() as loads:
            for disk in (*written, *units):
                loads.enter_context(VerifiedLoad(host, disk, "--size=4M"))
            stay(guest, devices_at(there))
            for to in (here, there):
                guest.sh("echo 3 >/proc/sys/vm/drop_caches")
                move(guest, devices_at(to), read, slow)
                before = [requests(guest, disk) for disk in read]
                assert [digest(guest, disk) for disk in read] == wanted, "a page was not sent after it was written to"
                assert [requests(guest, disk) for disk in read] == before, "that was not in the guest's memory"
        assert [digest_seen(guest, disk) for disk in disks] == [digest_of(image) for image in images]
        assert not host.trouble(), host.log()
