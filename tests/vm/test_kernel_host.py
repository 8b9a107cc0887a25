# SPDX-License-Identifier: BSD-3-Clause
"""A Linux kernel as the host of a pollux target: what it finds, what it stores, and what it sees of errors."""
import hashlib
import json
import os
import subprocess

import pytest
from conftest import require_root
from hardware import FIO, MIB, NO_SIGPIPE, digest_of, digest_seen, make_disk, sysfs

DIGESTS = {"no-digest": "", "header": "--hdr-digest", "data": "--data-digest", "both": "--hdr-digest --data-digest"}


@pytest.fixture
def disk(tmp_path):
    return make_disk(tmp_path / "disk", 64 * MIB)


# --- finding the target ---

def test_discover(host, serve, disk):
    target = serve(disk)
    log = json.loads(host.sh(f"nvme discover {host.address(target)} -o json"))
    found = [record for record in log["records"] if record["subnqn"] == target.nqn]
    assert len(found) == 1
    assert (found[0]["trtype"], found[0]["adrfam"], found[0]["trsvcid"]) == ("tcp", "ipv4", str(target.port))
    assert found[0]["subtype"] == "nvme subsystem"


def test_identify(host, serve, disk):
    target = serve(disk)
    host.connect(target)
    controller = json.loads(host.sh("nvme id-ctrl /dev/nvme0 -o json"))
    assert controller["subnqn"] == target.nqn
    assert controller["sn"].strip() and controller["mn"].strip() and controller["fr"].strip()
    assert controller["ver"] >= 0x10300
    assert controller["cntlid"] not in (0xfff0, 0xffff) and controller["cntrltype"] == 1
    assert controller["kas"] > 0 and controller["maxcmd"] > 0 and controller["nn"] >= 1
    assert controller["sqes"] == 0x66 and controller["cqes"] == 0x44
    assert controller["ioccsz"] >= 4 and controller["iorcsz"] == 1 and controller["icdoff"] == 0
    assert controller["sgls"] & 3 and controller["sgls"] & 1 << 20
    assert controller["oncs"] & 0xc == 0xc, "dataset management and write zeroes"
    namespace = json.loads(host.sh("nvme id-ns /dev/nvme0 -n 1 -o json"))
    block = 1 << namespace["lbafs"][namespace["flbas"] & 0xf]["ds"]
    assert namespace["nsze"] * block == namespace["ncap"] * block == 64 * MIB
    names = json.loads(host.sh("nvme ns-descs /dev/nvme0 -n 1 -o json"))["ns-descs"]
    assert any(name["type"] in ("uuid", "nguid") and int(name[name["type"]].replace("-", ""), 16) for name in names)
    assert json.loads(host.sh("nvme list-ns /dev/nvme0 -o json"))["nsid_list"] == [{"nsid": 1}]


ADMIN_COMMANDS = [
    "smart-log /dev/nvme0", "error-log /dev/nvme0", "fw-log /dev/nvme0", "list", "list-subsys",
    "effects-log --csi=0 /dev/nvme0",  # without --csi, nvme-cli 2.3 wants to read the registers of a PCI device
    # arbitration, power management, temperature threshold, error recovery, write cache, number of queues,
    # write atomicity, asynchronous events, keep alive: what the specification makes mandatory over fabrics
    *(f"get-feature /dev/nvme0 -f {feature:#x}" for feature in (1, 2, 4, 5, 6, 7, 0xa, 0xb, 0xf)),
]


def test_admin_commands(host, serve, disk):
    host.connect(serve(disk))
    answers = {command: host.run(f"nvme {command}") for command in ADMIN_COMMANDS}
    assert not {command: output for command, (status, output) in answers.items() if status}


def test_hosts_that_are_not_allowed(host, serve, disk):
    friend = "nqn.2014-08.org.nvmexpress:uuid:11111111-1111-4111-8111-111111111111"
    target = serve(disk, options=("--allow", friend))
    host.expect(r"nvme nvme\d+: ")
    status, output = host.run(f"nvme connect {host.address(target)} -n {target.nqn}")
    assert status != 0, output
    assert "is not allowed, hostnqn" in host.log(), "the kernel knows this from the status Connect Invalid Host"
    # An id belongs to one name: the kernel wants a new pair.
    assert host.connect(target, f"--hostnqn={friend} --hostid={friend[-36:]}")


# --- reading and writing ---

@pytest.mark.parametrize("options", DIGESTS.values(), ids=DIGESTS)
def test_data(host, serve, tmp_path, options):
    disk = make_disk(tmp_path / "disk", 32 * MIB, fill=True)
    [device] = host.connect(serve(disk), f"--nr-io-queues=4 {options}")
    assert int(sysfs(host, device, "size")) * 512 == 32 * MIB
    assert sysfs(host, device, "queue/logical_block_size") == "512"
    assert host.sh("cat /sys/class/nvme/nvme0/queue_count").strip() == "5", "4 and the admin queue"
    assert digest_seen(host, device) == digest_of(disk)
    host.sh(f"{FIO} --filename={device} --rw=randrw --bsrange=512-1M --numjobs=4 --size=6M --offset_increment=8M", 180)
    assert digest_seen(host, device) == digest_of(disk)


def test_write_and_poll_queues(host, serve, disk):
    [device] = host.connect(serve(disk), "--nr-io-queues=2 --nr-write-queues=2 --nr-poll-queues=2")
    assert "mapped 2/2/2 default/read/poll queues" in host.log()
    polled = "--ioengine=pvsync2 --hipri --iodepth=1"
    host.sh(f"{FIO} {polled} --filename={device} --rw=randrw --bsrange=512-256k --size=8M", 180)


def test_large_blocks(host, serve, disk):
    [device] = host.connect(serve(f"file://{disk}?block=4096"))
    assert sysfs(host, device, "queue/logical_block_size") == "4096"
    assert int(sysfs(host, device, "size")) * 512 == 64 * MIB
    host.sh(f"{FIO} --filename={device} --rw=randrw --bsrange=4k-1M --size=8M", 180)


def test_ext4(host, serve, tmp_path):
    disk = make_disk(tmp_path / "disk", 256 * MIB)
    [device] = host.connect(serve(disk), "--data-digest")
    host.sh(f"mkfs.ext4 -q {device} && mount -t ext4 {device} /mnt")
    host.sh(f"{FIO} --filename=/mnt/direct --rw=randrw --bsrange=512-1M --size=24M", 180)
    host.sh(f"{FIO} --filename=/mnt/cached --rw=randrw --bsrange=512-1M --size=24M --direct=0 --ioengine=psync"
            " --fsync=8", 180)
    host.sh("cd /mnt && mkdir many && for i in $(seq 200); do echo $i >many/$i; done && sync")
    host.sh("rm /mnt/direct && sync && fstrim -v /mnt")
    host.sh(f"umount /mnt && e2fsck -fn {device}")
    host.disconnect()
    checked = subprocess.run(["e2fsck", "-fn", disk], capture_output=True, text=True)
    assert checked.returncode == 0, f"the file does not hold what the host wrote\n{checked.stdout}{checked.stderr}"


def test_discard_and_zeroes(host, serve, tmp_path):
    disk = make_disk(tmp_path / "disk", 32 * MIB, fill=True)
    content = bytearray(disk.read_bytes())
    [device] = host.connect(serve(disk))
    allocated = disk.stat().st_blocks
    # Offsets in which no block of a file system ends, and a length beyond what one Write Zeroes command can do.
    ranges = (("", 512 * 3, 8 * MIB), ("-z", 16 * MIB + 512, 512 * 7), ("-z", 17 * MIB, 10 * MIB))
    for options, offset, length in ranges:
        host.sh(f"blkdiscard {options} -o {offset} -l {length} {device}")
        content[offset:offset + length] = bytes(length)
    host.sh(f"nvme flush {device}")
    assert disk.read_bytes() == content
    assert digest_seen(host, device) == hashlib.sha256(content).hexdigest()
    assert disk.stat().st_blocks < allocated, "discarded space was not given back"


def test_namespaces(host, serve, tmp_path):
    first, last = make_disk(tmp_path / "first", 16 * MIB), make_disk(tmp_path / "last", 24 * MIB, fill=True)
    before = digest_of(last)
    devices = host.connect(serve(first, "ram:32M", f"file://{last}?ro=1"), namespaces=3)
    assert [sysfs(host, device, "nsid") for device in devices] == ["1", "2", "3"]
    assert [int(sysfs(host, device, "size")) * 512 // MIB for device in devices] == [16, 32, 24]
    assert [sysfs(host, device, "ro") for device in devices] == ["0", "0", "1"]
    for device in devices[:2]:
        host.sh(f"{FIO} --filename={device} --rw=randrw --bsrange=512-1M --size=4M", 180)
    assert digest_seen(host, devices[2]) == before
    # The kernel refuses by itself; a command past the block layer asks the target.
    assert host.run(f"dd if=/dev/zero of={devices[2]} bs=4k count=1 oflag=direct")[0] != 0
    status, output = host.run(f"nvme write {devices[2]} -s 0 -c 0 -z 512 -d /dev/zero")
    assert status != 0 and "protect" in output.lower(), output
    assert digest_of(last) == before


@pytest.fixture
def loop_device(disk):
    require_root()
    loop = subprocess.run(["losetup", "--find", "--show", disk], capture_output=True, text=True)
    if loop.returncode:
        pytest.skip(f"no loop device to be had: {loop.stderr.strip()}")
    yield loop.stdout.strip()
    subprocess.run(["losetup", "--detach", loop.stdout.strip()], check=True)


def test_block_device(loop_device, host, serve):
    [device] = host.connect(serve(loop_device))
    assert int(sysfs(host, device, "size")) * 512 == 64 * MIB
    host.sh(f"{FIO} --filename={device} --rw=randrw --bsrange=512-1M --size=8M", 180)
    host.sh(f"dd if=/dev/urandom of={device} bs=1M seek=8 count=32 oflag=direct")
    for options, start in (("", 8), ("-z", 32)):
        host.sh(f"blkdiscard {options} -o {start}M -l 4M {device}")
        host.sh(f"cmp -n {4 * MIB} -i {start * MIB}:0 {device} /dev/zero")
    host.sh(f"nvme flush {device}")


# --- when things go wrong ---

RECONNECT = "--reconnect-delay=1 --ctrl-loss-tmo=60 --keep-alive-tmo=5 --nr-io-queues=4"
LOAD = NO_SIGPIPE + FIO + " --filename={device} --rw=randwrite --bsrange=4k-256k --offset=32M --size=24M --rate=6m"

# Writes block after block, each with content of its own, and notes each that the disk has acknowledged as safe.
WRITER = f"""
i=0
while [ ! -e /tmp/stop ]; do
    i=$((i + 1))
    yes "block $i" | head -c 16k >/tmp/block
    if ! ({NO_SIGPIPE} exec dd if=/tmp/block of={{device}} bs=16k seek=$i conv=notrunc,fsync status=none); then
        echo "block $i was not written"
        exit 1
    fi
    echo $i >>/tmp/safe
done
"""


def blocks_missing(disk, count):
    """Of the first blocks that WRITER writes, those that are not in the file."""
    content, size = disk.read_bytes(), 16384
    return [i for i in range(1, count + 1)
            if content[i * size:(i + 1) * size] != (f"block {i}\n".encode() * size)[:size]]


def test_kill_and_restart(host, serve, disk):
    """What the host was told is safe is in the file, however the target ends, and the host carries on."""
    host.expect(r"nvme nvme\d+: |nvme_tcp: |no usable path - requeuing")
    target = serve(disk)
    [device] = host.connect(target, RECONNECT)
    jobs = [host.guest.spawn(script.replace("{device}", device)) for script in (WRITER, LOAD)]
    safe = 0
    for last in (False, False, False, True):
        host.guest.wait_until(f"[ $(tail -n 1 /tmp/safe) -gt {safe + 10} ]", during=jobs[:1])
        if last:
            break
        target.kill()
        safe = int(host.sh("tail -n 1 /tmp/safe"))
        assert not blocks_missing(disk, safe)
        target.restart()
    host.sh("touch /tmp/stop")
    assert [job.wait(180)[0] for job in jobs] == [0, 0], "\n".join(job.output for job in jobs)
    safe = int(host.sh("tail -n 1 /tmp/safe"))
    host.disconnect()
    [device] = host.connect(target)
    assert not blocks_missing(disk, safe)
    assert digest_seen(host, device) == digest_of(disk)


def test_stop_with_a_host_connected(host, serve, disk):
    host.expect(r"nvme nvme\d+: |nvme_tcp: |no usable path - requeuing")
    target = serve(disk)
    [device] = host.connect(target, RECONNECT)
    target.restart()  # idle; with status 0, or it raises
    host.guest.wait_until("[ $(cat /sys/class/nvme/nvme0/state) = live ]")
    load = host.guest.spawn(LOAD.replace("{device}", device))
    statistics = f"/sys/block/{os.path.basename(device)}/stat"
    host.guest.wait_until(f"[ $(awk '{{print $7}}' {statistics}) -gt {4 * MIB // 512} ]", during=[load])
    target.restart()  # in the middle of writes
    assert load.wait(180)[0] == 0, load.output
    assert digest_seen(host, device) == digest_of(disk)


@pytest.fixture
def small_file_system(tmp_path):
    """A directory with room for 16 MiB, and a function that makes more of it."""
    require_root()
    where = tmp_path / "small"
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16M", "tmpfs", where], check=True)
    yield where, lambda: subprocess.run(["mount", "-o", "remount,size=128M", where], check=True)
    subprocess.run(["umount", "-l", where], check=True)


def test_disk_full(small_file_system, host, serve):
    where, make_room = small_file_system
    host.expect(r"nvme|space allocation|blk_print_req_error: \d+ callbacks suppressed")
    disk = make_disk(where / "disk", 64 * MIB)
    [device] = host.connect(serve(disk))
    write = f"dd if=/dev/urandom of={device} bs=1M count=32 oflag=direct"
    status, output = host.run(write)
    assert status != 0 and "No space left on device" in output, output
    host.sh(f"dd if={device} of=/dev/null bs=1M count=4 iflag=direct")
    make_room()
    host.sh(write)
    assert digest_seen(host, device) == digest_of(disk)
