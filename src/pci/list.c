/* SPDX-License-Identifier: BSD-3-Clause */
/* Which functions there are for us: those that somebody has given to vfio-pci. */
#include "pci/function.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DRIVER "/sys/bus/pci/drivers/vfio-pci"

/* As the kernel says it: "0x010802". What it says of a function is read without waiting for its driver. */
static bool has_class(const char *addr, uint32_t class)
{
    char path[300], text[16];
    snprintf(path, sizeof path, DRIVER "/%s/class", addr);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    text[n > 0 ? n : 0] = 0;
    return n > 0 && strtoul(text, NULL, 16) == class;
}

unsigned pci_vfio_list(uint32_t class, char (*addrs)[PCI_ADDR_TEXT], unsigned max)
{
    DIR *dir = opendir(DRIVER);
    unsigned n = 0;
    if (!dir)
        return 0; /* there is no such driver, and nothing is with it */
    for (const struct dirent *e; n < max && (e = readdir(dir));) {
        if (strlen(e->d_name) < PCI_ADDR_TEXT && strchr(e->d_name, '.') > e->d_name && has_class(e->d_name, class))
            snprintf(addrs[n++], PCI_ADDR_TEXT, "%s", e->d_name);
    }
    closedir(dir);
    return n;
}

pci_list_fn *pci_list = pci_vfio_list;
