/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Who uses an NVMe device: shapes of use that have to be seen, each, and idle ones that must not be refused. Beside the
 * device that is asked about stands another one, which is in use all the time.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "pci_tree.h"

enum {
    ROOT = 1 << PLX_PCI_ROOT,
    MOUNTED = 1 << PLX_PCI_MOUNTED,
    SWAP = 1 << PLX_PCI_SWAP,
    HOLDER = 1 << PLX_PCI_HOLDER,
    EXPORTED = 1 << PLX_PCI_EXPORTED,
    OPEN = 1 << PLX_PCI_OPEN,
    CLAIMED = 1 << PLX_PCI_CLAIMED,
    SHARED = 1 << PLX_PCI_SHARED,
    STATE = 1 << PLX_PCI_STATE,
    UNSEEN = 1 << PLX_PCI_UNSEEN,
    CONTENT = 1 << PLX_PCI_CONTENT,
};

struct shape {
    const char *name;
    void (*make)(void);
    unsigned kinds;          /* exactly these */
    const char *what, *cure; /* in one of them */
};

#define MOUNTS "20 1 0:20 / / rw - tmpfs tmpfs rw\n"
#define OTHER_MOUNTED "30 20 259:80 / /other rw shared:1 - ext4 /dev/nvme1n1 rw\n"

static void mounts_here(const char *lines)
{
    char text[1024];
    snprintf(text, sizeof text, MOUNTS OTHER_MOUNTED "%s", lines);
    tree_file(text, "/proc/self/mountinfo");
    tree_file(text, "/proc/1/mountinfo");
    tree_file(text, "/proc/100/mountinfo");
}

static void make_machine(void)
{
    tree_make();
    tree_device(0);
    tree_namespace(0, 1);
    tree_device(1);
    tree_namespace(1, 1);
    tree_claim("nvme1n1");
    mounts_here("");
    tree_process(200, "fio", 1, MOUNTS OTHER_MOUNTED);
    tree_opens(200, "/dev/nvme1n1");
    tree_holder("dm-9", 253, 9, "nvme1n1");
}

/* ---- in use ---- */

static void mounted(void)
{
    tree_partition(0, 1, 2);
    tree_claim("nvme0n1p2");
    tree_claim("nvme0n1");
    mounts_here("31 20 259:18 /sub /mnt/a\\040b rw shared:2 - ext4 /dev/root rw\n");
}

static void mounted_whole(void)
{
    tree_claim("nvme0n1");
    mounts_here("31 20 259:16 / /data rw - xfs /dev/nvme0n1 rw\n");
}

static void mounted_in_another_namespace(void)
{
    tree_claim("nvme0n1");
    tree_process(300, "dockerd", 2, "20 1 0:20 / / rw - tmpfs tmpfs rw\n31 20 259:16 / /data rw - xfs /dev/sdb rw\n");
}

static void mounted_as_root_of_a_container(void)
{
    tree_claim("nvme0n1");
    tree_process(300, "sh", 2, "31 20 259:16 / / rw - xfs /dev/nvme0n1 rw\n");
}

static void root_disk(void)
{
    tree_partition(0, 1, 1);
    tree_claim("nvme0n1p1");
    tree_claim("nvme0n1");
    mounts_here("31 20 259:17 / / rw - ext4 /dev/nvme0n1p1 rw\n");
}

static void lvm(const char *uuid)
{
    tree_partition(0, 1, 3);
    tree_claim("nvme0n1p3");
    tree_claim("nvme0n1");
    tree_holder("dm-0", 253, 0, "nvme0n1p3");
    tree_file("vg-root\n", "/sys/class/block/dm-0/dm/name");
    tree_file(uuid, "/sys/class/block/dm-0/dm/uuid");
}

static void lvm_holder(void)
{
    lvm("LVM-abcdef\n");
}

static void root_on_lvm(void)
{
    lvm("LVM-abcdef\n");
    mounts_here("31 20 253:0 / / rw - ext4 /dev/mapper/vg-root rw\n");
}

static void mounted_on_lvm_on_md(void)
{
    tree_claim("nvme0n1");
    tree_holder("md127", 9, 127, "nvme0n1");
    tree_file("", "/sys/class/block/md127/md/level");
    tree_holder("dm-1", 253, 1, "md127");
    mounts_here("31 20 253:1 / /srv rw - ext4 /dev/mapper/x rw\n");
}

static void luks_holder(void)
{
    lvm("CRYPT-LUKS2-0123\n");
}

static void multipathd_holder(void)
{
    lvm("mpath-3600\n");
}

static void dm_holder(void)
{
    lvm("\n");
}

static void md_holder(void)
{
    tree_claim("nvme0n1");
    tree_holder("md0", 9, 0, "nvme0n1");
    tree_file("", "/sys/class/block/md0/md/level");
}

static void bcache_holder(void)
{
    tree_claim("nvme0n1");
    tree_holder("bcache0", 252, 0, "nvme0n1");
    tree_file("", "/sys/class/block/bcache0/bcache/stop");
}

static void btrfs_by_source(void)
{
    tree_claim("nvme0n1");
    mounts_here("31 20 0:44 /@home /home rw - btrfs /dev/nvme0n1 rw\n");
}

static void btrfs_second_disk(void)
{
    tree_claim("nvme0n1");
    tree_file("", "/sys/fs/btrfs/6a2c-77/devices/nvme1n1");
    tree_file("", "/sys/fs/btrfs/6a2c-77/devices/nvme0n1");
    mounts_here("31 20 0:44 / /pool rw - btrfs /dev/nvme1n1 rw\n");
}

static void swap(void)
{
    tree_partition(0, 1, 1);
    tree_claim("nvme0n1p1");
    tree_claim("nvme0n1");
    tree_file("Filename\tType\tSize\tUsed\tPriority\n/dev/nvme0n1p1   partition\t1024\t0\t-2\n", "/proc/swaps");
}

static void swap_on_lvm(void)
{
    lvm("LVM-abcdef\n");
    tree_file("Filename\tType\tSize\tUsed\tPriority\n/dev/dm-0   partition\t1024\t0\t-2\n", "/proc/swaps");
}

static void zfs(void)
{
    uint64_t magic = 0x00bab10c;
    for (unsigned i = 0; i < 8; i++)
        tree_write("nvme0n1", (128 + i) << 10, &magic, sizeof magic);
    tree_claim("nvme0n1");
}

static void claimed_by_who_knows(void)
{
    tree_partition(0, 1, 1);
    tree_claim("nvme0n1p1");
}

static void second_namespace_claimed(void)
{
    tree_namespace(0, 2);
    tree_claim("nvme0n2");
}

static void loop_device(void)
{
    tree_file("/dev/nvme0n1\n", "/sys/block/loop3/loop/backing_file");
}

static void nvmet_namespace(void)
{
    tree_file("/dev/nvme0n1\n", "/sys/kernel/config/nvmet/subsystems/nqn.a/namespaces/1/device_path");
    tree_file("1\n", "/sys/kernel/config/nvmet/subsystems/nqn.a/namespaces/1/enable");
}

static void nvmet_passthru(void)
{
    tree_file("/dev/nvme0\n", "/sys/kernel/config/nvmet/subsystems/nqn.a/passthru/device_path");
    tree_file("1\n", "/sys/kernel/config/nvmet/subsystems/nqn.a/passthru/enable");
}

static void lio_fileio(void)
{
    tree_file("/dev/nvme0n1\n", "/sys/kernel/config/target/core/fileio_0/disk/udev_path");
    tree_file("1\n", "/sys/kernel/config/target/core/fileio_0/disk/enable");
}

static void usb_gadget(void)
{
    tree_file("/dev/nvme0n1\n", "/sys/kernel/config/usb_gadget/g/functions/mass_storage.0/lun.0/file");
}

static void open_disk(void)
{
    tree_process(300, "dd", 1, "");
    tree_opens(300, "/dev/nvme0n1");
}

static void open_partition(void)
{
    tree_partition(0, 1, 1);
    tree_process(300, "mysqld", 2, MOUNTS);
    tree_opens(300, "/dev/nvme0n1p1");
}

static void open_controller(void)
{
    tree_process(300, "nvme", 1, "");
    tree_opens(300, "/dev/nvme0");
}

static void open_generic(void)
{
    tree_process(300, "qemu", 1, "");
    tree_opens(300, "/dev/ng0n1");
}

static void mapped_disk(void)
{
    tree_process(300, "postgres", 1, "");
    tree_maps(300, "/dev/nvme0n1");
}

static void open_elsewhere(void) /* a node of another name, as in a container */
{
    tree_node("container/disk", 'b', TREE_MAJOR, 16);
    tree_process(300, "ceph-osd", 2, MOUNTS);
    tree_opens(300, "/dev/container/disk");
}

static void open_in_a_ring(void)
{
    tree_process(300, "fio", 1, "");
    tree_link("anon_inode:[io_uring]", "/proc/300/fd/4");
    tree_file("SqMask:\t0x7\nUserFiles:\t2\n    0: /dev/null\n    1: /dev/nvme0n1\nUserBufs:\t1\n",
              "/proc/300/fdinfo/4");
}

static void taken_by_vfio(void)
{
    tree_gone(PCI_DEVICES "/0000:00:00.0/nvme/nvme0");
    tree_link("../../drivers/vfio-pci", PCI_DEVICES "/0000:00:00.0/driver");
    tree_file("242:10\n", "/sys/class/vfio/10/dev");
    tree_node("vfio/10", 'c', 242, 10);
}

static void vfio_group_open(void)
{
    taken_by_vfio();
    tree_process(300, "qemu-system-x86", 1, "");
    tree_opens(300, "/dev/vfio/10");
}

static void vfio_cdev_open(void)
{
    taken_by_vfio();
    tree_file("", PCI_DEVICES "/0000:00:00.0/vfio-dev/vfio4/");
    tree_file("243:4\n", "/sys/class/vfio-dev/vfio4/dev");
    tree_node("vfio/devices/vfio4", 'c', 243, 4);
    tree_process(300, "cloud-hypervisor", 1, "");
    tree_opens(300, "/dev/vfio/devices/vfio4");
}

static void taken_by_uio(void)
{
    tree_gone(PCI_DEVICES "/0000:00:00.0/nvme/nvme0");
    tree_link("../../drivers/uio_pci_generic", PCI_DEVICES "/0000:00:00.0/driver");
    tree_file("", PCI_DEVICES "/0000:00:00.0/uio/uio2/");
    tree_file("244:2\n", "/sys/class/uio/uio2/dev");
    tree_node("uio2", 'c', 244, 2);
}

static void uio_open(void)
{
    taken_by_uio();
    tree_process(300, "spdk_tgt", 1, "");
    tree_opens(300, "/dev/uio2");
}

static void registers_mapped(void)
{
    taken_by_uio();
    tree_process(300, "reactor_0", 1, "");
    tree_maps(300, "/sys/bus/pci/devices/0000:00:00.0/resource0");
}

static void another_path(void) /* two controllers of one subsystem: multipath's heads are named the same */
{
    tree_device(2);
    tree_file("", "/sys/class/nvme-subsystem/nvme-subsys0/nvme2/");
    tree_gone("/sys/class/nvme/nvme0/nvme0n1");
    tree_file("", "/sys/class/nvme/nvme0/nvme0c0n1/");
    tree_file("", "/sys/class/nvme/nvme2/nvme0c2n1/");
}

static void another_path_without_multipath(void)
{
    tree_device(2);
    tree_namespace(2, 1);
    tree_file("", "/sys/class/nvme-subsystem/nvme-subsys0/nvme2/");
    tree_file("eui.0011\n", "/sys/class/block/nvme0n1/wwid");
    tree_file("eui.0011\n", "/sys/class/block/nvme2n1/wwid");
}

static void another_path_over_the_network(void)
{
    another_path();
    tree_file("traddr=192.0.2.1,trsvcid=4420\n", "/sys/class/nvme/nvme2/address");
}

static void multipath_head_mounted(void)
{
    tree_gone("/sys/class/nvme/nvme0/nvme0n1");
    tree_file("", "/sys/class/nvme/nvme0/nvme0c0n1/");
    mounted_whole();
}

static void virtual_functions(void)
{
    tree_link("../0000:00:00.1", PCI_DEVICES "/0000:00:00.0/virtfn0");
    tree_link("../0000:00:00.2", PCI_DEVICES "/0000:00:00.0/virtfn1");
}

static void resetting(void)
{
    tree_file("resetting\n", "/sys/class/nvme/nvme0/state");
}

static void dead(void)
{
    tree_gone("/sys/class/nvme/nvme0/nvme0n1");
    tree_file("dead\n", "/sys/class/nvme/nvme0/state");
}

static void not_yet(void)
{
    tree_gone(PCI_DEVICES "/0000:00:00.0/nvme/nvme0");
}

static void given_to_xen(void)
{
    tree_gone(PCI_DEVICES "/0000:00:00.0/nvme/nvme0");
    tree_link("../../drivers/pciback", PCI_DEVICES "/0000:00:00.0/driver");
}

static void no_node(void)
{
    tree_gone("/dev/nvme0n1");
}

static void node_of_another(void)
{
    tree_gone("/dev/nvme0n1");
    tree_file("not a device", "/dev/nvme0n1");
}

static void in_a_container(void)
{
    tree_link("pid:[4026532999]", "/proc/self/ns/pid");
}

static void others_hidden(void)
{
    tree_gone("/proc/1/ns/mnt");
    tree_gone("/proc/1/ns");
    tree_gone("/proc/1/comm");
    tree_gone("/proc/1/mountinfo");
    tree_gone("/proc/1/fd");
    tree_gone("/proc/1/map_files");
    tree_gone("/proc/1");
}

static void process_hidden(void)
{
    tree_process(300, "sshd", 5, "");
    tree_opens(300, "/dev/nvme1n1");
    tree_hide(300);
}

/* ---- contents, with the programs that make them where there are any ---- */

static void ext4(void)
{
    static const char *const words[] = {"mkfs.ext4", "-q", "-F", "-L", "books", NULL};
    if (!tree_run("nvme0n1", words))
        skip();
}

static void ext4_on_a_partition(void)
{
    static const char *const words[] = {"mkfs.ext4", "-q", "-F", NULL};
    tree_partition(0, 1, 1);
    if (!tree_run("nvme0n1p1", words))
        skip();
}

static void swap_signature(void)
{
    static const char *const words[] = {"mkswap", NULL};
    if (!tree_run("nvme0n1", words))
        skip();
}

static void lvm_signature(void)
{
    struct {
        char id[8];
        uint64_t sector;
        uint32_t crc, offset;
        char type[8], uuid[32];
    } label = {"LABELONE", 1, 0, 32, "LVM2 001", "0123456789abcdef0123456789abcdef"};
    tree_write("nvme0n1", 512, &label, sizeof label);
}

static void luks_signature(void)
{
    tree_write("nvme0n1", 0, "LUKS\xba\xbe\0\1", 8);
}

static void md_signature(void) /* version 1.2: its place is 8 sectors in, which it says */
{
    uint32_t head[2] = {0xa92b4efc, 1};
    uint64_t sector = 8;
    tree_write("nvme0n1", 4096, head, sizeof head);
    tree_write("nvme0n1", 4096 + 144, &sector, sizeof sector);
}

static void zfs_signature(void)
{
    uint64_t magic = 0x00bab10c;
    for (unsigned i = 0; i < 8; i++)
        tree_write("nvme0n1", (128 + i) << 10, &magic, sizeof magic);
}

static void btrfs_signature(void)
{
    tree_write("nvme0n1", (64 << 10) + 64, "_BHRfS_M", 8);
}

static void ceph_signature(void)
{
    tree_write("nvme0n1", 0, "bluestore block device\n", 23);
}

static void partition_table(unsigned partitions)
{
    uint8_t sector[512] = {[510] = 0x55, [511] = 0xaa};
    for (unsigned i = 0; i < partitions; i++) {
        uint8_t *entry = sector + 446 + (size_t)16 * i;
        entry[4] = 0x83;
        entry[9] = (uint8_t)(8 * (i + 1)); /* from 2048 sectors on, as many */
        entry[13] = 8;
    }
    tree_write("nvme0n1", 0, sector, sizeof sector);
}

static void partitions(void)
{
    partition_table(3);
}

static const struct shape used[] = {
    {"a partition, mounted", mounted, MOUNTED, "nvme0n1p2 is mounted on /mnt/a b", "umount /mnt/a b"},
    {"a disk, mounted", mounted_whole, MOUNTED, "nvme0n1 is mounted on /data", "umount"},
    {"mounted in another mount namespace", mounted_in_another_namespace, MOUNTED,
     "mounted on /data where process 300 (dockerd) is", "nsenter -t 300"},
    {"root of a container", mounted_as_root_of_a_container, MOUNTED, "mounted on / where process 300 (sh) is", ""},
    {"root", root_disk, ROOT, "nvme0n1p1 has the root file system", "another disk"},
    {"LVM", lvm_holder, HOLDER, "dm-0 stands on nvme0n1p3 (LVM, vg-root)", "lvchange -an /dev/mapper/vg-root"},
    {"root on LVM", root_on_lvm, HOLDER | ROOT, "dm-0, which stands on nvme0n1p3 has the root", ""},
    {"mounted, on LVM, on md", mounted_on_lvm_on_md, HOLDER | MOUNTED, "dm-1, which stands on md127 is mounted", ""},
    {"LUKS, open", luks_holder, HOLDER, "dm-0 stands on nvme0n1p3 (encryption, vg-root)", "cryptsetup close vg-root"},
    {"multipath of device-mapper", multipathd_holder, HOLDER, "(multipath, vg-root)", "multipath -f vg-root"},
    {"device-mapper", dm_holder, HOLDER, "(vg-root)", "dmsetup remove vg-root"},
    {"md", md_holder, HOLDER, "md0 stands on nvme0n1", "mdadm --stop /dev/md0"},
    {"bcache", bcache_holder, HOLDER, "bcache0 stands on nvme0n1", "/sys/block/bcache0/bcache/stop"},
    {"btrfs, whose number is no disk's", btrfs_by_source, MOUNTED, "nvme0n1 is mounted on /home", "umount /home"},
    {"btrfs, the second disk", btrfs_second_disk, MOUNTED, "nvme0n1 is part of the mounted btrfs 6a2c-77", "6a2c-77"},
    {"swap", swap, SWAP, "nvme0n1p1 is swapped to", "swapoff /dev/nvme0n1p1"},
    {"swap on LVM", swap_on_lvm, HOLDER | SWAP, "dm-0, which stands on nvme0n1p3 is swapped to", "swapoff /dev/dm-0"},
    {"ZFS", zfs, CLAIMED, "nvme0n1 is claimed by somebody whom the kernel does not name; it holds zfs_member", "zpool"},
    {"a claim on a partition", claimed_by_who_knows, CLAIMED, "nvme0n1p1 is claimed", ""},
    {"a claim on the second namespace", second_namespace_claimed, CLAIMED, "nvme0n2 is claimed", ""},
    {"a loop device", loop_device, EXPORTED, "a loop device has nvme0n1: /sys/block/loop3/loop", "losetup -d"},
    {"the kernel's NVMe target", nvmet_namespace, EXPORTED, "NVMe target has nvme0n1: /sys/kernel/config/nvmet",
     "enable"},
    {"the same, passing commands through", nvmet_passthru, EXPORTED, "NVMe target has nvme0:", "enable"},
    {"the kernel's SCSI target, by a file", lio_fileio, EXPORTED, "SCSI target has nvme0n1", "targetcli"},
    {"a USB gadget", usb_gadget, EXPORTED, "a USB gadget has nvme0n1", ""},
    {"open", open_disk, OPEN, "process 300 (dd) has /dev/nvme0n1 open", "end it"},
    {"a partition, open", open_partition, OPEN, "process 300 (mysqld) has /dev/nvme0n1p1 open", ""},
    {"the controller, open", open_controller, OPEN, "process 300 (nvme) has /dev/nvme0 open", ""},
    {"the generic device, open", open_generic, OPEN, "process 300 (qemu) has /dev/ng0n1 open", ""},
    {"mapped", mapped_disk, OPEN, "process 300 (postgres) has /dev/nvme0n1 mapped", ""},
    {"open under another name", open_elsewhere, OPEN, "process 300 (ceph-osd) has /dev/nvme0n1 open", ""},
    {"open in an io_uring", open_in_a_ring, OPEN, "process 300 (fio) has /dev/nvme0n1 open in its io_uring", ""},
    {"with vfio, open", vfio_group_open, OPEN, "process 300 (qemu-system-x86) has /dev/vfio/10 open", "end it"},
    {"with vfio, open as a device", vfio_cdev_open, OPEN, "(cloud-hypervisor) has /dev/vfio/devices/vfio4 open", ""},
    {"with uio, open", uio_open, OPEN, "process 300 (spdk_tgt) has /dev/uio2 open", ""},
    {"with uio, its registers mapped", registers_mapped, OPEN,
     "(reactor_0) has /sys/bus/pci/devices/0000:00:00.0/resource0", ""},
    {"another controller", another_path, SHARED, "nvme0n1 is reached by nvme2 as well", "this and 0000:02:00.0"},
    {"another controller, no multipath", another_path_without_multipath, SHARED, "nvme0n1 is reached by nvme2", ""},
    {"another controller, remote", another_path_over_the_network, SHARED, "nvme0n1 is reached by nvme2",
     "nvme disconnect -d nvme2"},
    {"multipath, mounted", multipath_head_mounted, MOUNTED, "nvme0n1 is mounted on /data", ""},
    {"virtual functions", virtual_functions, SHARED, "it has 2 virtual functions", "sriov_numvfs"},
    {"resetting", resetting, STATE, "its controller nvme0 is resetting, and not live", ""},
    {"dead", dead, STATE, "its controller nvme0 is dead", ""},
    {"being started", not_yet, STATE, "is not there yet, and not live", ""},
    {"another driver", given_to_xen, STATE, "it has the driver pciback", ""},
    {"no node", no_node, UNSEEN, "/dev/nvme0n1 cannot be opened (No such file", "udev"},
    {"a node that is no node", node_of_another, UNSEEN, "/dev/nvme0n1 is not device 259:16", ""},
    {"asked from a container", in_a_container, UNSEEN, "this is a container", "outside"},
    {"a process that may not be looked into", process_hidden, UNSEEN, "process 300 (sshd) cannot be looked into",
     "root"},
    {"processes of others hidden", others_hidden, UNSEEN, "does not show the processes of others", "as root"},
    {"ext4", ext4, CONTENT, "nvme0n1 holds ext4 (file system) \"books\"", "--allow-content SERIAL0"},
    {"ext4 on a partition", ext4_on_a_partition, CONTENT, "nvme0n1p1 holds ext4", "wipefs -a /dev/nvme0n1p1"},
    {"swap space, not in use", swap_signature, CONTENT, "nvme0n1 holds swap", ""},
    {"LVM's, not active", lvm_signature, CONTENT, "nvme0n1 holds LVM2_member", ""},
    {"LUKS, not open", luks_signature, CONTENT, "nvme0n1 holds crypto_LUKS (encrypted)", ""},
    {"md's, not running", md_signature, CONTENT, "nvme0n1 holds linux_raid_member (part of an array", ""},
    {"ZFS's, not imported", zfs_signature, CONTENT, "nvme0n1 holds zfs_member", ""},
    {"btrfs", btrfs_signature, CONTENT, "nvme0n1 holds btrfs", ""},
    {"Ceph's", ceph_signature, CONTENT, "nvme0n1 holds ceph_bluestore", ""},
    {"partitions", partitions, CONTENT, "nvme0n1 holds a partition table (dos) with 3 partitions", ""},
};

/* ---- idle ---- */

static void nothing(void)
{
}

static void no_namespaces(void)
{
    tree_gone("/sys/class/nvme/nvme0/nvme0n1");
}

static void several_namespaces(void)
{
    tree_namespace(0, 2);
    tree_namespace(0, 3);
    tree_partition(0, 3, 1);
}

static void empty_partition_table(void)
{
    partition_table(0);
}

static void noise(void) /* of no signature */
{
    uint8_t bytes[4096];
    uint32_t x = 12345;
    for (unsigned at = 0; at < 1 << 20; at += sizeof bytes) {
        for (size_t i = 0; i < sizeof bytes; i++)
            bytes[i] = (uint8_t)((x = x * 1664525 + 1013904223) >> 24);
        tree_write("nvme0n1", at, bytes, sizeof bytes);
    }
}

static void targets_that_are_off(void)
{
    nvmet_namespace();
    lio_fileio();
    tree_file("0\n", "/sys/kernel/config/nvmet/subsystems/nqn.a/namespaces/1/enable");
    tree_file("0\n", "/sys/kernel/config/target/core/fileio_0/disk/enable");
}

static void targets_with_something_else(void)
{
    tree_file("/dev/nvme1n1\n", "/sys/kernel/config/nvmet/subsystems/nqn.a/namespaces/1/device_path");
    tree_file("1\n", "/sys/kernel/config/nvmet/subsystems/nqn.a/namespaces/1/enable");
    tree_file("hello\n", "/srv/image");
    tree_file("/srv/image\n", "/sys/block/loop0/loop/backing_file");
    tree_file("/dev/nvme1n1\n", "/sys/block/loop1/loop/backing_file");
}

static void same_number_of_another_kind(void) /* as the disk, and as the controller */
{
    tree_node("ttyX", 'c', TREE_MAJOR, 16);
    tree_process(300, "getty", 1, "");
    tree_opens(300, "/dev/ttyX");
    tree_node("sdx", 'b', 240, 0);
    tree_maps(300, "/dev/sdx");
}

static void swap_elsewhere(void)
{
    tree_file("Filename\tType\tSize\tUsed\tPriority\n/swapfile   file\t1024\t0\t-2\n"
              "/dev/nvme1n1   partition\t1024\t0\t-3\n",
              "/proc/swaps");
    tree_file("", "/swapfile");
}

static void processes_that_end(void)
{
    tree_file("", "/proc/400/fd/");
    tree_link("/nowhere", "/proc/400/fd/3");
    tree_file("", "/proc/401/");
}

static void controller_with_other_namespaces(void) /* of the same subsystem: an SR-IOV function, say */
{
    tree_device(2);
    tree_namespace(2, 1);
    tree_file("", "/sys/class/nvme-subsystem/nvme-subsys0/nvme2/");
    tree_file("eui.0011\n", "/sys/class/block/nvme0n1/wwid");
    tree_file("eui.0022\n", "/sys/class/block/nvme2n1/wwid");
}

static void multipath_with_one_path(void)
{
    tree_gone("/sys/class/nvme/nvme0/nvme0n1");
    tree_file("", "/sys/class/nvme/nvme0/nvme0c0n1/");
}

static void without_driver(void)
{
    tree_gone(PCI_DEVICES "/0000:00:00.0/nvme/nvme0");
    tree_gone(PCI_DEVICES "/0000:00:00.0/driver");
}

static const struct shape idle[] = {
    {.name = "a blank disk", .make = nothing},
    {.name = "no namespaces", .make = no_namespaces},
    {.name = "several namespaces, one with a partition", .make = several_namespaces},
    {.name = "a partition table without partitions", .make = empty_partition_table},
    {.name = "bytes of no meaning", .make = noise},
    {.name = "targets of the kernel's that are off", .make = targets_that_are_off},
    {.name = "targets that have something else", .make = targets_with_something_else},
    {.name = "devices of the same numbers that are of another kind", .make = same_number_of_another_kind},
    {.name = "swap elsewhere", .make = swap_elsewhere},
    {.name = "processes that end meanwhile", .make = processes_that_end},
    {.name = "a controller with namespaces of its own", .make = controller_with_other_namespaces},
    {.name = "multipath, one path", .make = multipath_with_one_path},
    {.name = "no driver", .make = without_driver},
    {.name = "with vfio, open by nobody", .make = taken_by_vfio},
    {.name = "with uio, open by nobody", .make = taken_by_uio},
};

static void look_closely(struct pci_look *look, struct plx_pci_nvme *d, bool claim)
{
    assert_int_equal(pci_describe(tree_root(), "0000:00:00.0", d), 0);
    *look = (struct pci_look){.root = tree_root(), .list = d, .nlist = 1, .claim = claim};
    assert_int_equal(pci_look(look), 0);
}

static void check_shape(const struct shape *shape)
{
    struct plx_pci_nvme d;
    struct pci_look look;
    unsigned kinds = 0;
    bool what = !shape->what, cure = !shape->cure;
    make_machine();
    shape->make();
    look_closely(&look, &d, true);
    for (unsigned i = 0; i < look.nuses; i++) {
        const struct plx_pci_use *use = &look.uses[i];
        kinds |= 1u << use->kind;
        what |= shape->what && strstr(use->what, shape->what);
        cure |= shape->cure && strstr(use->cure, shape->cure);
        if (kinds & ~shape->kinds)
            print_error("%s: %s (%s)\n", shape->name, use->what, plx_pci_use_name(use->kind));
    }
    if (kinds != shape->kinds || !what || !cure)
        for (unsigned i = 0; i <= look.nuses; i++)
            print_error("%s: %s (%s)\n", shape->name, i < look.nuses ? look.uses[i].what : "that is all",
                        i < look.nuses ? look.uses[i].cure : "");
    assert_int_equal(kinds, shape->kinds);
    assert_true(what && cure);
    pci_look_end(&look);
    assert_int_equal(tree_claims(), 0);
}

static void a_use_is_seen(void **state)
{
    check_shape(*state);
}

/* ---- and besides ---- */

static void a_disk_is_claimed_until_the_end_of_the_look(void **state)
{
    (void)state;
    struct plx_pci_nvme d;
    struct pci_look look;
    make_machine();
    tree_namespace(0, 2);
    tree_partition(0, 2, 1);
    look_closely(&look, &d, true);
    assert_int_equal(tree_claims(), 2); /* the disks, and with them their partitions */
    pci_look_end(&look);
    assert_int_equal(tree_claims(), 0);
}

static void a_list_claims_nothing(void **state)
{
    (void)state;
    struct plx_pci_nvme d;
    struct pci_look look;
    make_machine();
    tree_claim("nvme0n1");
    look_closely(&look, &d, false);
    assert_int_equal(look.nuses, 0);
    assert_int_equal(tree_claims(), 0);
    pci_look_end(&look);
}

static void controllers_that_are_named_together_may_share(void **state)
{
    (void)state;
    struct plx_pci_nvme d[2];
    make_machine();
    another_path();
    assert_int_equal(pci_describe(tree_root(), "0000:00:00.0", &d[0]), 0);
    assert_int_equal(pci_describe(tree_root(), "0000:02:00.0", &d[1]), 0);
    struct pci_look look = {.root = tree_root(), .list = d, .nlist = 2, .claim = true};
    assert_int_equal(pci_look(&look), 0);
    assert_int_equal(look.nuses, 0);
    assert_int_equal(tree_claims(), 1);
    pci_look_end(&look);
}

static void each_use_of_a_process_is_said_once(void **state)
{
    (void)state;
    struct plx_pci_nvme d;
    struct pci_look look;
    make_machine();
    tree_process(300, "dd", 1, "");
    tree_opens(300, "/dev/nvme0n1");
    tree_maps(300, "/dev/nvme0");
    tree_process(301, "dd", 1, "");
    tree_opens(301, "/dev/nvme0n1");
    look_closely(&look, &d, true);
    assert_int_equal(look.nuses, 2);
    pci_look_end(&look);
}

static int clean_up(void **state)
{
    (void)state;
    tree_remove();
    return 0;
}

int main(void)
{
    enum { USED = PLX_ARRAY_SIZE(used), IDLE = PLX_ARRAY_SIZE(idle) };
    struct CMUnitTest tests[USED + IDLE] = {0};
    for (size_t i = 0; i < USED + IDLE; i++) {
        const struct shape *shape = i < USED ? &used[i] : &idle[i - USED];
        tests[i] = (struct CMUnitTest){shape->name, a_use_is_seen, NULL, clean_up, (void *)(uintptr_t)shape};
    }
    const struct CMUnitTest others[] = {
        cmocka_unit_test_teardown(a_disk_is_claimed_until_the_end_of_the_look, clean_up),
        cmocka_unit_test_teardown(a_list_claims_nothing, clean_up),
        cmocka_unit_test_teardown(controllers_that_are_named_together_may_share, clean_up),
        cmocka_unit_test_teardown(each_use_of_a_process_is_said_once, clean_up),
    };
    int failed = cmocka_run_group_tests_name("shapes", tests, NULL, NULL);
    return failed + cmocka_run_group_tests(others, NULL, NULL);
}
