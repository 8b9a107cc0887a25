# SPDX-License-Identifier: BSD-3-Clause
"""The same disks in a guest of another architecture: one machine that has them all, with split rings and packed ones,
of one queue and of four."""
import sys

import pytest
from conftest import HERE, Host, vm_image
from guest import Guest
from hardware import (CORES, F_RING_PACKED, FIO, MIB, SLOTS, block_at, built_in, digest_of, digest_seen, make_disk,
                      shared)

sys.path.append(str(HERE.parent / "integration"))

from rpc import Server  # noqa: E402

SIZE = 8 * MIB
RINGS = [(queues, packed) for packed in ("off", "on") for queues in (1, 4)]


@pytest.fixture
def images(work):
    """A file for each block device, and for each unit of a SCSI host."""
    return {f"{kind}{n}": make_disk(work / f"{kind}{n}", SIZE, fill=True) for kind in ("blk", "scsi") for n in range(4)}


@pytest.fixture
def guest(work, images, tmp_path):
    with Server(options=["--vhost", tmp_path, *CORES]) as server, server.client() as client:
        devices = shared()
        for name, image in images.items():
            client.call("bdev_aio_create", name=name, filename=str(image), block_size=4096 if name[-1] == "1" else 512)
        for n, (queues, packed) in enumerate(RINGS):
            client.call("vhost_create_blk_controller", ctrlr=f"b{n}", dev_name=f"blk{n}", packed_ring=True)
            client.call("vhost_create_scsi_controller", ctrlr=f"s{n}", packed_ring=True)
            client.call("vhost_scsi_controller_add_target", ctrlr=f"s{n}", scsi_target_num=n, lun=n,
                        bdev_name=f"scsi{n}")
            devices += built_in(tmp_path / f"b{n}", SLOTS[n], packed=packed, **{"num-queues": queues})
            devices += built_in(tmp_path / f"s{n}", SLOTS[4 + n], "vhost-user-scsi-pci", num_queues=queues,
                                packed=packed)
        with Guest(vm_image("--arch", "aarch64"), work, devices=devices) as machine:
            machine.sh("modprobe virtio_scsi; modprobe sd_mod; modprobe ext4")
            yield machine


def test_disks_of_an_arm64_guest(guest, images):
    host = Host(guest, "arm64")
    assert guest.sh("uname -m").strip() == "aarch64"
    disks = {image: block_at(guest, slot) for slot, image in zip(SLOTS, images.values())}
    for disk, (queues, packed) in zip(disks.values(), 2 * RINGS):
        features = guest.sh(f"cat $(readlink -f /sys/block/{disk[5:]} | grep -o '.*/virtio[0-9]*')/features")
        assert features[F_RING_PACKED] == str(int(packed == "on"))
        assert guest.sh(f"ls /sys/block/{disk[5:]}/mq | wc -l").strip() == str(queues)
    jobs = [guest.spawn(f"{FIO} --filename={disk} --rw=randrw --bsrange=4k-256k --numjobs=4 --size=1M"
                        " --offset_increment=2M") for disk in disks.values()]
    for job in jobs:
        status, output = job.wait()
        assert status == 0, output
    for image, disk in disks.items():
        assert digest_seen(guest, disk) == digest_of(image)
    for disk in list(disks.values())[2::4]:
        guest.sh(f"blkdiscard {disk} && mkfs.ext4 -q {disk} && mount -t ext4 {disk} /mnt")
        guest.sh("cp /bin/busybox /mnt && sync && echo 3 >/proc/sys/vm/drop_caches && cmp /bin/busybox /mnt/busybox")
        guest.sh(f"umount /mnt && e2fsck -fn {disk}")
    assert not host.trouble(), host.log()
