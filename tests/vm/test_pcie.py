# SPDX-License-Identifier: BSD-3-Clause
"""SSDs that the process drives itself, by VFIO: QEMU's, behind an emulated IOMMU, with pollux in the guest."""
import json
from pathlib import Path

import conftest
import target as pollux
import pytest
from calls import Calls
from guest import Guest

MIB = 1 << 20
NQN = "nqn.2026-01.example:ssd"
IOMMU = ("-M", "q35,kernel-irqchip=split", "-device", "intel-iommu,intremap=on,caching-mode=on,aw-bits=48")
PLAIN, MANY, GUARDED, PLUGGED = "0000:00:10.0", "0000:00:11.0", "0000:00:16.0", "0000:01:00.0"  # as the guest has them
SLOT = "0000:00:12.0"  # of the last one
OWN, OLD, ZONED = "0000:00:13.0", "0000:00:14.0", "0000:00:15.0"
ALL = PLAIN, MANY, GUARDED, PLUGGED, OWN, OLD, ZONED
BLOCK = 512
FORMATS = [  # of GUARDED's namespaces, as QEMU names what they are
    {"ms": 8, "pi": 1}, {"ms": 8, "pi": 2, "pil": 1}, {"ms": 16, "pi": 3}, {"ms": 16, "pi": 1, "pil": 1, "pif": 0},
    {"ms": 16, "pi": 1, "pif": 2}, {"ms": 64, "pi": 2, "pif": 2, "pil": 1}, {"ms": 16, "pi": 3, "pif": 2},
    {"ms": 8, "pi": 1, "mset": 1}, {"ms": 64, "pi": 1, "mset": 1}, {"ms": 64, "pi": 2, "pif": 2, "mset": 1},
    {"ms": 8, "pi": 1, "block": 4096}, {"ms": 16, "pi": 1, "pif": 2, "mset": 1, "block": 4096},
    {"ms": 8}, {"ms": 64, "mset": 1}]
PORT = 4420


def drive(work, name, size=64 * MIB):
    path = work / name
    with open(path, "wb") as file:
        file.truncate(size)
    return "-drive", f"if=none,id={name},format=raw,file={path},cache=unsafe"


def plain_device(work):
    return (*drive(work, "plain"), "-device", "nvme,drive=plain,serial=PLAIN,addr=10")


def guarded_device(work):
    """With a namespace for each of FORMATS."""
    words = ["-device", "nvme,id=guarded,serial=GUARDED,addr=16"]
    for nsid, each in enumerate(FORMATS, 1):
        block = each.get("block", BLOCK)
        options = "".join(f",{key}={value}" for key, value in each.items() if key != "block")
        words += [*drive(work, f"guarded{nsid}", 16 * MIB), "-device",
                  f"nvme-ns,drive=guarded{nsid},bus=guarded,nsid={nsid},logical_block_size={block},"
                  f"physical_block_size={block}{options}"]
    return words


def devices(work):
    """A plain SSD; one with two namespaces, of 512 and of 4096 byte blocks; one in a slot it can be taken out of; two
    with memory of their own, as since version 1.4 and as before; one that is zoned; and one whose blocks have
    metadata."""
    return (*IOMMU, *plain_device(work), *drive(work, "one"), *drive(work, "two"), *drive(work, "plugged"),
            *drive(work, "own"), "-device", "nvme,drive=own,serial=OWN,addr=13,cmb_size_mb=1",
            *drive(work, "old"), "-device", "nvme,drive=old,serial=OLD,addr=14,cmb_size_mb=1,legacy-cmb=on",
            "-device", "nvme,id=many,serial=MANY,addr=11",
            "-device", "nvme-ns,drive=one,bus=many,nsid=1",
            "-device", "nvme-ns,drive=two,bus=many,nsid=2,logical_block_size=4096,physical_block_size=4096",
            *drive(work, "zoned"), "-device", "nvme,id=zones,serial=ZONES,addr=15,mdts=6",
            "-device", "nvme-ns,drive=zoned,bus=zones,nsid=1,logical_block_size=4096,physical_block_size=4096,"
            "zoned=on,zoned.zone_size=4M,zoned.zone_capacity=3M,zoned.max_open=4,zoned.max_active=6",
            "-device", "pcie-root-port,id=rootport,slot=1,chassis=1,addr=12",
            "-device", "nvme,id=plugged,drive=plugged,serial=PLUGGED,bus=rootport", *guarded_device(work))


class Ssds:
    """The guest, and what is done to its SSDs."""

    def __init__(self, machine):
        self.machine, self.sh, self.run, self.qmp = machine, machine.sh, machine.run, machine.qmp
        self.work = machine.work

    def bind(self, addr, driver="vfio-pci"):
        self.sh(f"""cd /sys/bus/pci/devices/{addr}
            [ -e driver ] && echo {addr} >driver/unbind
            echo {driver} >driver_override
            echo {addr} >/sys/bus/pci/drivers_probe
            [ "$(basename $(readlink driver))" = {driver} ]""")

    def unbind(self, addr, namespaces=None):
        """Back to the kernel: its block devices, in the order of their namespaces; or as many by their numbers."""
        self.bind(addr, "nvme")
        self.sh(f"echo >/sys/bus/pci/devices/{addr}/driver_override")
        found = self.machine.wait_until(f"""cd /sys/bus/pci/devices/{addr}/nvme/nvme* && for each in nvme*n*; do
            [ -b /dev/$each ] && echo $(cat $each/nsid) $each || exit 1; done |
            tee /tmp/found; [ $(wc -l </tmp/found) -ge %d ]""" % (namespaces or 1))
        names = {int(nsid): name for nsid, name in (line.split() for line in found.splitlines())}
        return names if namespaces else [names[nsid] for nsid in sorted(names)]

    def perf(self, options, *disks):
        """Of verified load: what was measured."""
        out = self.sh(f"pollux perf --json - --verify {options} {' '.join(disks)}")
        result = json.loads(out[out.index("{"):])
        assert result["verify"]["wrong"] == 0
        return result

    def serve(self, options):
        """`pollux serve` in the guest, once it serves."""
        self.sh("rm -f /tmp/serve.out")  # of the one before
        job = self.machine.spawn(f"exec pollux serve {options} >/tmp/serve.out 2>/tmp/serve.err")
        self.machine.wait_until("grep -q 'listening on' /tmp/serve.out", during=[job])
        return job


def boot(tmp_path_factory, make_devices):
    build = Path(pollux.binary()).resolve().parent
    if not (build / "build.ninja").exists():
        pytest.skip(f"nothing to install: {pollux.binary()} is not in a build directory")
    work = tmp_path_factory.mktemp("ssds")
    image = conftest.vm_image("--install", build, work / "archive")
    archives = work / "archive", conftest.program(work, "disk_zones")
    return Guest(image, work, cpus=2, devices=make_devices(work), archives=archives)


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    with boot(tmp_path_factory, devices) as guest:
        guest.sh("modprobe nvme; modprobe vfio-pci; modprobe vfio_iommu_type1")
        guest.wait_until(" && ".join(f"[ -e /sys/bus/pci/devices/{a}/driver ]" for a in ALL))
        yield guest


@pytest.fixture
def ssds(machine):
    all_of_it = Ssds(machine)
    for addr in ALL:
        all_of_it.bind(addr)
    yield all_of_it
    machine.run("nvme disconnect-all; killall -9 pollux; rm -rf /tmp/*")


def test_it_says_what_the_kernels_driver_says(ssds):
    ssds.unbind(PLAIN)
    theirs = ssds.sh("nvme id-ctrl /dev/$(ls /sys/bus/pci/devices/0000:00:10.0/nvme)")
    smart = ssds.sh("nvme smart-log -o json /dev/$(ls /sys/bus/pci/devices/0000:00:10.0/nvme)")
    ssds.bind(PLAIN)
    ours = ssds.sh(f"pollux identify pcie://{PLAIN}")
    shown = {line.split(":", 1)[0].strip(): line.split(":", 1)[1].strip() for line in ours.splitlines() if ":" in line}
    same = [line for line in theirs.splitlines() if ":" in line and line.split(":", 1)[0].strip() in shown]
    assert len(same) > 40
    for line in same:
        key, value = (word.strip() for word in line.split(":", 1))
        if key != "NVME Identify Controller":
            assert shown[key] == value, key
    assert json.loads(smart)


@pytest.mark.parametrize("size", ["512", "4K", "12K", "128K", "1M"])
def test_verified_load(ssds, size):
    ssds.perf(f"-w randrw -o {size} -q 16 --count 1500 -m 0,1 -P 2 --poll adaptive", f"pcie://{PLAIN}/1")


@pytest.mark.parametrize("poll", ["busy", "adaptive", "sleep"])
def test_namespaces_side_by_side(ssds, poll):
    """Of 512 and 4096 byte blocks, of one controller, each with a queue pair for each core."""
    result = ssds.perf(f"-w randrw -o 8K -q 8 --count 1500 -m 0,1 -P 2 --poll {poll}",
                       f"pcie://{MANY}/1", f"pcie://{MANY}/2")
    assert result["verify"]["right"] > 0


@pytest.mark.parametrize("addr", [OWN, OLD], ids=["told", "fixed"])
def test_queues_in_the_controllers_memory(ssds, addr):
    """QEMU takes 8 bytes at a time there, and leaves the machine for each."""
    disk = f"'pcie://{addr}/1?cmb=1'"
    ssds.perf("-w randrw -o 8K -q 8 --count 300 -m 0,1 -P 2", disk)
    serve = ssds.serve(f"-v --nqn {NQN} {disk}")
    ssds.sh(f"nvme connect -t tcp -a 127.0.0.1 -s {PORT} -n {NQN}")
    ssds.machine.wait_until(f"grep -q \"{addr}: submission queues are in the controller's memory, 1024 KiB\" "
                            "/tmp/serve.err", during=[serve])


def test_zones(ssds):
    """All of them are written, by writes and by appends; the kernel sees the same."""
    output = ssds.sh(f"disk_zones pcie://{ZONED}/1")
    assert output == "16 zones of 1024 blocks, capacity 768, 4 open, 6 active, 64 appended\n"
    shown = ssds.sh(f"pollux identify pcie://{ZONED}")
    for line in "mar     : 0x5", "mor     : 0x3", "zsze    : 0x400", "zasl    : 0":
        assert f"\n{line}\n" in shown, shown
    calls = Calls(ssds.machine)
    assert calls.call("bdev_nvme_attach_controller", name="Nvme0", trtype="PCIe", traddr=ZONED)
    [disk] = [disk for disk in calls.call("bdev_get_bdevs") if disk["name"] == "Nvme0n1"]
    assert (disk["zoned"], disk["zone_size"], disk["max_open_zones"], disk["optimal_open_zones"]) == (True, 1024, 4, 4)
    ssds.sh("killall pollux")
    [device] = ssds.unbind(ZONED)
    assert ssds.sh(f"cat /sys/block/{device}/queue/zoned").strip() == "host-managed"
    report = ssds.sh(f"nvme zns report-zones -d 16 /dev/{device}")
    assert report.count("SLBA: ") == 16 and report.count("State: 0xe0") == 16, report


def test_a_kernels_host_has_zones(ssds):
    """The kernel's NVMe/TCP host, on pollux, on a zoned SSD."""
    serve = ssds.serve(f"--nqn {NQN} pcie://{ZONED}/1")
    ssds.sh(f"nvme connect -t tcp -a 127.0.0.1 -s {PORT} -n {NQN}")
    device = ssds.machine.wait_until(f"""for each in /sys/block/nvme*n*; do
        [ "$(cat $each/device/subsysnqn)" = {NQN} ] && [ -b /dev/${{each##*/}} ] && echo ${{each##*/}}; done |
        grep nvme""", during=[serve]).strip()
    assert ssds.sh(f"cd /sys/block/{device}/queue && cat zoned nr_zones chunk_sectors").split() == [
        "host-managed", "16", "8192"]
    fio = (f"fio --name=zones --filename=/dev/{device} --ioengine=libaio --direct=1 --zonemode=zbd --max_open_zones=4 "
           "--verify=crc32c --verify_fatal=1 --size=64M")
    ssds.sh(f"{fio} --rw=write --bs=64k")
    report = ssds.sh(f"nvme zns report-zones -d 16 /dev/{device}")
    assert report.count("State: 0xe0") == 16, report  # full
    ssds.sh(f"{fio} --rw=randwrite --bs=16k --iodepth=4 --io_size=24M")
    ssds.sh(f"nvme zns reset-zone -a /dev/{device}; dd if=/dev/urandom of=/tmp/data bs=64k count=1 status=none")
    ssds.sh(f"nvme zns zone-append -s 0 -z 65536 -d /tmp/data /dev/{device}; cmp -n 65536 /tmp/data /dev/{device}")
    report = ssds.sh(f"nvme zns report-zones -d 16 /dev/{device}")
    assert report.count("State: 0x10") == 15 and report.count("State: 0x20") == 1, report  # empty; implicitly opened


def test_the_kernel_sees_what_was_written(ssds):
    ssds.sh("dd if=/dev/urandom of=/tmp/data bs=1M count=16 status=none")
    ssds.sh(f"pollux cp /tmp/data pcie://{MANY}/2")
    _, second = ssds.unbind(MANY)
    ssds.sh(f"cmp -n {16 * MIB} /tmp/data /dev/{second}")
    ssds.sh(f"dd if=/dev/urandom of=/dev/{second} bs=1M count=4 oflag=direct status=none; cp /dev/null /tmp/back")
    ssds.sh(f"dd if=/dev/{second} of=/tmp/data bs=1M count=16 iflag=direct status=none")
    ssds.bind(MANY)
    ssds.sh(f"truncate -s 64M /tmp/back; pollux cp pcie://{MANY}/2 /tmp/back; cmp -n {16 * MIB} /tmp/data /tmp/back")


@pytest.mark.parametrize("options", ["", "?prchk_guard=0&prchk_reftag=0"], ids=["checked-here", "by-the-controller"])
def test_blocks_with_metadata(ssds, options):
    """Of every format, by random load: tuples are made here and checked by QEMU, and made there and checked here."""
    disks = [f"pcie://{GUARDED}/{nsid}{options}" for nsid in range(1, len(FORMATS) + 1)]
    for size in "4K", "20K", "256K":
        ssds.perf(f"-w randrw -o {size} -q 8 --count 200 -m 0,1 -P 2", *(f"'{disk}'" for disk in disks))


def test_the_kernel_sees_what_was_written_to_protected_blocks(ssds):
    """And the other way round, as far as it knows the formats: it checks nothing by itself, and lets QEMU."""
    size, seen = 4 * MIB, set()
    ssds.sh(f"dd if=/dev/urandom of=/tmp/data bs={size} count=1 status=none")
    for nsid in range(1, len(FORMATS) + 1):
        ssds.sh(f"pollux cp /tmp/data pcie://{GUARDED}/{nsid}")
    names = ssds.unbind(GUARDED, len(FORMATS))
    ssds.sh(f"dd if=/dev/urandom of=/tmp/theirs bs={size} count=1 status=none")
    for nsid, name in names.items():
        if int(ssds.sh(f"cat /sys/block/{name}/size")) == 0:
            continue
        ssds.sh(f"dd if=/dev/{name} of=/tmp/back bs={MIB} count=4 iflag=direct status=none; cmp /tmp/data /tmp/back")
        status, _ = ssds.run(f"dd if=/tmp/theirs of=/dev/{name} bs={MIB} oflag=direct status=none")
        if status == 0:  # tuples of type 2 it makes none of
            seen.add(nsid)
    assert {1, 3, 5, 8, 11} <= seen, seen
    ssds.bind(GUARDED)
    for nsid in seen:
        ssds.sh(f"truncate -s 16M /tmp/back; pollux cp pcie://{GUARDED}/{nsid} /tmp/back; "
                f"cmp -n {size} /tmp/theirs /tmp/back; rm /tmp/back")


def test_a_bit_that_has_changed_on_the_medium(ssds):
    """It is read by nobody, and told with its block, as a verify of a kernel's host tells; writing it makes it good."""
    ssds.sh(f"dd if=/dev/urandom of=/tmp/data bs={MIB} count=1 status=none")
    for nsid in 1, 5:
        disk = f"pcie://{GUARDED}/{nsid}"
        ssds.sh(f"pollux cp /tmp/data {disk}")
        with open(ssds.work / f"guarded{nsid}", "r+b") as file:
            file.seek(77 * BLOCK + 100)
            byte = file.read(1)[0]
            file.seek(77 * BLOCK + 100)
            file.write(bytes([byte ^ 4]))
        serve = ssds.serve(f"--nqn {NQN} {disk}")
        ssds.sh(f"nvme connect -t tcp -a 127.0.0.1 -s {PORT} -n {NQN}")
        device = ssds.machine.wait_until(f"""for each in /sys/block/nvme*n*; do
            [ "$(cat $each/device/subsysnqn)" = {NQN} ] && [ -b /dev/${{each##*/}} ] && echo ${{each##*/}}; done |
            grep nvme""", during=[serve]).strip()
        ssds.sh(f"nvme verify /dev/{device} -s 0 -c 76; nvme verify /dev/{device} -s 78 -c 99")
        status, output = ssds.run(f"nvme verify /dev/{device} -s 70 -c 15")
        assert status and "End-to-end Guard Check Error" in output.replace("GUARD", "Guard"), output
        ssds.sh("nvme disconnect-all; killall pollux")
        serve.wait()
        assert "blocks 70 to 85: End-to-end Guard Check Error, says the controller" in ssds.sh("cat /tmp/serve.err")
        for options in "", "?prchk_guard=0&prchk_reftag=0":
            status, output = ssds.run(f"truncate -s 16M /tmp/back; pollux cp '{disk}{options}' /tmp/back; s=$?; "
                                      "rm /tmp/back; exit $s")
            assert status and "End-to-end Guard Check Error" in output, output
        ssds.sh(f"pollux cp /tmp/data {disk}; truncate -s 16M /tmp/back; pollux cp {disk} /tmp/back; "
                f"cmp -n {MIB} /tmp/data /tmp/back; rm /tmp/back")


def test_a_kernels_host_on_top_of_it(ssds):
    """fio, on the kernel's NVMe/TCP host, on pollux, on the SSD."""
    ssds.serve(f"--nqn {NQN} pcie://{MANY}/1 pcie://{MANY}/2")
    ssds.sh(f"nvme connect -t tcp -a 127.0.0.1 -s {PORT} -n {NQN}")
    found = ssds.machine.wait_until(f"""for each in /sys/block/nvme*n*; do
        [ "$(cat $each/device/subsysnqn)" = {NQN} ] && [ -b /dev/${{each##*/}} ] && echo ${{each##*/}}; done |
        sort | tee /tmp/found; [ $(wc -l </tmp/found) = 2 ]""").split()
    for device in found:
        ssds.sh("fio --name=verify --ioengine=libaio --iodepth=16 --direct=1 --verify=crc32c --verify_fatal=1 "
                f"--rw=randwrite --bsrange=4k-256k --size=16M --filename=/dev/{device}")
        ssds.sh(f"blkdiscard -z -o 0 -l 1048576 /dev/{device} && cmp -n 1048576 /dev/zero /dev/{device}")
        ssds.sh(f"blkdiscard -o 2097152 -l 1048576 /dev/{device}")
        ssds.sh(f"nvme flush /dev/{device}")


def test_killed_it_starts_again(ssds):
    for _ in range(3):
        job = ssds.machine.spawn(f"exec pollux perf -w randwrite -t 60 pcie://{PLAIN}/1")
        ssds.machine.wait_until(f"[ -e /proc/$(cat /run/job/{job.number}.pid)/fd ] && sleep 1")
        job.kill()
        job.wait()
        ssds.perf("-w randrw -o 4K --count 500", f"pcie://{PLAIN}/1")


def test_a_user_needs_the_node_and_nothing_else(ssds):
    group = ssds.sh(f"basename $(readlink /sys/bus/pci/devices/{PLAIN}/iommu_group)").strip()
    ssds.sh("""echo 'root:x:0:0::/:/bin/sh' >/etc/passwd; echo 'user:x:1000:1000::/tmp:/bin/sh' >>/etc/passwd
        chmod 1777 /tmp; chmod 666 /dev/vfio/vfio""")
    as_user = "su user -c"
    load = f"pollux perf -w randrw --verify --count 500 pcie://{PLAIN}/1"
    status, output = ssds.run(f"{as_user} '{load}'")
    assert status and f"may not open /dev/vfio/{group}; chown it" in output
    ssds.sh(f"chown user /dev/vfio/{group}; ulimit -l 65536; {as_user} '{load}'")
    assert "WARNING" not in ssds.sh(f"ulimit -l 8192; {as_user} '{load}'")  # enough for a few buffers
    output = ssds.sh(f"ulimit -l 5000; {as_user} '{load} -m 0,1 -P 2'")  # of two cores: half of it is left for queues
    assert "this process may lock 5000 KiB in all, half of it for data" in output
    output = ssds.sh(f"ulimit -l 1800; {as_user} '{load}'")  # queues fit, buffers do not: they are copied
    assert "this process may lock 1800 KiB in all, half of it for data; raise that by LimitMEMLOCK=" in output
    status, output = ssds.run(f"ulimit -l 64; {as_user} '{load}'")
    assert status and "ulimit -l" in output


def test_by_its_own_device(ssds):
    """Two SSDs, by iommufd, in one address space."""
    status, _ = ssds.run(f"[ -c /dev/iommu ] && ls /sys/bus/pci/devices/{PLAIN}/vfio-dev")
    if status:
        pytest.skip("the guest's kernel has no iommufd, or no VFIO devices of their own (CONFIG_IOMMUFD, "
                    "CONFIG_VFIO_DEVICE_CDEV; Debian's have neither): its groups are used, and test_pci_iommufd has a "
                    "kernel that is made up")
    serve = ssds.serve(f"--nqn {NQN} pcie://{PLAIN}/1 pcie://{MANY}/1")
    files = ssds.sh(f"ls -l /proc/$(cat /run/job/{serve.number}.pid)/fd")
    assert files.count("/dev/vfio/devices/") == 2 and files.count("/dev/iommu") == 1, files
    status, output = ssds.run(f"pollux identify pcie://{PLAIN}")
    assert status and "it is in use by pollux (process" in output
    ssds.sh("killall pollux")
    serve.wait()
    ssds.perf("-w randrw -o 20K -q 16 --count 500 -m 0,1 -P 2", f"pcie://{PLAIN}/1", f"pcie://{MANY}/1")


def test_commands_of_ones_own(ssds):
    """Of a client: to both queues, and in all sizes."""
    calls = Calls(ssds.machine)
    calls.call("bdev_nvme_attach_controller", name="Nvme0", trtype="PCIe", traddr=MANY)
    status, page = calls.send("Nvme0", "admin", 6, cdw10=1, length=4096)
    assert status == 0 and page[4:8] == b"MANY"
    for blocks in 1, 2, 3, 9:
        data = bytes(blocks + n // 4096 for n in range(4096 * blocks))
        assert calls.send("Nvme0n2", "io", 1, 2, 5, blocks - 1, data=data)[0] == 0
        assert calls.send("Nvme0n2", "io", 2, 2, 5, blocks - 1, length=len(data)) == (0, data)
    assert calls.send("Nvme0", "io", 2, 1, 1 << 30, length=512)[0] == 0x80
    assert calls.send("Nvme0", "io", 0x82, 1, length=512)[0] == 1  # a vendor's, and QEMU has none


def test_who_has_it_is_said(ssds):
    ssds.serve(f"--nqn {NQN} pcie://{PLAIN}/1")
    status, output = ssds.run(f"pollux identify pcie://{PLAIN}")
    assert status and "it is in use by pollux (process" in output
    ssds.sh("killall pollux")


def test_pulled_out_under_load(ssds):
    """Its requests end with errors, another SSD's go on; when it is back so is the disk."""
    other = ssds.machine.spawn(f"exec pollux perf --verify -w randrw -t 20 pcie://{PLAIN}/1")
    serve = ssds.serve(f"--nqn {NQN} pcie://{PLUGGED}/1?reconnect_deadline=1")
    ssds.sh(f"nvme connect -t tcp -a 127.0.0.1 -s {PORT} -n {NQN}")
    device = ssds.machine.wait_until(f"""for each in /sys/block/nvme*n*; do
        [ "$(cat $each/device/subsysnqn)" = {NQN} ] && [ -b /dev/${{each##*/}} ] && echo ${{each##*/}}; done |
        grep nvme""").strip()
    load = ssds.machine.spawn(f"fio --name=load --ioengine=libaio --iodepth=16 --direct=1 --rw=randwrite --bs=4k "
                              f"--size=16M --loops=100000 --filename=/dev/{device}")
    ssds.sh("sleep 1")
    ssds.qmp("device_del", id="plugged")
    status, output = load.wait()
    assert status and "error" in output
    ssds.machine.wait_until(f"[ ! -e /sys/bus/pci/devices/{PLUGGED} ]")
    ssds.machine.wait_until("grep -q 'it is given up: it is being removed' /tmp/serve.err", during=[serve])
    status, output = other.wait()
    assert status == 0 and "0 did not" in output
    assert ssds.machine.wait_until("true") == ""
    ssds.qmp("device_add", driver="nvme", id="plugged", drive="plugged", serial="PLUGGED", bus="rootport")
    ssds.machine.wait_until(f"[ -e /sys/bus/pci/devices/{PLUGGED}/driver ]")
    ssds.bind(PLUGGED)
    ssds.machine.wait_until(f"dd if=/dev/{device} of=/dev/null bs=4k count=1 iflag=direct", during=[serve])
    ssds.sh("fio --name=verify --ioengine=libaio --iodepth=16 --direct=1 --verify=crc32c --verify_fatal=1 "
            f"--rw=randwrite --bs=4k --size=4M --filename=/dev/{device}")


def set_slot_power(machine, on):
    """What a slot's controller does that has no time to ask: Power Controller Control, bit 10 of Slot Control."""
    config = f"/sys/bus/pci/devices/{SLOT}/config"
    space = bytes.fromhex(machine.sh(f"od -An -v -tx1 {config}"))
    capability = space[0x34]
    while space[capability] != 0x10:  # PCI Express
        capability = space[capability + 1]
    high = capability + 0x19
    value = space[high] & ~4 if on else space[high] | 4
    machine.sh(f"printf '\\{value:03o}' | dd of={config} bs=1 seek={high} conv=notrunc status=none")


def test_power_is_cut_under_load(ssds):
    """Nobody is told, and its registers read as zeroes. That is noticed before a command takes too long; with power it
    is a disk again."""
    serve = ssds.serve(f"--nqn {NQN} pcie://{PLUGGED}/1?reconnect_deadline=1")
    disk = f"nvme+tcp://127.0.0.1:{PORT}/{NQN}"
    load = ssds.machine.spawn(f"exec pollux perf -w randwrite -q 16 -t 100000 {disk}")
    ssds.sh("sleep 1")
    try:
        set_slot_power(ssds.machine, False)
        ssds.machine.wait_until("grep -q 'it is not ready any more' /tmp/serve.err", during=[serve, load])
        ssds.machine.wait_until("grep -q 'no path for 1 s: requests fail' /tmp/serve.err", during=[serve, load])
    finally:
        set_slot_power(ssds.machine, True)
    load.interrupt()
    status, output = load.wait()
    assert status and "requests failed" in output
    ssds.machine.wait_until(f"pollux perf -w randread --count 1 {disk}", during=[serve])
    ssds.perf("-w randwrite -q 16 --count 1000", disk)
    assert "has had no answer for" not in ssds.sh("cat /tmp/serve.err")


def test_without_an_iommu(tmp_path_factory):
    """By UIO, with huge pages, as root; and what is said where something of that is missing."""
    with boot(tmp_path_factory, lambda work: (*plain_device(work), *guarded_device(work))) as guest:
        guest.sh("modprobe nvme; modprobe uio_pci_generic")
        guest.wait_until(" && ".join(f"[ -e /sys/bus/pci/devices/{addr}/driver ]" for addr in (PLAIN, GUARDED)))
        ssds = Ssds(guest)
        ssds.bind(PLAIN, "uio_pci_generic")
        disk = f"pcie://{PLAIN}/1"
        status, output = guest.run(f"pollux identify {disk}")
        assert status and "it takes huge pages: " in output
        guest.sh(output.partition("it takes huge pages: ")[2])
        assert guest.sh("cat /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages") == "64\n"
        for size in "4K", "128K", "1M":
            ssds.perf(f"-w randrw -o {size} -q 16 --count 500 -m 0,1 -P 2", disk)
        ssds.bind(GUARDED, "uio_pci_generic")
        for nsid in 1, 5, 10, 11:  # of each way that metadata may come
            ssds.perf("-w randrw -o 64K -q 16 --count 200 -m 0,1 -P 2", f"pcie://{GUARDED}/{nsid}")
        job = guest.spawn(f"exec pollux perf -w randwrite -t 60 {disk}")
        guest.wait_until(f"[ -e /proc/$(cat /run/job/{job.number}.pid)/fd ] && sleep 1")
        status, output = guest.run(f"pollux identify {disk}")
        assert status and "it is in use by another process" in output
        job.kill()
        job.wait()
        ssds.perf("-w randrw -o 4K --count 500 --poll sleep", disk)
        device = ssds.unbind(PLAIN)[0]
        guest.sh(f"dd if=/dev/{device} of=/dev/null bs=1M count=16 iflag=direct")
