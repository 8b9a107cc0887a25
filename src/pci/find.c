/* SPDX-License-Identifier: BSD-3-Clause */
/* The NVMe functions of the PCI bus, and what sysfs knows of each. */
#include "pci/pci.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    CLASS_NVME = 0x010802,
    SECTOR = 512, /* what sysfs counts sizes in, whatever the blocks */
};

#define MEMORY "/run/pollux-nvme" /* what is remembered of devices: a file each */

bool pci_namespace_name(const char *entry, char out[PLX_PCI_NAME])
{
    unsigned subsystem, path, ns;
    int end = 0;
    if (sscanf(entry, "nvme%un%u%n", &subsystem, &ns, &end) != 2 || entry[end]) {
        end = 0;
        if (sscanf(entry, "nvme%uc%un%u%n", &subsystem, &path, &ns, &end) != 3 || entry[end])
            return false;
    }
    pci_text(out, PLX_PCI_NAME, "nvme%un%u", subsystem, ns);
    return true;
}

/* ---- what is remembered ---- */

/* A device that is plugged into the same place is another one, and has another folder. */
static uint64_t folder_number(const char *root, const char *address)
{
    struct pci_stat st;
    return pci_stat(root, &st, PCI_DEVICES "/%s", address) ? 0 : st.ino;
}

int pci_remember(const char *root, const struct plx_pci_nvme *d)
{
    char path[PLX_PCI_TEXT];
    pci_text(path, sizeof path, "%s" MEMORY, root);
    if (mkdir(path, 0755) < 0 && errno != EEXIST)
        return -errno;
    pci_text(path, sizeof path, "%s" MEMORY "/%s", root, d->address);
    FILE *f = fopen(path, "we");
    if (!f)
        return -errno;
    fprintf(f, "%" PRIu64 " %" PRIu64 " %u\n%s\n%s\n%s\n", folder_number(root, d->address), d->bytes, d->namespaces,
            d->model, d->serial, d->firmware);
    return fclose(f) ? -errno : 0;
}

void pci_forget(const char *root, const char *address)
{
    char path[PLX_PCI_TEXT];
    pci_text(path, sizeof path, "%s" MEMORY "/%s", root, address);
    unlink(path);
}

static void next_line(FILE *f, char *out, size_t size)
{
    char line[PLX_PCI_TEXT] = "";
    if (fgets(line, sizeof line, f))
        pci_text(out, size, "%.*s", (int)strcspn(line, "\n"), line);
}

static void recall(const char *root, struct plx_pci_nvme *d)
{
    char path[PLX_PCI_TEXT], line[PLX_PCI_TEXT];
    uint64_t folder, bytes;
    unsigned namespaces;
    pci_text(path, sizeof path, "%s" MEMORY "/%s", root, d->address);
    FILE *f = fopen(path, "re");
    if (!f)
        return;
    if (fgets(line, sizeof line, f) && sscanf(line, "%" SCNu64 " %" SCNu64 " %u", &folder, &bytes, &namespaces) == 3 &&
        folder == folder_number(root, d->address)) {
        d->bytes = bytes;
        d->namespaces = namespaces;
        next_line(f, d->model, sizeof d->model);
        next_line(f, d->serial, sizeof d->serial);
        next_line(f, d->firmware, sizeof d->firmware);
    }
    fclose(f);
}

/* ---- what there is ---- */

static void find_namespaces(const char *root, struct plx_pci_nvme *d)
{
    struct pci_names names;
    char disk[PLX_PCI_NAME];
    pci_names(root, &names, "/sys/class/nvme/%s", d->controller);
    for (int i = 0; i < names.n; i++) {
        if (!pci_namespace_name(names.v[i]->d_name, disk))
            continue;
        d->namespaces++;
        d->bytes += SECTOR * (uint64_t)pci_number(root, 0, "/sys/class/block/%s/size", disk);
    }
    pci_names_free(&names);
}

static void find_controller(const char *root, struct plx_pci_nvme *d)
{
    struct pci_names names;
    pci_names(root, &names, PCI_DEVICES "/%s/nvme", d->address);
    if (names.n)
        pci_text(d->controller, sizeof d->controller, "%s", names.v[0]->d_name);
    pci_names_free(&names);
    if (!*d->controller) {
        recall(root, d);
        return;
    }
    pci_read(root, d->state, sizeof d->state, "/sys/class/nvme/%s/state", d->controller);
    pci_read(root, d->model, sizeof d->model, "/sys/class/nvme/%s/model", d->controller);
    pci_read(root, d->serial, sizeof d->serial, "/sys/class/nvme/%s/serial", d->controller);
    pci_read(root, d->firmware, sizeof d->firmware, "/sys/class/nvme/%s/firmware_rev", d->controller);
    find_namespaces(root, d);
}

static void find_numa_node(const char *root, struct plx_pci_nvme *d)
{
    struct pci_names names;
    if (*d->controller)
        pci_text(d->node, sizeof d->node, "/dev/%.32s", d->controller);
    else if (d->iommu_group >= 0 && strcmp(d->driver, "vfio-pci") == 0)
        pci_text(d->node, sizeof d->node, "/dev/vfio/%d", d->iommu_group);
    else if (pci_names(root, &names, PCI_DEVICES "/%s/uio", d->address) == 0) {
        if (names.n)
            pci_text(d->node, sizeof d->node, "/dev/%.32s", names.v[0]->d_name);
        pci_names_free(&names);
    }
}

int pci_describe(const char *root, const char *address, struct plx_pci_nvme *out)
{
    char group[32];
    *out = (struct plx_pci_nvme){.iommu_group = -1};
    if (pci_number(root, 0, PCI_DEVICES "/%s/class", address) != CLASS_NVME)
        return -ENODEV;
    pci_text(out->address, sizeof out->address, "%s", address);
    out->vendor = (uint16_t)pci_number(root, 0, PCI_DEVICES "/%s/vendor", address);
    out->device = (uint16_t)pci_number(root, 0, PCI_DEVICES "/%s/device", address);
    out->numa_node = (int)pci_number(root, -1, PCI_DEVICES "/%s/numa_node", address);
    pci_link(root, out->driver, sizeof out->driver, PCI_DEVICES "/%s/driver", address);
    if (pci_link(root, group, sizeof group, PCI_DEVICES "/%s/iommu_group", address) > 0 && isdigit(group[0]))
        out->iommu_group = (int)strtol(group, NULL, 10);
    find_controller(root, out);
    find_numa_node(root, out);
    return 0;
}

int pci_find(const char *root, struct plx_pci_nvme **list, unsigned *n, struct plx_error *err)
{
    struct pci_names names;
    int ret = pci_names(root, &names, PCI_DEVICES);
    *list = NULL;
    *n = 0;
    if (ret)
        return plx_fail(err, ret, "the devices of the PCI bus cannot be listed: " PCI_DEVICES ": %s", strerror(-ret));
    *list = calloc((size_t)names.n + 1, sizeof **list);
    for (int i = 0; *list && i < names.n; i++)
        if (pci_describe(root, names.v[i]->d_name, &(*list)[*n]) == 0)
            ++*n;
    pci_names_free(&names);
    return *list ? 0 : plx_fail(err, -ENOMEM, "out of memory");
}

int plx_pci_nvme_list(struct plx_pci_nvme **list, unsigned *n, struct plx_error *err)
{
    return pci_find("", list, n, err);
}
