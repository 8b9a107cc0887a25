# SPDX-License-Identifier: BSD-3-Clause
"""NVMe devices of the guest's PCI bus, in use in the ways there are, and handed over and back by `pollux nvme`."""
import json
import re
from pathlib import Path

import conftest
import pytest
import target as pollux
from guest import Guest

A, B = "0000:00:10.0", "0000:00:11.0"  # alone, each in an IOMMU group of its own
TWIN, OTHER_TWIN = "0000:00:12.0", "0000:00:13.0"  # two controllers with one namespace
BRIDGED, BESIDE = "0000:01:01.0", "0000:01:02.0"  # behind a bridge, in one group
IOMMU = ("-machine", "q35", "-device", "intel-iommu,intremap=on,caching-mode=on,aw-bits=48")
MIB = 64


def disk(work, name, device):
    """Options of QEMU for a controller with one namespace, whose disk is new."""
    path = work / name
    with open(path, "wb") as file:
        file.truncate(MIB << 20)
    return ("-drive", f"if=none,id={name},format=raw,file={path}", "-device", device.format(name))


class Machine:
    """A guest in which pollux is installed."""

    def __init__(self, guest):
        self.guest, self.sh, self.run = guest, guest.sh, guest.run

    def list(self):
        """{address: what `pollux nvme list --json` says}"""
        return {each["address"]: each for each in json.loads(self.sh("pollux nvme list --json"))}

    def disk(self, address):
        """The block device of a controller's namespace: numbers are not those of last time."""
        where = f"/sys/bus/pci/devices/{address}/nvme/nvme*"
        name = self.guest.wait_until(f"cd {where} && ls -d nvme*n* 2>/dev/null | grep .").split()[0]
        device = "/dev/" + re.sub(r"c\d+n", "n", name)
        self.guest.wait_until(f"[ -b {device} ]")
        return device

    def driver(self, address):
        return self.run(f"basename $(readlink /sys/bus/pci/devices/{address}/driver)")[1].strip()

    def refused(self, address, options=""):
        """What `bind` says, which changes nothing, with --dry-run or without."""
        before = self.driver(address)
        said = []
        for dry in ("--dry-run", ""):
            status, output = self.run(f"pollux nvme bind {dry} {options} {address}")
            assert status == 1, output
            said.append(output)
            assert self.driver(address) == before
        assert said[0] == said[1]
        return said[0]

    def taken_and_given_back(self, address, options=""):
        before = self.sh("pollux nvme list")
        group = self.list()[address]["iommu_group"]
        said = self.sh(f"pollux nvme bind {options} {address}")
        assert f"{address}: vfio-pci has it now: /dev/vfio/{group}\n" in said
        assert self.driver(address) == "vfio-pci"
        self.sh(f"[ -c /dev/vfio/{group} ]")
        override = self.sh(f"cat /sys/bus/pci/devices/{address}/driver_override").strip()
        assert override == "(null)"
        self.sh(f"pollux nvme unbind {address}")
        assert self.driver(address) == "nvme"
        device = self.disk(address)
        assert int(self.sh(f"blockdev --getsize64 {device}")) == MIB << 20
        assert self.sh("pollux nvme list") == before


def booted(tmp_path_factory, name, devices):
    build = Path(pollux.binary()).resolve().parent
    if not (build / "build.ninja").exists():
        pytest.skip(f"nothing to install: {pollux.binary()} is not in a build directory")
    work = tmp_path_factory.mktemp(name)
    image = conftest.vm_image("--install", build, work / "archive")
    return Guest(image, work, cpus=1, devices=devices(work), archives=[work / "archive"])


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """One that has an IOMMU."""
    def devices(work):
        return (*IOMMU,
                *disk(work, "disk-a", "nvme,serial={0},drive={0},addr=10"),
                *disk(work, "disk-b", "nvme,serial={0},drive={0},addr=11"),
                "-device", "nvme-subsys,id=twins",
                "-device", "nvme,serial=twin,subsys=twins,addr=12", "-device", "nvme,serial=twin,subsys=twins,addr=13",
                *disk(work, "shared", "nvme-ns,drive={0},nsid=1,shared=on"),
                "-device", "pcie-pci-bridge,id=bridge,addr=14",
                *disk(work, "bridged", "nvme,serial={0},drive={0},bus=bridge,addr=1"),
                *disk(work, "beside", "nvme,serial={0},drive={0},bus=bridge,addr=2"))
    with booted(tmp_path_factory, "bind", devices) as guest:
        guest.sh("modprobe nvme; modprobe vfio-pci; modprobe loop; modprobe dm-mod; modprobe raid1; modprobe ext4")
        guest.sh("modprobe configfs && mount -t configfs configfs /sys/kernel/config && modprobe nvmet")
        machine = Machine(guest)
        for address in (A, B, TWIN, OTHER_TWIN, BRIDGED, BESIDE):
            machine.disk(address)
        yield machine


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """One that has none."""
    with booted(tmp_path_factory, "plain",
                lambda work: disk(work, "disk-a", "nvme,serial={0},drive={0},addr=10")) as guest:
        guest.sh("modprobe nvme")
        yield Machine(guest)


MD = """
echo md127 >/sys/module/md_mod/parameters/new_array
cd /sys/block/md127/md
echo none >metadata_version
echo raid1 >level
echo 1 >raid_disks
cat /sys/class/block/${disk#/dev/}/dev >new_dev
echo 32768 >dev-${disk#/dev/}/size
echo 0 >dev-${disk#/dev/}/slot
echo active >array_state
"""
NVMET = """
cd /sys/kernel/config/nvmet/subsystems
mkdir x x/namespaces/1
echo $disk >x/namespaces/1/device_path
echo 1 >x/namespaces/1/enable
"""
NVMET_END = """
cd /sys/kernel/config/nvmet/subsystems
echo 0 >x/namespaces/1/enable
rmdir x/namespaces/1 x
"""
ELSEWHERE = "unshare -m sh -c 'mkdir -p /tmp/x; mount $disk /tmp/x; touch /tmp/on; exec sleep 1000'"

# How it comes to be in use, what is said of that, how it ends. $disk is the disk; `job` is one that goes on.
SHAPES = {
    "mounted": ("mkfs.ext4 -q $disk; mount $disk /mnt", r"nvme\dn1 is mounted on /mnt; what to do: umount /mnt",
                "umount /mnt"),
    "swap": ("mkswap $disk; swapon $disk", r"nvme\dn1 is swapped to; what to do: swapoff /dev/nvme\dn1",
             "swapoff $disk"),
    "device-mapper": ("dmsetup create --noudevsync held --table \"0 1000 linear $disk 0\"",
                      r"dm-0 stands on nvme\dn1 \(held\); what to do: dmsetup remove held",
                      "dmsetup remove --noudevsync held"),
    "mounted on device-mapper": ("mkfs.ext4 -q $disk; dmsetup create --noudevsync held --table "
                                 "\"0 $(blockdev --getsz $disk) linear $disk 0\"; dmsetup mknodes; "
                                 "mount /dev/mapper/held /mnt",
                                 r"dm-0, which stands on nvme\dn1 is mounted on /mnt",
                                 "umount /mnt; dmsetup remove --noudevsync held"),
    "md": (MD, r"md127 stands on nvme\dn1; what to do: mdadm --stop /dev/md127",
           "echo clear >/sys/block/md127/md/array_state"),
    "loop": ("losetup /dev/loop0 $disk", r"a loop device has nvme\dn1: /sys/block/loop0/loop", "losetup -d /dev/loop0"),
    "the kernel's target": (NVMET, r"the kernel's NVMe target has nvme\dn1: /sys/kernel/config/nvmet/subsystems/x/",
                            NVMET_END),
    "partition": ("printf 'n\\np\\n1\\n\\n\\nw\\n' | fdisk $disk; mkfs.ext4 -q ${disk}p1; mount ${disk}p1 /mnt",
                  r"nvme\dn1p1 is mounted on /mnt", "umount /mnt; dd if=/dev/zero of=$disk bs=1M count=1; "
                  "blockdev --rereadpt $disk"),
}
WIPE = "dd if=/dev/zero of=$disk bs=1M count=2 conv=fsync"


@pytest.mark.parametrize("shape", SHAPES)
def test_a_disk_in_use_is_refused_and_goes_when_it_is_idle(machine, shape):
    begin, said, end = SHAPES[shape]
    device = machine.disk(A)
    machine.sh(f"disk={device}\n{begin}")
    try:
        refusal = machine.refused(A)
        assert re.search(f"^pollux: {A}: {said}", refusal, re.M) and "wipefs" not in refusal
        assert re.search(f"{A}.* {said.partition(';')[0]}", machine.sh("pollux nvme list"))
    finally:
        machine.sh(f"disk={device}\n{end}\n{WIPE}")
    machine.taken_and_given_back(A)


def test_a_mount_in_another_namespace_is_found_with_who_has_it(machine):
    device = machine.disk(A)
    machine.sh(f"mkfs.ext4 -q {device}")
    job = machine.guest.spawn(f"disk={device}; export disk; exec {ELSEWHERE}")
    machine.guest.wait_until("[ -e /tmp/on ]")
    machine.sh(f"! grep {device} /proc/mounts")
    assert re.search(rf"nvme\dn1 is mounted on /tmp/x where process \d+ \(sleep\) is; what to do: nsenter -t \d+ -m",
                     machine.refused(A))
    job.kill()
    job.wait()
    machine.sh(f"rm /tmp/on; disk={device}; {WIPE}")
    machine.taken_and_given_back(A)


@pytest.mark.parametrize("node", ["/dev/nvme{}n1", "/dev/nvme{}", "/dev/ng{}n1"])
def test_a_node_that_a_process_has_open_is_found_with_its_name(machine, node):
    node = node.format(re.search(r"nvme(\d+)", machine.disk(A))[1])
    job = machine.guest.spawn(f"exec 9<{node}; exec sleep 1000")
    machine.guest.wait_until(f"ls -l /proc/*/fd/9 | grep -q {node}$")
    assert re.search(rf"process \d+ \(sleep\) has {node} open; what to do: end it", machine.refused(A))
    job.kill()
    job.wait()
    machine.taken_and_given_back(A)


SIGNATURES = {
    "LVM2_member": "printf 'LABELONE\\1\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\40\\0\\0\\0LVM2 001' | "
                   "dd of=$disk bs=512 seek=1 conv=notrunc",
    "crypto_LUKS": "printf 'LUKS\\272\\276\\0\\1' | dd of=$disk conv=notrunc",
    "ext4": "mkfs.ext4 -q $disk",
    "swap": "mkswap $disk",
}


@pytest.mark.parametrize("kind", SIGNATURES)
def test_what_is_on_a_disk_is_refused_and_passes_by_its_serial_number(machine, kind):
    device = machine.disk(A)
    machine.sh(f"disk={device}; {SIGNATURES[kind]}; sync")
    said = machine.refused(A)
    assert re.search(rf"{A}: nvme\dn1 holds {kind}", said) and "--allow-content disk-a" in said
    status, output = machine.run(f"pollux nvme bind {A} --allow-content disk-b")
    assert status == 2 and 'none of the devices has the serial number "disk-b"' in output
    machine.taken_and_given_back(A, "--allow-content disk-a")
    machine.sh(f"disk={device}; {WIPE}")


def test_content_does_not_make_a_mount_pass(machine):
    device = machine.disk(A)
    machine.sh(f"mkfs.ext4 -q {device}; mount {device} /mnt")
    assert "is mounted on /mnt" in machine.refused(A, "--allow-content disk-a")
    machine.sh(f"umount /mnt; disk={device}; {WIPE}")


def test_one_path_of_two_is_refused_and_both_go_together(machine):
    machine.disk(TWIN)
    said = machine.refused(TWIN)
    assert re.search(rf"{TWIN}: nvme\dn1 is reached by nvme\d as well.* name both devices, this and {OTHER_TWIN}", said)
    machine.sh(f"pollux nvme bind {TWIN} {OTHER_TWIN}")
    assert [machine.driver(each) for each in (TWIN, OTHER_TWIN)] == ["vfio-pci"] * 2
    machine.sh(f"pollux nvme unbind {TWIN} {OTHER_TWIN}")
    assert machine.disk(TWIN) == machine.disk(OTHER_TWIN)


def test_a_group_with_another_device_is_refused_and_both_go_together(machine):
    assert re.search(rf"{BRIDGED}: its IOMMU group \d+ has {BESIDE} in it too, which the kernel has \(driver nvme\)",
                     machine.refused(BRIDGED))
    machine.sh(f"pollux nvme bind {BRIDGED} {BESIDE}")
    machine.sh(f"pollux nvme unbind {BRIDGED} {BESIDE}")
    assert [machine.driver(each) for each in (BRIDGED, BESIDE)] == ["nvme"] * 2


def test_a_device_is_not_driven_without_an_iommu_or_beside_one_that_the_kernel_has(machine):
    """`bind` does not let it come to the latter."""
    where = f"/sys/bus/pci/devices/{BRIDGED}"
    machine.sh(f"echo {BRIDGED} >{where}/driver/unbind; echo vfio-pci >{where}/driver_override; "
               f"echo {BRIDGED} >/sys/bus/pci/drivers_probe; echo >{where}/driver_override")
    assert [machine.driver(each) for each in (BRIDGED, BESIDE)] == ["vfio-pci", "nvme"]
    machine.sh("! lsmod | grep -q vfio_iommu_type1 || rmmod vfio_iommu_type1")
    status, output = machine.run(f"pollux identify pcie://{BRIDGED}")
    assert status and f"{BRIDGED}: VFIO has no IOMMU to work with: modprobe vfio_iommu_type1" in output, output
    machine.sh("modprobe vfio_iommu_type1")
    status, output = machine.run(f"pollux identify pcie://{BRIDGED}")
    assert status and re.search(rf"it is in IOMMU group \d+ together with {BESIDE} \(nvme\); all of them have to be "
                                "with vfio-pci", output), output
    machine.sh(f"pollux nvme unbind {BRIDGED}")
    assert machine.driver(BRIDGED) == "nvme"


def test_one_in_use_keeps_all_where_they_are(machine):
    device = machine.disk(B)
    machine.sh(f"mkfs.ext4 -q {device}; mount {device} /mnt")
    status, output = machine.run(f"pollux nvme bind {A} {B}")
    assert status == 1 and "nothing was bound; 1 reason speaks against it" in output
    assert [machine.driver(each) for each in (A, B)] == ["nvme"] * 2
    machine.sh(f"umount /mnt; disk={device}; {WIPE}")


def test_a_device_that_another_process_has_is_refused_with_its_name(machine):
    machine.sh(f"pollux nvme bind {A}")
    group = machine.list()[A]["iommu_group"]
    job = machine.guest.spawn(f"exec 9<>/dev/vfio/{group}; exec sleep 1000")
    machine.guest.wait_until(f"ls -l /proc/*/fd/9 | grep -q /dev/vfio/{group}$")
    expected = rf"pollux: {A}: process \d+ \(sleep\) has /dev/vfio/{group} open; what to do: end it"
    assert re.search(expected, machine.refused(A))
    status, output = machine.run(f"pollux nvme unbind {A}")
    assert status == 1 and re.search(expected, output)
    assert machine.driver(A) == "vfio-pci"
    job.kill()
    job.wait()
    assert f"{A}: vfio-pci has it already: /dev/vfio/{group}" in machine.sh(f"pollux nvme bind {A}")
    machine.sh(f"pollux nvme unbind {A}")
    machine.disk(A)


def test_a_bound_device_is_listed_as_what_it_is(machine):
    before = machine.list()[A]
    machine.sh("pollux nvme bind disk-a")
    bound = machine.list()[A]
    assert (bound["driver"], bound["controller"], bound["uses"]) == ("vfio-pci", None, [])
    same = ("model", "serial", "firmware", "bytes", "namespaces", "iommu_group", "numa_node")
    assert {key: bound[key] for key in same} == {key: before[key] for key in same}
    machine.sh("pollux nvme unbind disk-a")
    machine.disk(A)


def test_the_list_agrees_with_nvme_cli(machine):
    theirs = {each["DevicePath"]: each for each in json.loads(machine.sh("nvme list -o json"))["Devices"]}
    ours = machine.list()
    assert set(ours) == {A, B, TWIN, OTHER_TWIN, BRIDGED, BESIDE}
    for address in (A, B, BRIDGED, BESIDE):
        entry, mine = theirs[machine.disk(address)], ours[address]
        assert (entry["ModelNumber"].strip(), entry["SerialNumber"].strip(), entry["Firmware"].strip(),
                entry["PhysicalSize"]) == (mine["model"], mine["serial"], mine["firmware"], mine["bytes"])
        assert (mine["driver"], mine["state"], mine["uses"]) == ("nvme", "live", [])


def test_without_an_iommu_it_says_so_and_uio_is_left(plain):
    address = A
    plain.disk(address)
    assert "the driver vfio-pci is not loaded: modprobe vfio-pci" in plain.refused(address)
    plain.sh("modprobe vfio-pci")
    said = plain.refused(address)
    assert "vfio-pci needs an IOMMU, and there is none that is on: turn it on in the firmware's setup" in said
    assert "--driver uio_pci_generic is left" in said
    assert "the driver uio_pci_generic is not loaded" in plain.refused(address, "--driver uio_pci_generic")
    plain.sh("modprobe uio_pci_generic")
    assert f"{address}: uio_pci_generic has it now: /dev/uio0" in plain.sh(
        f"pollux nvme bind --driver uio_pci_generic {address}")
    job = plain.guest.spawn("exec 9<>/dev/uio0; exec sleep 1000")
    plain.guest.wait_until("ls -l /proc/*/fd/9 | grep -q /dev/uio0$")
    status, output = plain.run(f"pollux nvme unbind {address}")
    assert status == 1 and re.search(r"process \d+ \(sleep\) has /dev/uio0 open", output)
    job.kill()
    job.wait()
    plain.sh(f"pollux nvme unbind {address}")
    plain.disk(address)
    assert plain.driver(address) == "nvme"


def test_nobody_but_root_is_told_that_a_device_is_idle(plain):
    plain.disk(A)
    listed = plain.sh("setpriv --reuid 1000 --clear-groups pollux nvme list")
    assert re.search(rf"{A} .* not known: do it as root", listed)
