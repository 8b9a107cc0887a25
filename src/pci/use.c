/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Who uses a device: the proof that nobody does. Each disk is claimed first, as a mount would claim it (O_EXCL), so
 * that what is not in use then cannot come into use while the rest is looked at: what stands upon it, mounts, swap,
 * targets of the kernel's, processes. What could not be looked at counts as a use.
 */
#include "pci/pci.h"

#include "base/content.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

enum {
    SECTOR_BYTES = 512,
    UPON_MAX = 16, /* devices one upon the other */
    BARS = 6,
};

void *pci_more(void *array, unsigned *n, size_t size)
{
    char *more = realloc(array, (*n + 1) * size);
    if (more)
        memset(more + size * (*n)++, 0, size);
    return more;
}

struct plx_pci_use *pci_use(struct pci_look *look, unsigned device, enum plx_pci_use_kind kind)
{
    struct plx_pci_use *more = pci_more(look->uses, &look->nuses, sizeof *more), *use = &look->spare;
    if (more) {
        look->uses = more;
        use = &more[look->nuses - 1];
    } else {
        look->error = -ENOMEM;
    }
    *use = (struct plx_pci_use){.device = device, .kind = kind};
    return use;
}

void pci_unseen(struct pci_look *look, const char *what, const char *cure)
{
    for (unsigned i = 0; !look->unseen && i < look->nlist; i++) {
        struct plx_pci_use *use = pci_use(look, i, PLX_PCI_UNSEEN);
        pci_text(use->what, sizeof use->what, "%s", what);
        pci_text(use->cure, sizeof use->cure, "%s", cure);
    }
    look->unseen = true;
}

const char *plx_pci_use_name(enum plx_pci_use_kind kind)
{
    static const char *const names[] = {
        [PLX_PCI_ROOT] = "root",       [PLX_PCI_MOUNTED] = "mounted",   [PLX_PCI_SWAP] = "swap",
        [PLX_PCI_HOLDER] = "holder",   [PLX_PCI_EXPORTED] = "exported", [PLX_PCI_OPEN] = "open",
        [PLX_PCI_CLAIMED] = "claimed", [PLX_PCI_SHARED] = "shared",     [PLX_PCI_STATE] = "state",
        [PLX_PCI_UNSEEN] = "unseen",   [PLX_PCI_MISSING] = "missing",   [PLX_PCI_CONTENT] = "content"};
    return (unsigned)kind < PLX_ARRAY_SIZE(names) ? names[kind] : "unknown";
}

/* ---- nodes ---- */

/* NULL where it has no number, or is known already. */
static struct pci_node *add_node(struct pci_look *look, unsigned device, enum pci_node_kind kind, dev_t number,
                                 const char *name)
{
    for (unsigned i = 0; i < look->nnodes; i++)
        if (look->nodes[i].device == device && look->nodes[i].kind == kind && look->nodes[i].number == number &&
            kind != PCI_FILE)
            return NULL;
    if (!number && kind != PCI_FILE)
        return NULL;
    struct pci_node *more = pci_more(look->nodes, &look->nnodes, sizeof *more);
    if (!more) {
        look->error = -ENOMEM;
        return NULL;
    }
    look->nodes = more;
    struct pci_node *node = &more[look->nnodes - 1];
    node->device = device;
    node->kind = kind;
    node->number = number;
    pci_text(node->name, sizeof node->name, "%s", name);
    return node;
}

static void say_holder(struct pci_look *look, unsigned device, const char *name, const char *under)
{
    char dm[PLX_PCI_NAME], uuid[PLX_PCI_NAME];
    struct plx_pci_use *use = pci_use(look, device, PLX_PCI_HOLDER);
    pci_read(look->root, dm, sizeof dm, "/sys/class/block/%s/dm/name", name);
    pci_read(look->root, uuid, sizeof uuid, "/sys/class/block/%s/dm/uuid", name);
    pci_text(use->what, sizeof use->what, "%s stands on %s%s%s%s%s", name, under, *dm ? " (" : "",
             strncmp(uuid, "LVM-", 4) == 0     ? "LVM, "
             : strncmp(uuid, "CRYPT-", 6) == 0 ? "encryption, "
             : strncmp(uuid, "mpath-", 6) == 0 ? "multipath, "
                                               : "",
             dm, *dm ? ")" : "");
    if (strncmp(uuid, "LVM-", 4) == 0)
        pci_text(use->cure, sizeof use->cure, "lvchange -an /dev/mapper/%s", dm);
    else if (strncmp(uuid, "CRYPT-", 6) == 0)
        pci_text(use->cure, sizeof use->cure, "cryptsetup close %s", dm);
    else if (strncmp(uuid, "mpath-", 6) == 0)
        pci_text(use->cure, sizeof use->cure, "multipath -f %s", dm);
    else if (*dm)
        pci_text(use->cure, sizeof use->cure, "dmsetup remove %s", dm);
    else if (pci_exists(look->root, "/sys/class/block/%s/md", name))
        pci_text(use->cure, sizeof use->cure, "mdadm --stop /dev/%s", name);
    else if (pci_exists(look->root, "/sys/class/block/%s/bcache", name))
        pci_text(use->cure, sizeof use->cure, "echo 1 >/sys/block/%s/bcache/stop", name);
}

/* What stands on a block device, and on that. */
static void add_holders(struct pci_look *look, unsigned device, const char *under, int depth)
{
    struct pci_names names;
    int ret = pci_names(look->root, &names, "/sys/class/block/%s/holders", under);
    if (ret && ret != -ENOENT)
        pci_unseen(look, "what stands on the device cannot be told: /sys/class/block", "do it as root");
    for (int i = 0; i < names.n; i++) {
        const char *name = names.v[i]->d_name;
        struct pci_node *node =
            add_node(look, device, PCI_UPON, pci_device_number(look->root, "/sys/class/block/%s/dev", name), name);
        if (node)
            pci_text(node->under, sizeof node->under, "%s", under);
        if (!depth)
            say_holder(look, device, name, under);
        if (depth < UPON_MAX)
            add_holders(look, device, name, depth + 1);
    }
    pci_names_free(&names);
}

static void add_block(struct pci_look *look, unsigned device, enum pci_node_kind kind, const char *name)
{
    struct pci_node *node =
        add_node(look, device, kind, pci_device_number(look->root, "/sys/class/block/%s/dev", name), name);
    if (!node)
        return;
    node->bytes = SECTOR_BYTES * (uint64_t)pci_number(look->root, 0, "/sys/class/block/%s/size", name);
    add_holders(look, device, name, 0);
}

static void add_namespace(struct pci_look *look, unsigned device, const char *disk)
{
    struct pci_names names;
    char generic[PLX_PCI_NAME];
    pci_names(look->root, &names, "/sys/class/block/%s", disk);
    for (int i = 0; i < names.n; i++)
        if (strncmp(names.v[i]->d_name, disk, strlen(disk)) == 0 &&
            pci_exists(look->root, "/sys/class/block/%s/%s/partition", disk, names.v[i]->d_name))
            add_block(look, device, PCI_PARTITION, names.v[i]->d_name);
    pci_names_free(&names);
    add_block(look, device, PCI_DISK, disk);
    pci_text(generic, sizeof generic, "ng%s", disk + strlen("nvme"));
    add_node(look, device, PCI_CHAR, pci_device_number(look->root, "/sys/class/nvme-generic/%s/dev", generic), generic);
}

/* What user space has of a device that is not the kernel's. */
static void add_user_nodes(struct pci_look *look, unsigned device, const struct plx_pci_nvme *d)
{
    struct pci_names names;
    char name[PLX_PCI_NAME];
    if (d->iommu_group >= 0) {
        pci_text(name, sizeof name, "vfio/%d", d->iommu_group);
        add_node(look, device, PCI_CHAR, pci_device_number(look->root, "/sys/class/vfio/%d/dev", d->iommu_group), name);
    }
    pci_names(look->root, &names, PCI_DEVICES "/%s/vfio-dev", d->address);
    for (int i = 0; i < names.n; i++) {
        pci_text(name, sizeof name, "vfio/devices/%.32s", names.v[i]->d_name);
        add_node(look, device, PCI_CHAR,
                 pci_device_number(look->root, "/sys/class/vfio-dev/%s/dev", names.v[i]->d_name), name);
    }
    pci_names_free(&names);
    pci_names(look->root, &names, PCI_DEVICES "/%s/uio", d->address);
    for (int i = 0; i < names.n; i++)
        add_node(look, device, PCI_CHAR, pci_device_number(look->root, "/sys/class/uio/%s/dev", names.v[i]->d_name),
                 names.v[i]->d_name);
    pci_names_free(&names);
}

static void add_bars(struct pci_look *look, unsigned device, const struct plx_pci_nvme *d)
{
    static const char *const kinds[] = {"", "_wc"};
    for (int i = 0; i < 2 * BARS; i++) {
        struct pci_stat st;
        char name[PLX_PCI_NAME];
        pci_text(name, sizeof name, "resource%d%s", i / 2, kinds[i % 2]);
        if (pci_stat(look->root, &st, PCI_DEVICES "/%s/%s", d->address, name))
            continue;
        struct pci_node *node = add_node(look, device, PCI_FILE, 0, name);
        if (!node)
            continue;
        node->dev = st.dev;
        node->ino = st.ino;
        pci_text(node->name, sizeof node->name, PCI_DEVICES "/%.20s/%s", d->address, name);
    }
}

/* ---- the controller ---- */

/* Its namespaces' disks: fn is called with each. */
static void each_disk(struct pci_look *look, unsigned device, const char *controller,
                      void (*fn)(struct pci_look *look, unsigned device, const char *disk))
{
    struct pci_names names;
    char disk[PLX_PCI_NAME];
    int ret = pci_names(look->root, &names, "/sys/class/nvme/%s", controller);
    if (ret)
        pci_unseen(look, "the namespaces cannot be told: /sys/class/nvme", "mount /sys, and do it as root");
    for (int i = 0; i < names.n; i++)
        if (pci_namespace_name(names.v[i]->d_name, disk))
            fn(look, device, disk);
    pci_names_free(&names);
}

static bool is_asked_about(const struct pci_look *look, const char *controller)
{
    for (unsigned i = 0; i < look->nlist; i++)
        if (strcmp(look->list[i].controller, controller) == 0)
            return true;
    return false;
}

/* Whether a controller has one of the device's disks: multipath's, or another disk of the same namespace. */
static bool reaches(const struct pci_look *look, unsigned device, const char *controller, const struct pci_node **which)
{
    struct pci_names names;
    char disk[PLX_PCI_NAME], theirs[PLX_PCI_TEXT], ours[PLX_PCI_TEXT];
    bool found = false;
    pci_names(look->root, &names, "/sys/class/nvme/%s", controller);
    for (int i = 0; !found && i < names.n; i++) {
        if (!pci_namespace_name(names.v[i]->d_name, disk))
            continue;
        pci_read(look->root, theirs, sizeof theirs, "/sys/class/block/%s/wwid", disk);
        for (unsigned k = 0; !found && k < look->nnodes; k++) {
            *which = &look->nodes[k];
            if ((*which)->device != device || (*which)->kind != PCI_DISK)
                continue;
            pci_read(look->root, ours, sizeof ours, "/sys/class/block/%s/wwid", (*which)->name);
            found = strcmp((*which)->name, disk) == 0 || (*ours && strcmp(ours, theirs) == 0);
        }
    }
    pci_names_free(&names);
    return found;
}

static void say_shared(struct pci_look *look, unsigned device, const char *controller, const char *disk)
{
    char address[PLX_PCI_NAME];
    struct plx_pci_use *use = pci_use(look, device, PLX_PCI_SHARED);
    pci_text(use->what, sizeof use->what, "%s is reached by %s as well, which would stay the kernel's", disk,
             controller);
    pci_read(look->root, address, sizeof address, "/sys/class/nvme/%s/address", controller);
    if (strchr(address, '='))
        pci_text(use->cure, sizeof use->cure, "nvme disconnect -d %s", controller);
    else
        pci_text(use->cure, sizeof use->cure, "name both devices, this and %s", address);
}

/* Other controllers of its subsystem. */
static void look_at_subsystem(struct pci_look *look, unsigned device, const char *controller)
{
    struct pci_names subsystems, names;
    const struct pci_node *which;
    pci_names(look->root, &subsystems, "/sys/class/nvme-subsystem");
    for (int i = 0; i < subsystems.n; i++) {
        const char *subsystem = subsystems.v[i]->d_name;
        if (!pci_exists(look->root, "/sys/class/nvme-subsystem/%s/%s", subsystem, controller))
            continue;
        pci_names(look->root, &names, "/sys/class/nvme-subsystem/%s", subsystem);
        for (int k = 0; k < names.n; k++) {
            const char *other = names.v[k]->d_name;
            bool is_controller = strncmp(other, "nvme", 4) == 0 && !other[4 + strspn(other + 4, "0123456789")];
            if (is_controller && !is_asked_about(look, other) && reaches(look, device, other, &which))
                say_shared(look, device, other, which->name);
        }
        pci_names_free(&names);
    }
    pci_names_free(&subsystems);
}

static void look_at_state(struct pci_look *look, unsigned device, const struct plx_pci_nvme *d)
{
    static const char *const known[] = {"", "nvme", "vfio-pci", "uio_pci_generic"};
    bool ours = false;
    for (size_t i = 0; i < PLX_ARRAY_SIZE(known); i++)
        ours |= strcmp(d->driver, known[i]) == 0;
    if (ours && (strcmp(d->driver, "nvme") != 0 || strcmp(d->state, "live") == 0))
        return;
    struct plx_pci_use *use = pci_use(look, device, PLX_PCI_STATE);
    if (!ours) {
        pci_text(use->what, sizeof use->what, "it has the driver %s", d->driver);
        pci_text(use->cure, sizeof use->cure, "take it from that first, as whoever gave it would");
    } else {
        pci_text(use->what, sizeof use->what, "its controller %s is %s, and not live", d->controller,
                 *d->state ? d->state : "not there yet");
        pci_text(use->cure, sizeof use->cure, "wait until it is; \"dmesg\" may say what is wrong");
    }
}

static void look_at_functions(struct pci_look *look, unsigned device, const struct plx_pci_nvme *d)
{
    struct pci_names names;
    int n = 0;
    pci_names(look->root, &names, PCI_DEVICES "/%s", d->address);
    for (int i = 0; i < names.n; i++)
        n += strncmp(names.v[i]->d_name, "virtfn", 6) == 0;
    pci_names_free(&names);
    if (!n)
        return;
    struct plx_pci_use *use = pci_use(look, device, PLX_PCI_SHARED);
    pci_text(use->what, sizeof use->what, "it has %d virtual function%s, which would go", n, n == 1 ? "" : "s");
    pci_text(use->cure, sizeof use->cure, "echo 0 >" PCI_DEVICES "/%.32s/sriov_numvfs", d->address);
}

/* ---- claims and contents ---- */

static bool claimed_by_us(const struct pci_look *look, dev_t number)
{
    for (unsigned i = 0; i < look->nclaims; i++)
        if (look->claims[i].number == number)
            return true;
    return false;
}

static void keep_claim(struct pci_look *look, const struct pci_node *node, int fd)
{
    struct pci_claim *more = pci_more(look->claims, &look->nclaims, sizeof *more);
    if (!more) {
        look->error = -ENOMEM;
        close(fd);
        return;
    }
    look->claims = more;
    more[look->nclaims - 1] = (struct pci_claim){node->number, fd};
}

/* @return a descriptor, or -errno; that of another device counts as -ENODEV */
static int use_open_node(const struct pci_look *look, const struct pci_node *node, int flags)
{
    char path[PATH_MAX];
    struct pci_stat st;
    pci_text(path, sizeof path, "%s/dev/%s", look->root, node->name);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | flags);
    if (fd < 0)
        return -errno;
    if (pci_fstat(fd, &st) == 0 && S_ISBLK(st.mode) && st.rdev == node->number)
        return fd;
    close(fd);
    return -ENODEV;
}

static void say_unopened(struct pci_look *look, const struct pci_node *node, int ret)
{
    struct plx_pci_use *use = pci_use(look, node->device, PLX_PCI_UNSEEN);
    if (ret == -ENODEV)
        pci_text(use->what, sizeof use->what, "/dev/%s is not device %u:%u, which the kernel has under that name",
                 node->name, major(node->number), minor(node->number));
    else
        pci_text(use->what, sizeof use->what, "/dev/%s cannot be opened (%s), so it is not known who uses it",
                 node->name, strerror(-ret));
    pci_text(use->cure, sizeof use->cure, "%s",
             ret == -EACCES || ret == -EPERM ? "do it as root" : "see to /dev being what udev makes of it");
}

/*
 * The whole disk, for as long as we look: neither it nor a partition can be claimed by anybody else then. Partitions
 * just to see which it is.
 */
static void claim_node(struct pci_look *look, struct pci_node *node)
{
    if (claimed_by_us(look, node->number))
        return;
    int fd = use_open_node(look, node, O_EXCL);
    if (fd == -EBUSY)
        node->busy = true;
    else if (fd < 0)
        say_unopened(look, node, fd);
    else if (node->kind == PCI_DISK)
        keep_claim(look, node, fd);
    else
        close(fd);
}

static void look_at_content(struct pci_look *look, const struct pci_node *node)
{
    char text[PLX_PCI_TEXT / 2];
    int fd = node->bytes ? use_open_node(look, node, 0) : -ENOENT;
    if (fd < 0) {
        if (node->bytes)
            say_unopened(look, node, fd);
        return;
    }
    int found = plx_content(fd, text, sizeof text);
    close(fd);
    if (!found)
        return;
    struct plx_pci_use *use = pci_use(look, node->device, PLX_PCI_CONTENT);
    if (found < 0)
        pci_text(use->what, sizeof use->what, "what is on %s cannot be read: %s", node->name, strerror(-found));
    else
        pci_text(use->what, sizeof use->what, "%s holds %s", node->name, text);
    const char *serial = look->list[node->device].serial;
    pci_text(use->cure, sizeof use->cure,
             "\"wipefs -a /dev/%s\" if nobody needs it, or let it be there: --allow-content %s", node->name,
             *serial ? serial : look->list[node->device].address);
}

/* A claim is worth a word where nothing has been found that explains it. */
static void say_claimed(struct pci_look *look, const struct pci_node *node)
{
    char content[PLX_PCI_TEXT / 2] = "";
    for (unsigned i = 0; i < look->nuses; i++)
        if (look->uses[i].device == node->device &&
            (look->uses[i].kind <= PLX_PCI_HOLDER || look->uses[i].kind == PLX_PCI_CLAIMED))
            return;
    int fd = use_open_node(look, node, 0);
    if (fd >= 0)
        plx_content(fd, content, sizeof content);
    if (fd >= 0)
        close(fd);
    struct plx_pci_use *use = pci_use(look, node->device, PLX_PCI_CLAIMED);
    pci_text(use->what, sizeof use->what, "%s is claimed by somebody whom the kernel does not name%s%s", node->name,
             *content ? "; it holds " : "", content);
    pci_text(use->cure, sizeof use->cure, "%s",
             strstr(content, "zfs_member") ? "zpool export it" : "end what has it: ZFS, bcachefs, a target, a server");
}

static bool device_is_used(const struct pci_look *look, unsigned device)
{
    for (unsigned i = 0; i < look->nuses; i++)
        if (look->uses[i].device == device && look->uses[i].kind != PLX_PCI_CONTENT)
            return true;
    return false;
}

/* ---- what has it inside the kernel ---- */

/* Files that name what somebody has; `enabled` beside it, if any, says whether that is so at the moment. */
static const struct {
    const char *pattern, *enabled, *who, *cure;
} exports[] = {
    {"/sys/block/loop*/loop/backing_file", NULL, "a loop device", "losetup -d it"},
    {"/sys/kernel/config/nvmet/subsystems/*/namespaces/*/device_path", "enable", "the kernel's NVMe target",
     "echo 0 >enable beside it"},
    {"/sys/kernel/config/nvmet/subsystems/*/passthru/device_path", "enable", "the kernel's NVMe target",
     "echo 0 >enable beside it"},
    {"/sys/kernel/config/target/core/*/*/udev_path", "enable", "the kernel's SCSI target", "targetcli: delete it"},
    {"/sys/kernel/config/usb_gadget/*/functions/*/lun.*/file", NULL, "a USB gadget", "echo >it"},
};

static void look_at_export(struct pci_look *look, size_t which, const char *file)
{
    char path[PATH_MAX], enable[PATH_MAX];
    struct pci_stat st;
    if (pci_read("", path, sizeof path, "%s", file) <= 0 || path[0] != '/' || pci_stat(look->root, &st, "%s", path))
        return;
    int folder = (int)(strrchr(file, '/') - file);
    if (exports[which].enabled) {
        pci_text(enable, sizeof enable, "%.*s/%s", folder, file, exports[which].enabled);
        if (pci_number("", 1, "%s", enable) == 0)
            return;
    }
    for (const struct pci_node *node = look->nodes; node && node < look->nodes + look->nnodes; node++) {
        bool is_it = (node->kind <= PCI_PARTITION && S_ISBLK(st.mode)) || (node->kind == PCI_CHAR && S_ISCHR(st.mode));
        if (!is_it || node->number != st.rdev)
            continue;
        struct plx_pci_use *use = pci_use(look, node->device, PLX_PCI_EXPORTED);
        pci_text(use->what, sizeof use->what, "%s has %s: %.*s", exports[which].who, node->name,
                 folder - (int)strlen(look->root), file + strlen(look->root));
        pci_text(use->cure, sizeof use->cure, "%s", exports[which].cure);
        return;
    }
}

static void look_at_exports(struct pci_look *look)
{
    for (size_t i = 0; i < PLX_ARRAY_SIZE(exports); i++) {
        char pattern[PATH_MAX];
        glob_t found;
        pci_text(pattern, sizeof pattern, "%s%s", look->root, exports[i].pattern);
        int ret = glob(pattern, 0, NULL, &found);
        for (size_t k = 0; !ret && k < found.gl_pathc; k++)
            look_at_export(look, i, found.gl_pathv[k]);
        if (!ret)
            globfree(&found);
        else if (ret == GLOB_NOSPACE)
            look->error = -ENOMEM;
    }
}

/* "/dev/dm-3  partition  1048572  0  -2" */
static void look_at_swaps(struct pci_look *look)
{
    char path[PATH_MAX], *line = NULL;
    size_t size = 0;
    struct pci_stat st;
    pci_text(path, sizeof path, "%s/proc/swaps", look->root);
    FILE *f = fopen(path, "re");
    if (!f && errno != ENOENT) /* a kernel that cannot swap has none */
        pci_unseen(look, "/proc/swaps cannot be read", "do it as root");
    while (f && getline(&line, &size, f) >= 0) {
        line[strcspn(line, " \t\n")] = 0;
        if (line[0] != '/' || pci_stat(look->root, &st, "%s", line) || !S_ISBLK(st.mode))
            continue;
        for (const struct pci_node *node = look->nodes; node && node < look->nodes + look->nnodes; node++) {
            if (node->kind > PCI_UPON || node->number != st.rdev)
                continue;
            struct plx_pci_use *use = pci_use(look, node->device, PLX_PCI_SWAP);
            pci_text(use->what, sizeof use->what, "%s%s%s is swapped to", node->name,
                     *node->under ? ", which stands on " : "", node->under);
            pci_text(use->cure, sizeof use->cure, "swapoff %s", line);
        }
    }
    free(line);
    if (f)
        fclose(f);
}

/* Disks of a file system that has several, but for the one that its mount names. */
static void look_at_btrfs(struct pci_look *look)
{
    struct pci_names systems, names;
    pci_names(look->root, &systems, "/sys/fs/btrfs");
    for (int i = 0; i < systems.n; i++) {
        pci_names(look->root, &names, "/sys/fs/btrfs/%s/devices", systems.v[i]->d_name);
        for (int k = 0; k < names.n; k++) {
            dev_t number = pci_device_number(look->root, "/sys/class/block/%s/dev", names.v[k]->d_name);
            for (struct pci_node *node = look->nodes; node && node < look->nodes + look->nnodes; node++) {
                if (node->kind > PCI_UPON || node->number != number || node->mounted)
                    continue;
                struct plx_pci_use *use = pci_use(look, node->device, PLX_PCI_MOUNTED);
                pci_text(use->what, sizeof use->what, "%s is part of the mounted btrfs %s", node->name,
                         systems.v[i]->d_name);
                pci_text(use->cure, sizeof use->cure, "umount it; \"btrfs filesystem show %s\" has its name",
                         systems.v[i]->d_name);
                node->mounted = true;
            }
        }
        pci_names_free(&names);
    }
    pci_names_free(&systems);
}

/* ---- all of it ---- */

static void find_nodes(struct pci_look *look)
{
    for (unsigned i = 0; i < look->nlist; i++) {
        const struct plx_pci_nvme *d = &look->list[i];
        add_bars(look, i, d);
        add_user_nodes(look, i, d);
        if (!*d->controller)
            continue;
        add_node(look, i, PCI_CHAR, pci_device_number(look->root, "/sys/class/nvme/%s/dev", d->controller),
                 d->controller);
        each_disk(look, i, d->controller, add_namespace);
    }
}

int pci_look(struct pci_look *look)
{
    if (!look->nlist)
        return 0;
    find_nodes(look);
    for (unsigned i = 0; look->claim && i < look->nnodes; i++) /* partitions stand before their disk */
        if (look->nodes[i].kind <= PCI_PARTITION)
            claim_node(look, &look->nodes[i]);
    for (unsigned i = 0; i < look->nlist; i++) {
        look_at_state(look, i, &look->list[i]);
        look_at_functions(look, i, &look->list[i]);
        if (*look->list[i].controller)
            look_at_subsystem(look, i, look->list[i].controller);
    }
    look_at_exports(look);
    look_at_swaps(look);
    pci_look_at_processes(look);
    look_at_btrfs(look);
    for (unsigned i = 0; i < look->nnodes; i++)
        if (look->nodes[i].busy)
            say_claimed(look, &look->nodes[i]);
    for (unsigned i = 0; i < look->nnodes; i++) /* what is on a disk in use is nobody's business */
        if (look->nodes[i].kind <= PCI_PARTITION && !device_is_used(look, look->nodes[i].device))
            look_at_content(look, &look->nodes[i]);
    return look->error;
}

void pci_look_end(struct pci_look *look)
{
    for (unsigned i = 0; i < look->nclaims; i++)
        close(look->claims[i].fd);
    free(look->claims);
    free(look->nodes);
    free(look->uses);
    *look = (struct pci_look){0};
}

int plx_pci_nvme_uses(const struct plx_pci_nvme *list, unsigned nlist, struct plx_pci_use **uses, unsigned *n,
                      struct plx_error *err)
{
    struct pci_look look = {.root = "", .list = list, .nlist = nlist};
    int ret = pci_look(&look);
    *uses = NULL;
    *n = 0;
    if (!ret) {
        *uses = look.uses;
        *n = look.nuses;
        look.uses = NULL;
    }
    pci_look_end(&look);
    return ret ? plx_fail(err, ret, "out of memory") : 0;
}
