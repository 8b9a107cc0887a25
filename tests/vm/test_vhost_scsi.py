# SPDX-License-Identifier: BSD-3-Clause
"""QEMU's vhost-user-scsi-pci, and Linux' virtio-scsi driver: units of a host as disks of a guest."""
import sys

import pytest
from conftest import HERE, vm_image
from guest import Guest

sys.path.append(str(HERE.parent / "integration"))

from rpc import Server  # noqa: E402

VERIFY = ("fio --name=v --filename={} --direct=1 --ioengine=libaio --iodepth=16 --bsrange={} --rw=randwrite "
          "--verify=crc32c --verify_fatal=1 --size=8m")


def add(client, number, disk, lun=0):
    client.call("vhost_scsi_controller_add_target", ctrlr="s", scsi_target_num=number, lun=lun, bdev_name=disk)


@pytest.fixture
def client(tmp_path):
    with Server(options=["--vhost", tmp_path]) as server, server.client() as made:
        for name, size in (("m0", 512), ("m1", 4096), ("late", 512)):
            made.call("bdev_malloc_create", name=name, num_blocks=(64 << 20) // size, block_size=size)
        made.call("vhost_create_scsi_controller", ctrlr="s", packed_ring=True)
        add(made, 0, "m0")
        add(made, 0, "m1", lun=1)
        yield made


def unit(guest, target, lun):
    """The block device that the guest has of a unit; which gets which name depends on which is looked at first."""
    block = f"/sys/class/scsi_device/*:0:{target}:{lun}/device/block"
    guest.wait_until(f"test -b /dev/$(ls {block})")
    return f"/dev/{guest.sh(f'ls {block}').strip()}"


@pytest.mark.parametrize("packed", ["off", "on"])
def test_units_are_disks_of_a_linux_guest(client, tmp_path, packed):
    devices = ["-object", "memory-backend-memfd,id=mem,size=1G,share=on", "-M", "memory-backend=mem",
               "-chardev", f"socket,id=c0,path={tmp_path}/s",
               "-device", f"vhost-user-scsi-pci,chardev=c0,num_queues=2,packed={packed}"]
    with Guest(vm_image(), tmp_path, cpus=2, devices=devices) as guest:
        guest.sh("modprobe virtio_scsi; modprobe sd_mod; modprobe ext4")
        one, two = unit(guest, 0, 0), unit(guest, 0, 1)
        for disk, block_size in ((one, "512"), (two, "4096")):
            seen = guest.sh(f"lsblk -bdno SIZE,LOG-SEC,DISC-MAX {disk}").split()
            assert seen == ["67108864", block_size, "2147483648"]
        guest.sh(VERIFY.format(one, "512-64k"))
        guest.sh(VERIFY.format(two, "4k-256k"))
        guest.sh(f"blkdiscard {two} && blkdiscard -z {two} && cmp -n 1048576 {two} /dev/zero")
        guest.sh(f"mkfs.ext4 -q {one} && mkdir -p /mnt && mount -t ext4 {one} /mnt && "
                 "dd if=/dev/urandom of=/mnt/f bs=1M count=4 && sync && fstrim /mnt && umount /mnt && "
                 f"e2fsck -fn {one}")
        add(client, 5, "late")
        late = unit(guest, 5, 0)
        client.call("vhost_scsi_controller_remove_target", ctrlr="s", scsi_target_num=5)
        guest.wait_until(f"! test -e {late}")
        assert "I/O error" not in guest.dmesg()
