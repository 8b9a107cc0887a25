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


@pytest.mark.parametrize("packed", ["off", "on"])
def test_units_are_disks_of_a_linux_guest(client, tmp_path, packed):
    devices = ["-object", "memory-backend-memfd,id=mem,size=1G,share=on", "-M", "memory-backend=mem",
               "-chardev", f"socket,id=c0,path={tmp_path}/s",
               "-device", f"vhost-user-scsi-pci,chardev=c0,num_queues=2,packed={packed}"]
    with Guest(vm_image(), tmp_path, cpus=2, devices=devices) as guest:
        guest.sh("modprobe virtio_scsi; modprobe sd_mod; modprobe ext4")
        guest.wait_until("test -b /dev/sda && test -b /dev/sdb")
        seen = guest.sh("lsblk -bdno HCTL,SIZE,LOG-SEC,DISC-MAX /dev/sda /dev/sdb").split()
        assert seen[1:] == ["67108864", "512", "2147483648", seen[4], "67108864", "4096", "2147483648"]
        assert seen[0].endswith(":0:0:0") and seen[4].endswith(":0:0:1")
        guest.sh(VERIFY.format("/dev/sda", "512-64k"))
        guest.sh(VERIFY.format("/dev/sdb", "4k-256k"))
        guest.sh("blkdiscard /dev/sdb && blkdiscard -z /dev/sdb && cmp -n 1048576 /dev/sdb /dev/zero")
        guest.sh("mkfs.ext4 -q /dev/sda && mkdir -p /mnt && mount -t ext4 /dev/sda /mnt && "
                 "dd if=/dev/urandom of=/mnt/f bs=1M count=4 && sync && fstrim /mnt && umount /mnt && "
                 "e2fsck -fn /dev/sda")
        add(client, 5, "late")
        guest.wait_until("test -b /dev/sdc")
        assert guest.sh("lsblk -dno HCTL /dev/sdc").strip().endswith(":0:5:0")
        client.call("vhost_scsi_controller_remove_target", ctrlr="s", scsi_target_num=5)
        guest.wait_until("! test -e /sys/block/sdc")
        assert "I/O error" not in guest.dmesg()
