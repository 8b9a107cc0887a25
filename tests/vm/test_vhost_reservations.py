# SPDX-License-Identifier: BSD-3-Clause
"""Persistent reservations by sg_persist and Linux: two SCSI hosts of one disk, two initiators. Both are devices
of one guest here, as who is asking is known by the socket."""
import sys

import pytest
from conftest import HERE, vm_image
from guest import Guest

sys.path.append(str(HERE.parent / "integration"))

from rpc import Server  # noqa: E402

HOSTS = ["one", "two"]


@pytest.fixture
def client(tmp_path):
    with Server(options=["--vhost", tmp_path]) as server, server.client() as made:
        made.call("bdev_malloc_create", name="m", num_blocks=131072, block_size=512,
                  uuid="12345678-1234-1234-1234-123456789abc")
        for name in HOSTS:
            made.call("vhost_create_scsi_controller", ctrlr=name)
            made.call("vhost_scsi_controller_add_target", ctrlr=name, scsi_target_num=0, bdev_name="m",
                      ptpl_file=str(tmp_path / "kept"))
        yield made


def disks(guest):
    """The block devices of the hosts, in the order of their PCI addresses."""
    find = "for d in /sys/block/sd*; do echo $(readlink -f $d/device) ${d##*/}; done | sort | sed 's/.* //'"
    guest.wait_until("test -b /dev/sda && test -b /dev/sdb")
    return [f"/dev/{name}" for name in guest.sh(find).split()]


def test_two_hosts_of_one_disk(client, tmp_path):
    devices = ["-object", "memory-backend-memfd,id=mem,size=1G,share=on", "-M", "memory-backend=mem"]
    for name in HOSTS:
        devices += ["-chardev", f"socket,id={name},path={tmp_path}/{name}",
                    "-device", f"vhost-user-scsi-pci,chardev={name},num_queues=1"]
    with Guest(vm_image(), tmp_path, devices=devices) as guest:
        guest.sh("modprobe virtio_scsi; modprobe sd_mod")
        one, two = disks(guest)

        def persist(disk, words):
            return guest.sh(f"sg_persist -n {words} {disk}")

        def writes(disk):
            return guest.sh(f"dd if=/dev/zero of={disk} bs=4k count=1 oflag=direct 2>&1 && echo fine || echo not"
                            ).split()[-1] == "fine"

        assert "(PTPL_C): 1" in persist(one, "--in --report-capabilities")
        persist(one, "--out --register --param-sark=0xa1 --param-aptpl")
        persist(two, "--out --register --param-sark=0xb1 --param-aptpl")
        persist(one, "--out --reserve --param-rk=0xa1 --prout-type=5")
        assert writes(one) and writes(two)
        persist(one, "--out --release --param-rk=0xa1 --prout-type=5")
        persist(one, "--out --reserve --param-rk=0xa1 --prout-type=1")
        assert writes(one) and not writes(two)
        seen = persist(two, "--in --read-full-status")
        assert "0xa1" in seen and "0xb1" in seen and "reservation holder" in seen.lower()
        assert "Write Exclusive" in persist(two, "--in --read-reservation")
        persist(two, "--out --preempt-abort --param-rk=0xb1 --param-sark=0xa1 --prout-type=3")
        assert writes(two) and not writes(one)
        kept = (tmp_path / "kept").read_text()
        assert "key 00000000000000b1" in kept and "registrants 1" in kept
        persist(two, "--out --clear --param-rk=0xb1")
        assert writes(one) and writes(two)
