# SPDX-License-Identifier: BSD-3-Clause
"""Disks of virtual machines: QEMU's vhost-user-blk-pci and Linux's virtio_blk, on sockets of `pollux serve --vhost`."""
import contextlib
import hashlib
import os
import platform
import signal
import subprocess
from pathlib import Path

import pytest
import target as pollux
from conftest import VerifiedLoad, vm_image
from guest import LIMIT, QEMU, Guest
from hardware import (CORES, F_RING_PACKED, FIO, MIB, RINGS, SLOTS, agreed, built_in, digest_of, digest_seen, held,
                      make_disk, shared, sysfs)
from target import wait_until

KILLS = int(os.environ.get("SOAK_KILLS", "10"))
LEAVES, RESETS = 2 * KILLS, KILLS // 10
KINDS = pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])


@pytest.fixture(scope="module")
def guest(sharing):
    return sharing


@pytest.fixture
def disk(work):
    return make_disk(work / "disk.img", 64 * MIB)


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


# A boot sector that writes what follows it to the first serial line, and halts.
BOOTS = bytes.fromhex("31c0 8ed8 be157c baf803 ac 84c0 7403 ee ebf8 f4 ebfd") + b"pollux boots\r\n\0"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the boot sector is for x86")
def test_what_the_example_prints_boots(work):
    """Pasted as it is, but for KVM, which cannot be had everywhere."""
    place = work / "it's a place"
    place.mkdir()
    (place / "disk.img").write_bytes(BOOTS.ljust(510, b"\0") + b"\x55\xaa" + bytes(MIB - 512))
    (work / "bin").mkdir()
    (work / "bin" / "pollux").symlink_to(Path(pollux.binary()).resolve())
    env = os.environ | {"PATH": f"{work}/bin:{os.environ['PATH']}"}
    text = subprocess.run(["pollux", "serve", "--example", "vm", "--vhost", "soc,kets", "disk.img"], cwd=place, env=env,
                          capture_output=True, text=True, check=True).stdout
    first, second = text.replace("accel=kvm", "accel=tcg").replace("-cpu host", "-cpu max").split("# In another one")
    with contextlib.ExitStack() as running:
        server = paste(running, first, place, env)
        assert any("vhost-user at" in line for line in server.stdout)
        machine = paste(running, f"# {second}", place, env)
        assert any("pollux boots" in line for line in machine.stdout)
        machine.stdin.write("\x01x")  # as it says
        machine.stdin.close()
        assert machine.wait(60) == 0


def paste(running, text, place, env):
    """A terminal, into which a text is pasted; ends, with all that it has started, when `running` does."""
    shell = subprocess.Popen(["timeout", str(LIMIT), "bash"], cwd=place, env=env, text=True, bufsize=0,
                             start_new_session=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def end():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
        shell.wait()
    running.callback(end)
    shell.stdin.write(text)
    return shell


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


@KINDS
def test_memory_comes_and_goes(machine, served, disk, packed):
    """A DIMM is plugged while the guest writes; requests whose data is in it; and it is unplugged again."""
    target = served(disk)
    device = machine.plug(target.sockets[0], packed=packed)
    node, (_, maps) = "/sys/devices/system/node/node1", held(target)
    machine.sh("echo online_movable >/sys/devices/system/memory/auto_online_blocks")
    with VerifiedLoad(machine.host, device) as load:
        for _ in range(2):
            machine.qmp("object-add", qom_type="memory-backend-memfd", id="more", size=256 * MIB, share=True)
            machine.qmp("device_add", driver="pc-dimm", id="dimm", memdev="more", node=1)
            machine.wait_until(f"grep 'MemFree: *[1-9][0-9]' {node}/meminfo")
            assert held(target)[1] > maps, "the server has not got the new memory"
            load.goes_on()
            machine.sh(f"{FIO} --filename={device} --rw=randrw --bsrange=4k-256k --size=4M --offset=32M"
                       " --numa_mem_policy=bind:1")
            machine.qmp("device_del", id="dimm")
            assert wait_until(lambda: not machine.has("dimm"), LIMIT, 0.2), "the guest does not let its memory go"
            machine.qmp("object-del", id="more")
            assert wait_until(lambda: held(target)[1] == maps), "the server keeps memory that is gone"
            load.goes_on()
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
def test_the_disk_is_deleted_in_mid_io(machine, served, disk, work, packed):
    """The guest sees errors, and a disk without any size; it can let go of it."""
    target = served(disk, options=("-r", work / "control", *CORES))
    device = machine.plug(target.sockets[0], packed=packed)
    name = os.path.basename(device)
    machine.host.expect(f"I/O error, dev {name}|Buffer I/O error on dev {name}|{name}: detected capacity change")
    load = VerifiedLoad(machine.host, device)
    load.goes_on()
    subprocess.run([pollux.binary(), "ctl", "-s", work / "control", "rm", "disk.img"], check=True)
    assert load.job.wait()[0] != 0, "its disk has gone"
    machine.wait_until(f"[ $(cat /sys/block/{name}/size) = 0 ]")
    assert "0 bytes" in machine.host.run(f"dd if={device} of=/dev/null bs=4k count=1 iflag=direct")[1]
    machine.unplug()
    assert target.process.poll() is None


@KINDS
def test_the_driver_leaves_in_mid_io(machine, served, disk, packed):
    """The device is reset under it, and begins anew with the driver that comes next."""
    machine.host.expect("[Ee]rror|vd[a-z]")
    target = served(disk)
    machine.plug(target.sockets[0], packed=packed)
    [slot] = machine.plugged.values()
    before = held(target)
    machine.sh(f"""
        cd /sys/bus/pci/drivers/virtio-pci
        dd if=/dev/urandom of=/tmp/data bs=1M count=2
        for n in $(seq {LEAVES}); do
            until name=$(ls {machine.address(slot)}/virtio*/block) && [ -b /dev/$name ]; do sleep 0.02; done
            for part in 0 1 2 3; do
                at="seek=$((64 * part)) oflag=direct conv=nocreat,notrunc"
                while dd if=/tmp/data of=/dev/$name bs=64k $at; do :; done &
            done
            until read -r _ _ _ _ _ _ out _ </sys/block/$name/stat && [ $out -gt 4096 ]; do sleep 0.02; done
            echo {machine.address(slot)} >unbind
            wait
            echo {machine.address(slot)} >bind
        done 2>/dev/null""")
    device = machine.found(slot)
    assert agreed(machine, device, F_RING_PACKED) == packed
    with VerifiedLoad(machine.host, device):
        assert held(target) == before, "something is kept of each reset"
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


def test_a_machine_is_reset_and_killed_in_mid_io(machine, served, work, tmp_path):
    """With requests in flight each time. The disk is there for the next one, and nothing is kept of the one before."""
    disks = [make_disk(work / f"{kind}.img", 16 * MIB) for kind in ("split", "packed")]
    target = served(*(f"delay:[{disk}]?write=300ms" for disk in disks))
    before, running = held(target), None
    plugged = [built_in(socket, slot, packed=packed, **{"num-queues": 2})
               for socket, slot, packed in zip(target.sockets, SLOTS, ("off", "on"))]
    load = "fio --name=slow --ioengine=libaio --iodepth=16 --direct=1 --rw=randwrite --filename=/dev/"
    with Guest(vm_image(), tmp_path, cpus=2, devices=sum(plugged, shared())) as other:
        for turn in range(RESETS + 1):
            for name in ("vda", "vdb"):
                other.spawn(load + name)
                other.wait_until(f"read -r _ out </sys/block/{name}/inflight; [ $out -gt 8 ]")
            running = running or held(target)
            assert held(target) == running, "something is kept of each reset"
            if turn < RESETS:
                other.reset()
    assert wait_until(lambda: held(target) == before), "something of the guest that is gone is kept"
    for socket, disk in zip(target.sockets, disks):
        assert digest_seen(machine, machine.plug(socket)) == digest_of(disk)
