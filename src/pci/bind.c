/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Handing devices from one driver to another. By driver_override and drivers_probe: new_id would take along whatever
 * else is of the same kind, now and later. The override is taken back at once, so that nothing of it outlives what was
 * asked for. drivers_probe succeeds whether or not a driver took the device: the driver's link tells.
 */
#include "pci/pci.h"

#include "base/util.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>

enum {
    TRIES = 20, /* for what passes by itself: udev looks at a disk, a controller comes up */
    PAUSE_MS = 50,
    LIVE_TRIES = 400,
    MEMLOCK_ENOUGH = 64 << 20, /* bytes: less is worth a word */
};

static const char vfio[] = "vfio-pci", uio[] = "uio_pci_generic", kernel[] = "nvme";

struct binding {
    const char *root;
    const struct plx_pci_bind_opts *opts;
    const char *driver;           /* to have them */
    struct plx_pci_nvme *devices; /* those that were named */
    unsigned ndevices;
    unsigned refused; /* how many reasons against it were said */
    struct plx_error *err;
};

static void say(const struct binding *b, enum plx_pci_say kind, const char *address, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
static void say(const struct binding *b, enum plx_pci_say kind, const char *address, const char *fmt, ...)
{
    char text[3 * PLX_PCI_TEXT];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (b->opts->say)
        b->opts->say(b->opts->arg, kind, address, text);
}

#define REFUSE(b, address, ...)                                                                                        \
    do {                                                                                                               \
        (b)->refused++;                                                                                                \
        say(b, PLX_PCI_REFUSED, address, __VA_ARGS__);                                                                 \
    } while (0)

/* ---- names ---- */

/* "01:00.0" is in domain 0. */
static bool is_address(const struct plx_pci_nvme *d, const char *text)
{
    static const char domain0[] = "0000:";
    return strcasecmp(d->address, text) == 0 ||
           (strncmp(d->address, domain0, strlen(domain0)) == 0 && strcasecmp(d->address + strlen(domain0), text) == 0);
}

static int choose_one(const struct plx_pci_nvme *all, unsigned n, const char *text, unsigned *chosen,
                      struct plx_error *err)
{
    unsigned found = 0;
    for (unsigned i = 0; i < n; i++) {
        if (!*text || (!is_address(&all[i], text) && strcmp(all[i].serial, text) != 0))
            continue;
        if (found++)
            return plx_fail(err, -EINVAL,
                            "\"%.60s\" is the serial number of both %s and %s: name them by their addresses", text,
                            all[*chosen].address, all[i].address);
        *chosen = i;
        if (is_address(&all[i], text))
            return 0;
    }
    return found
               ? 0
               : plx_fail(err, -ENOENT,
                          "there is no NVMe device with the PCI address or the serial number \"%.100s\"; \"pollux nvme "
                          "list\" shows those there are",
                          text);
}

static int choose_devices(struct binding *b, const char *const *which, unsigned n)
{
    struct plx_pci_nvme *all;
    unsigned nall;
    int ret = pci_find(b->root, &all, &nall, b->err);
    if (ret)
        return ret;
    b->devices = calloc(n + 1, sizeof *b->devices);
    if (!b->devices)
        ret = plx_fail(b->err, -ENOMEM, "out of memory");
    for (unsigned i = 0; !ret && i < n; i++) {
        unsigned chosen = 0;
        bool twice = false;
        ret = choose_one(all, nall, which[i], &chosen, b->err);
        for (unsigned k = 0; !ret && k < b->ndevices; k++)
            twice |= strcmp(b->devices[k].address, all[chosen].address) == 0;
        if (!ret && !twice)
            b->devices[b->ndevices++] = all[chosen];
    }
    free(all);
    return ret;
}

static bool is_named(const struct binding *b, const char *address)
{
    for (unsigned i = 0; i < b->ndevices; i++)
        if (strcmp(b->devices[i].address, address) == 0)
            return true;
    return false;
}

static bool has_driver(const struct binding *b, const char *address, const char *driver)
{
    char name[PLX_PCI_NAME];
    pci_link(b->root, name, sizeof name, PCI_DEVICES "/%s/driver", address);
    return strcmp(name, driver) == 0;
}

/* ---- what the driver needs ---- */

static bool iommu_is_off_by_command_line(const struct binding *b)
{
    char line[2048];
    static const char *const words[] = {"intel_iommu=off", "amd_iommu=off", "iommu=off"};
    pci_read(b->root, line, sizeof line, "/proc/cmdline");
    for (size_t i = 0; i < PLX_ARRAY_SIZE(words); i++)
        if (strstr(line, words[i]))
            return true;
    return false;
}

static void need_iommu(struct binding *b, const struct plx_pci_nvme *d)
{
    struct pci_names units;
    pci_names(b->root, &units, "/sys/class/iommu");
    const char *cure =
        iommu_is_off_by_command_line(b)
            ? "the kernel's command line turns it off: take iommu=off, intel_iommu=off or amd_iommu=off out "
              "of it"
        : units.n ? "the machine has one, but not for this device: another slot may have it"
                  : "turn it on in the firmware's setup (VT-d, AMD-Vi, SMMU), with intel_iommu=on on the "
                    "kernel's command line where the processor is Intel's; a virtual machine needs a "
                    "virtual one";
    pci_names_free(&units);
    REFUSE(b, d->address,
           "%s needs an IOMMU, and there is none that is on: %s. Without one, --driver %s is left, for root, and with "
           "nothing that keeps the device from any memory",
           vfio, cure, uio);
}

/* Everything else in the group has to be out of the kernel's hands: it could reach what the device may. */
static void need_group(struct binding *b, const struct plx_pci_nvme *d)
{
    static const char *const harmless[] = {"", "vfio-pci", "pci-stub", "pcieport"};
    struct pci_names names;
    pci_names(b->root, &names, PCI_DEVICES "/%s/iommu_group/devices", d->address);
    for (int i = 0; i < names.n; i++) {
        const char *other = names.v[i]->d_name;
        char driver[PLX_PCI_NAME];
        bool fine = is_named(b, other);
        pci_link(b->root, driver, sizeof driver, PCI_DEVICES "/%s/driver", other);
        for (size_t k = 0; k < PLX_ARRAY_SIZE(harmless); k++)
            fine |= strcmp(driver, harmless[k]) == 0;
        if (!fine)
            REFUSE(b, d->address,
                   "its IOMMU group %d has %s in it too, which the kernel has (driver %s): they go together or not at "
                   "all. Another slot may have a group of its own; or give %s to %s as well",
                   d->iommu_group, other, driver, other, vfio);
    }
    pci_names_free(&names);
}

static void need_no_translation(struct binding *b, const struct plx_pci_nvme *d)
{
    char type[32], lockdown[64];
    pci_read(b->root, type, sizeof type, PCI_DEVICES "/%s/iommu_group/type", d->address);
    pci_read(b->root, lockdown, sizeof lockdown, "/sys/kernel/security/lockdown");
    if (d->iommu_group >= 0 && strcmp(type, "identity") != 0)
        REFUSE(
            b, d->address,
            "with %s its memory accesses would all fail: an IOMMU translates them, which that driver knows nothing of. "
            "--driver %s is the right one here, and the safer",
            uio, vfio);
    if (strstr(lockdown, "[integrity]") || strstr(lockdown, "[confidentiality]"))
        REFUSE(b, d->address,
               "this kernel is locked down (Secure Boot), and lets nobody at a device's registers by %s; %s is the way",
               uio, vfio);
}

static void need_driver(struct binding *b)
{
    for (unsigned i = 0; i < b->ndevices; i++)
        if (!pci_exists(b->root, PCI_DRIVERS "/%s", b->driver))
            REFUSE(b, b->devices[i].address, "the driver %s is not loaded: modprobe %s", b->driver, b->driver);
}

static void check_needs(struct binding *b)
{
    need_driver(b);
    for (unsigned i = 0; i < b->ndevices; i++) {
        const struct plx_pci_nvme *d = &b->devices[i];
        if (strcmp(b->driver, uio) == 0)
            need_no_translation(b, d);
        else if (d->iommu_group < 0)
            need_iommu(b, d);
        else
            need_group(b, d);
    }
}

/* ---- whether they may be taken ---- */

static bool content_is_allowed(const struct binding *b, const struct plx_pci_nvme *d)
{
    for (unsigned i = 0; i < b->opts->nallow_content; i++)
        if (strcmp(b->opts->allow_content[i], d->serial) == 0 ||
            (!*d->serial && is_address(d, b->opts->allow_content[i])))
            return true;
    return false;
}

static bool counts(const struct binding *b, const struct plx_pci_use *use)
{
    return use->kind != PLX_PCI_CONTENT || !content_is_allowed(b, &b->devices[use->device]);
}

/* A name that is nobody's was meant for somebody. */
static int check_contents(const struct binding *b)
{
    for (unsigned i = 0; i < b->opts->nallow_content; i++) {
        const char *name = b->opts->allow_content[i];
        bool known = false;
        for (unsigned k = 0; k < b->ndevices; k++)
            known |= *name && (strcmp(b->devices[k].serial, name) == 0 ||
                               (!*b->devices[k].serial && is_address(&b->devices[k], name)));
        if (!known)
            return plx_fail(b->err, -EINVAL,
                            "none of the devices has the serial number \"%.60s\" that may have contents", name);
    }
    return 0;
}

/* What is over in a moment: udev looks at a new disk, a tool asks a question. */
static bool may_pass(const struct binding *b, const struct pci_look *look)
{
    bool passing = false;
    for (unsigned i = 0; i < look->nuses; i++) {
        if (!counts(b, &look->uses[i]))
            continue;
        if (look->uses[i].kind != PLX_PCI_OPEN && look->uses[i].kind != PLX_PCI_CLAIMED)
            return false;
        passing = true;
    }
    return passing;
}

/* The look that counts, whose claims are kept. */
static int prove_idle(struct binding *b, struct pci_look *look, bool claim)
{
    int ret;
    for (int tries = 0;; tries++) {
        *look = (struct pci_look){.root = b->root, .list = b->devices, .nlist = b->ndevices, .claim = claim};
        ret = pci_look(look);
        if (ret || tries == TRIES || !may_pass(b, look))
            break;
        pci_look_end(look);
        poll(NULL, 0, PAUSE_MS);
    }
    for (unsigned i = 0; !ret && i < look->nuses; i++) {
        const struct plx_pci_use *use = &look->uses[i];
        if (counts(b, use))
            REFUSE(b, b->devices[use->device].address, "%s%s%s", use->what, *use->cure ? "; what to do: " : "",
                   use->cure);
    }
    return ret ? plx_fail(b->err, ret, "out of memory") : 0;
}

/* ---- doing it ---- */

static int binding_step(struct binding *b, const char *address, const char *text, const char *file)
{
    int ret = 0;
    say(b, PLX_PCI_STEP, address, "echo %s >%s", *text ? text : "\"\"", file);
    if (!b->opts->dry_run)
        ret = pci_write(b->root, text, "%s", file);
    return ret ? plx_fail(b->err, ret, "%s: cannot write \"%s\" to %s: %s%s", address, text, file, strerror(-ret),
                          ret == -EACCES || ret == -EPERM ? "; it takes root" : "")
               : 0;
}

static int override_driver(struct binding *b, const char *address, const char *driver)
{
    char file[PLX_PCI_TEXT];
    pci_text(file, sizeof file, PCI_DEVICES "/%s/driver_override", address);
    return binding_step(b, address, driver, file);
}

static int leave_driver(struct binding *b, const char *address)
{
    char file[PLX_PCI_TEXT];
    pci_text(file, sizeof file, PCI_DEVICES "/%s/driver/unbind", address);
    return pci_exists(b->root, "%s", file) ? binding_step(b, address, address, file) : 0;
}

static int ask_for_driver(struct binding *b, const char *address)
{
    return binding_step(b, address, address, "/sys/bus/pci/drivers_probe");
}

/* The kernel's driver is to have it again, whatever went wrong. */
static int put_back(struct binding *b, const struct plx_pci_nvme *d, int ret)
{
    struct plx_error ignored, *err = b->err;
    char said[sizeof ignored.text / 2];
    pci_text(said, sizeof said, "%s", err ? err->text : "");
    b->err = &ignored;
    override_driver(b, d->address, "");
    ask_for_driver(b, d->address);
    b->err = err;
    return plx_fail(err, ret, "%s; %s", said,
                    has_driver(b, d->address, kernel) ? "the kernel's driver has it again" : "it has no driver now");
}

/* look holds the claims; they end when the kernel's driver is gone, and the disks with it. */
static int hand_over(struct binding *b, const struct plx_pci_nvme *d)
{
    int ret = override_driver(b, d->address, b->driver);
    if (ret)
        return ret;
    ret = leave_driver(b, d->address);
    if (!ret)
        ret = ask_for_driver(b, d->address);
    if (!ret && !b->opts->dry_run && !has_driver(b, d->address, b->driver))
        ret = plx_fail(b->err, -EIO, "%s: %s does not take it; \"dmesg\" may say why%s", d->address, b->driver,
                       strcmp(b->driver, uio) == 0 ? ", such as no interrupt line" : "");
    return ret ? put_back(b, d, ret) : override_driver(b, d->address, "");
}

static void say_done(struct binding *b, const char *address)
{
    struct plx_pci_nvme d;
    pci_describe(b->root, address, &d);
    say(b, PLX_PCI_DONE, address, "%s has it now: %s", b->driver, *d.node ? d.node : "no node in /dev");
    if (strcmp(b->driver, vfio) == 0)
        say(b, PLX_PCI_NOTE, address, "for another user than root: chown USER %s", d.node);
}

static void say_limit(const struct binding *b)
{
    struct rlimit limit;
    if (strcmp(b->driver, vfio) == 0 && getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur < MEMLOCK_ENOUGH)
        say(b, PLX_PCI_NOTE, b->devices[0].address,
            "no more than %llu KiB of memory can be locked here (ulimit -l): whoever uses it without being root needs "
            "as much as all of its buffers; LimitMEMLOCK=infinity in a unit of systemd",
            (unsigned long long)limit.rlim_cur >> 10);
}

static int bind_all(struct binding *b, struct pci_look *look)
{
    for (unsigned i = 0; i < b->ndevices; i++) {
        const struct plx_pci_nvme *d = &b->devices[i];
        int ret = hand_over(b, d);
        if (ret)
            return ret;
        if (b->opts->dry_run)
            continue;
        if (*d->controller && pci_remember(b->root, d))
            say(b, PLX_PCI_NOTE, d->address, "its model and serial number cannot be kept in /run: the list lacks them");
        say_done(b, d->address);
    }
    pci_look_end(look);
    if (b->ndevices && !b->opts->dry_run)
        say_limit(b);
    return 0;
}

static int refused(struct binding *b, const char *what)
{
    return plx_fail(b->err, -EBUSY, "nothing was %s; %u reason%s against it", what, b->refused,
                    b->refused == 1 ? " speaks" : "s speak");
}

/* Takes those out of the list that need nothing. */
static void leave_out_done(struct binding *b)
{
    unsigned n = 0;
    for (unsigned i = 0; i < b->ndevices; i++) {
        const struct plx_pci_nvme *d = &b->devices[i];
        if (strcmp(d->driver, b->driver) == 0)
            say(b, PLX_PCI_DONE, d->address, "%s has it already: %s", d->driver,
                *d->node ? d->node : "no node in /dev");
        else
            b->devices[n++] = *d;
    }
    b->ndevices = n;
}

static int known_driver(const struct plx_pci_bind_opts *opts, struct plx_error *err)
{
    if (!opts->driver || strcmp(opts->driver, vfio) == 0 || strcmp(opts->driver, uio) == 0)
        return 0;
    return plx_fail(err, -EINVAL, "there is no driver \"%.60s\" for this: it is %s, or %s where there is no IOMMU",
                    opts->driver, vfio, uio);
}

int pci_bind(const char *root, const char *const *which, unsigned n, const struct plx_pci_bind_opts *opts,
             struct plx_error *err)
{
    struct binding b = {.root = root, .opts = opts, .driver = opts->driver ? opts->driver : vfio, .err = err};
    struct pci_look look = {0};
    int ret = known_driver(opts, err);
    if (!ret)
        ret = choose_devices(&b, which, n);
    if (!ret)
        ret = check_contents(&b);
    if (!ret)
        ret = prove_idle(&b, &look, true);
    if (!ret)
        leave_out_done(&b);
    if (!ret)
        check_needs(&b);
    if (!ret && b.refused)
        ret = refused(&b, "bound");
    if (!ret)
        ret = bind_all(&b, &look);
    pci_look_end(&look);
    free(b.devices);
    return ret;
}

/* ---- back ---- */

/* The driver's probe is over before its controller is up. */
static bool wait_until_live(const struct binding *b, const char *address, struct plx_pci_nvme *d)
{
    for (int i = 0; i < LIVE_TRIES; i++) {
        if (pci_describe(b->root, address, d) || strcmp(d->driver, kernel) != 0)
            return false;
        if (strcmp(d->state, "live") == 0)
            return true;
        poll(NULL, 0, PAUSE_MS);
    }
    return false;
}

static int unbind_one(struct binding *b, const struct plx_pci_nvme *before)
{
    struct plx_pci_nvme d;
    int ret = override_driver(b, before->address, "");
    if (!ret)
        ret = leave_driver(b, before->address);
    if (!ret)
        ret = ask_for_driver(b, before->address);
    if (ret || b->opts->dry_run)
        return ret;
    bool live = wait_until_live(b, before->address, &d);
    if (strcmp(d.driver, kernel) != 0)
        return plx_fail(b->err, -EIO, "%s: the kernel's driver does not take it; \"dmesg\" may say why",
                        before->address);
    pci_forget(b->root, before->address);
    if (!live)
        return plx_fail(b->err, -EIO,
                        "%s: the kernel's driver has it, but its controller %s is %s; \"dmesg\" may say why",
                        before->address, d.controller, *d.state ? d.state : "not there");
    say(b, PLX_PCI_DONE, before->address, "the kernel has it again: %s, with %u namespace%s", d.node, d.namespaces,
        d.namespaces == 1 ? "" : "s");
    return 0;
}

int pci_unbind(const char *root, const char *const *which, unsigned n, const struct plx_pci_bind_opts *opts,
               struct plx_error *err)
{
    struct binding b = {.root = root, .opts = opts, .driver = kernel, .err = err};
    struct pci_look look = {0};
    int ret = choose_devices(&b, which, n);
    if (!ret)
        leave_out_done(&b);
    if (!ret)
        ret = prove_idle(&b, &look, false);
    if (!ret)
        need_driver(&b);
    if (!ret && b.refused)
        ret = refused(&b, "given back");
    for (unsigned i = 0; !ret && i < b.ndevices; i++)
        ret = unbind_one(&b, &b.devices[i]);
    pci_look_end(&look);
    free(b.devices);
    return ret;
}

int plx_pci_nvme_bind(const char *const *which, unsigned n, const struct plx_pci_bind_opts *opts, struct plx_error *err)
{
    return pci_bind("", which, n, opts, err);
}

int plx_pci_nvme_unbind(const char *const *which, unsigned n, const struct plx_pci_bind_opts *opts,
                        struct plx_error *err)
{
    return pci_unbind("", which, n, opts, err);
}
