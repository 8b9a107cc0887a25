/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Devices that go from one driver to another, with a made-up kernel behind write(): as the real one, it says that a
 * probe went well whether or not a driver took the device.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"
#include "pci_tree.h"

static struct {
    char journal[4096];  /* what was written where, below the root */
    unsigned claims;     /* at the first unbind */
    const char *refuses; /* a driver that takes nothing */
    const char *state;   /* of a controller that comes up, */
    unsigned polls;      /* and becomes live at the second */
    bool read_only;      /* nothing can be written */
    unsigned passes;     /* a process that has the disk open closes it at this poll */
    char said[8192];
} world;

ssize_t __real_write(int fd, const void *bytes, size_t n);
ssize_t __wrap_write(int fd, const void *bytes, size_t n);
int __wrap_poll(struct pollfd *fds, nfds_t n, int ms);

/* ---- the kernel ---- */

static unsigned number_of(const char *address)
{
    return (unsigned)strtoul(address + strlen("0000:"), NULL, 16);
}

static void on_unbind(const char *address)
{
    char driver[PLX_PCI_NAME];
    pci_link(tree_root(), driver, sizeof driver, PCI_DEVICES "/%s/driver", address);
    if (!world.claims)
        world.claims = tree_claims();
    tree_gone(PCI_DEVICES "/%s/driver", address);
    if (strcmp(driver, "nvme") == 0)
        tree_gone(PCI_DEVICES "/%s/nvme/nvme%u", address, number_of(address));
}

static void on_probe(const char *address)
{
    char driver[PLX_PCI_NAME], link[PLX_PCI_NAME + 32];
    pci_read(tree_root(), driver, sizeof driver, PCI_DEVICES "/%s/driver_override", address);
    if (!*driver || strcmp(driver, "(null)") == 0)
        snprintf(driver, sizeof driver, "nvme");
    if (pci_exists(tree_root(), PCI_DEVICES "/%s/driver", address) ||
        (world.refuses && strcmp(driver, world.refuses) == 0))
        return;
    snprintf(link, sizeof link, "../../drivers/%s", driver);
    tree_link(link, PCI_DEVICES "/%s/driver", address);
    if (strcmp(driver, "nvme") != 0)
        return;
    tree_file("", PCI_DEVICES "/%s/nvme/nvme%u/", address, number_of(address));
    tree_file(world.state ? world.state : "live\n", "/sys/class/nvme/nvme%u/state", number_of(address));
}

ssize_t __wrap_write(int fd, const void *bytes, size_t n)
{
    char link[32], path[PATH_MAX], text[128];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t len = readlink(link, path, sizeof path - 1);
    path[len < 0 ? 0 : len] = 0;
    if (!*tree_root() || strncmp(path, tree_root(), strlen(tree_root())) != 0)
        return __real_write(fd, bytes, n);
    if (world.read_only) {
        errno = EROFS;
        return -1;
    }
    const char *file = path + strlen(tree_root());
    snprintf(text, sizeof text, "%.*s", (int)n - 1, (const char *)bytes);
    size_t used = strlen(world.journal);
    const char *folder = "/sys/bus/pci/";
    assert_int_equal(strncmp(file, folder, strlen(folder)), 0);
    snprintf(world.journal + used, sizeof world.journal - used, "%s=%s ", file + strlen(folder), text);
    assert_int_equal(ftruncate(fd, 0), 0);
    ssize_t ret = __real_write(fd, bytes, n);
    if (strstr(file, "/unbind"))
        on_unbind(text);
    else if (strstr(file, "drivers_probe"))
        on_probe(text);
    return ret;
}

int __wrap_poll(struct pollfd *fds, nfds_t n, int ms)
{
    (void)fds, (void)n, (void)ms;
    world.polls++;
    if (world.passes && world.polls == world.passes)
        tree_gone("/proc/300/fd/7");
    if (world.state && world.polls == 2)
        tree_file("live\n", "/sys/class/nvme/nvme1/state");
    return 0;
}

/* ---- the caller ---- */

static void hear(void *arg, enum plx_pci_say kind, const char *address, const char *text)
{
    static const char *const names[] = {"refused", "step", "done", "note"};
    (void)arg;
    size_t used = strlen(world.said);
    snprintf(world.said + used, sizeof world.said - used, "%s %s: %s\n", names[kind], address, text);
}

static struct plx_error error;

static int bind_with(const char *driver, bool dry_run, const char *content, const char *first, const char *second)
{
    const char *which[] = {first, second};
    const struct plx_pci_bind_opts opts = {.driver = driver,
                                           .dry_run = dry_run,
                                           .allow_content = &content,
                                           .nallow_content = content ? 1 : 0,
                                           .say = hear};
    error.text[0] = 0;
    return pci_bind(tree_root(), which, second ? 2 : 1, &opts, &error);
}

static int bind_one(const char *which)
{
    return bind_with(NULL, false, NULL, which, NULL);
}

static int unbind(const char *which, bool dry_run)
{
    const struct plx_pci_bind_opts opts = {.dry_run = dry_run, .say = hear};
    error.text[0] = 0;
    return pci_unbind(tree_root(), &which, 1, &opts, &error);
}

static void assert_said(const char *text)
{
    if (!strstr(world.said, text))
        print_error("not said: %s\nbut:\n%s%s\n", text, world.said, error.text);
    assert_non_null(strstr(world.said, text));
}

static void assert_error(int ret, int wanted, const char *text)
{
    if (ret != wanted || !strstr(error.text, text))
        print_error("%d: %s\n%s", ret, error.text, world.said);
    assert_int_equal(ret, wanted);
    assert_non_null(strstr(error.text, text));
}

static void assert_driver(unsigned i, const char *wanted)
{
    char driver[PLX_PCI_NAME];
    pci_link(tree_root(), driver, sizeof driver, PCI_DEVICES "/0000:%02x:00.0/driver", i);
    assert_string_equal(driver, wanted);
}

static int set_up(void **state)
{
    (void)state;
    memset(&world, 0, sizeof world);
    tree_make();
    tree_device(1);
    tree_namespace(1, 1);
    tree_device(2);
    tree_namespace(2, 1);
    return 0;
}

static int clean_up(void **state)
{
    (void)state;
    tree_remove();
    return 0;
}

static void open_disk_1(const char *who)
{
    tree_process(300, who, 1, "");
    tree_opens(300, "/dev/nvme1n1");
}

static void taken_by_vfio(void)
{
    tree_file("242:11\n", "/sys/class/vfio/11/dev");
    tree_node("vfio/11", 'c', 242, 11);
    assert_int_equal(bind_one("0000:01:00.0"), 0);
    memset(&world, 0, sizeof world);
}

/* ---- binding ---- */

#define DEV1 "devices/0000:01:00.0/"
#define BOUND1                                                                                                         \
    DEV1 "driver_override=vfio-pci drivers/nvme/unbind=0000:01:00.0 drivers_probe=0000:01:00.0 " DEV1                  \
         "driver_override= "

static void a_device_goes_by_an_override_that_is_taken_back(void **state)
{
    (void)state;
    assert_int_equal(bind_one("0000:01:00.0"), 0);
    assert_string_equal(world.journal, BOUND1);
    assert_driver(1, "vfio-pci");
    assert_driver(2, "nvme");
    assert_said("done 0000:01:00.0: vfio-pci has it now: /dev/vfio/11\n");
}

static void the_disk_is_claimed_until_the_kernel_lets_it_go(void **state)
{
    (void)state;
    assert_int_equal(bind_one("0000:01:00.0"), 0);
    assert_int_equal(world.claims, 1);
    assert_int_equal(tree_claims(), 0);
}

static void a_dry_run_says_the_steps_and_takes_none(void **state)
{
    (void)state;
    assert_int_equal(bind_with(NULL, true, NULL, "0000:01:00.0", NULL), 0);
    assert_string_equal(world.journal, "");
    assert_driver(1, "nvme");
    assert_string_equal(world.said,
                        "step 0000:01:00.0: echo vfio-pci >/sys/bus/pci/devices/0000:01:00.0/driver_override\n"
                        "step 0000:01:00.0: echo 0000:01:00.0 >/sys/bus/pci/devices/0000:01:00.0/driver/unbind\n"
                        "step 0000:01:00.0: echo 0000:01:00.0 >/sys/bus/pci/drivers_probe\n"
                        "step 0000:01:00.0: echo \"\" >/sys/bus/pci/devices/0000:01:00.0/driver_override\n");
}

static void a_device_in_use_is_refused_in_earnest_and_in_a_dry_run(void **state)
{
    (void)state;
    for (int dry = 0; dry < 2; dry++) {
        set_up(NULL);
        open_disk_1("mysqld");
        assert_error(bind_with(NULL, dry, NULL, "0000:01:00.0", NULL), -EBUSY, "nothing was bound; 1 reason speaks");
        assert_said("refused 0000:01:00.0: process 300 (mysqld) has /dev/nvme1n1 open; what to do: end it\n");
        assert_string_equal(world.journal, "");
        assert_driver(1, "nvme");
        assert_int_equal(tree_claims(), 0);
    }
}

static void all_devices_go_or_none(void **state)
{
    (void)state;
    open_disk_1("mysqld");
    assert_error(bind_with(NULL, false, NULL, "0000:02:00.0", "0000:01:00.0"), -EBUSY, "nothing was bound");
    assert_string_equal(world.journal, "");
    tree_gone("/proc/300/fd/7");
    assert_int_equal(bind_with(NULL, false, NULL, "0000:02:00.0", "0000:01:00.0"), 0);
    assert_driver(1, "vfio-pci");
    assert_driver(2, "vfio-pci");
    assert_int_equal(world.claims, 2);
}

static void what_passes_by_itself_is_waited_for(void **state)
{
    (void)state;
    open_disk_1("(udev-worker)");
    world.passes = 3;
    assert_int_equal(bind_one("0000:01:00.0"), 0);
    assert_int_equal(world.polls, 3);
    assert_driver(1, "vfio-pci");
}

static void what_does_not_pass_is_not_waited_for(void **state)
{
    (void)state;
    open_disk_1("(udev-worker)");
    tree_file("resetting\n", "/sys/class/nvme/nvme1/state");
    assert_error(bind_one("0000:01:00.0"), -EBUSY, "2 reasons speak against it");
    assert_int_equal(world.polls, 0);
}

static void a_driver_that_does_not_take_it_is_noticed_and_the_kernel_has_it_again(void **state)
{
    (void)state;
    world.refuses = "vfio-pci";
    assert_error(bind_one("0000:01:00.0"), -EIO,
                 "0000:01:00.0: vfio-pci does not take it; \"dmesg\" may say why; the kernel's driver has it again");
    assert_driver(1, "nvme");
    char text[32];
    assert_int_equal(pci_read(tree_root(), text, sizeof text, PCI_DEVICES "/0000:01:00.0/driver_override"), 0);
}

static void who_may_not_write_is_told_so(void **state)
{
    (void)state;
    world.read_only = true;
    assert_error(bind_one("0000:01:00.0"), -EROFS,
                 "cannot write \"vfio-pci\" to /sys/bus/pci/devices/0000:01:00.0/driver_override: Read-only");
    assert_driver(1, "nvme");
}

static void contents_pass_for_the_serial_number_that_is_named_and_no_other(void **state)
{
    (void)state;
    tree_write("nvme1n1", 0, "LUKS\xba\xbe\0\1", 8);
    assert_error(bind_with(NULL, false, "SERIAL2", "0000:01:00.0", NULL), -EINVAL,
                 "none of the devices has the serial number \"SERIAL2\"");
    assert_error(bind_with(NULL, false, "SERIAL2", "0000:01:00.0", "0000:02:00.0"), -EBUSY, "nothing was bound");
    assert_said("nvme1n1 holds crypto_LUKS (encrypted); what to do: \"wipefs -a /dev/nvme1n1\" if nobody needs it, or "
                "let it be there: --allow-content SERIAL1");
    assert_int_equal(bind_with(NULL, false, "SERIAL1", "0000:01:00.0", NULL), 0);
    assert_driver(1, "vfio-pci");
}

static void use_does_not_pass_for_a_serial_number(void **state)
{
    (void)state;
    open_disk_1("mysqld");
    assert_error(bind_with(NULL, false, "SERIAL1", "0000:01:00.0", NULL), -EBUSY, "nothing was bound");
}

/* ---- what is needed ---- */

static void no_iommu(void)
{
    tree_gone(PCI_DEVICES "/0000:01:00.0/iommu_group");
}

static void iommu_turned_off(void)
{
    no_iommu();
    tree_file("quiet intel_iommu=off\n", "/proc/cmdline");
}

static void iommu_for_others(void)
{
    no_iommu();
    tree_file("", "/sys/class/iommu/dmar0/");
}

static void no_module(void)
{
    tree_gone(PCI_DRIVERS "/vfio-pci/unbind");
    tree_gone(PCI_DRIVERS "/vfio-pci");
}

static void group_shared(void)
{
    tree_file("", "/sys/kernel/iommu_groups/11/devices/0000:00:1f.2");
    tree_link("../../drivers/ahci", PCI_DEVICES "/0000:00:1f.2/driver");
}

static void locked_down(void)
{
    no_iommu();
    tree_file("none [integrity] confidentiality\n", "/sys/kernel/security/lockdown");
}

static void nothing(void)
{
}

static void what_is_missing_is_said_with_what_to_do(void **state)
{
    (void)state;
    static const struct {
        void (*make)(void);
        const char *driver, *text;
    } cases[] = {
        {no_iommu, "vfio-pci",
         "vfio-pci needs an IOMMU, and there is none that is on: turn it on in the firmware's setup"},
        {iommu_turned_off, "vfio-pci", "the kernel's command line turns it off"},
        {iommu_for_others, "vfio-pci", "the machine has one, but not for this device"},
        {no_module, "vfio-pci", "the driver vfio-pci is not loaded: modprobe vfio-pci"},
        {group_shared, "vfio-pci", "its IOMMU group 11 has 0000:00:1f.2 in it too, which the kernel has (driver ahci)"},
        {nothing, "uio_pci_generic",
         "an IOMMU translates them, which that driver knows nothing of. --driver vfio-pci is"},
        {locked_down, "uio_pci_generic", "this kernel is locked down"},
    };
    for (size_t i = 0; i < PLX_ARRAY_SIZE(cases); i++) {
        set_up(NULL);
        cases[i].make();
        assert_error(bind_with(cases[i].driver, false, NULL, "0000:01:00.0", NULL), -EBUSY,
                     "1 reason speaks against it");
        assert_said(cases[i].text);
        assert_string_equal(world.journal, "");
    }
}

static void others_in_the_group_do_no_harm_where_the_kernel_does_not_use_them(void **state)
{
    (void)state;
    group_shared();
    tree_link("../../drivers/pcieport", PCI_DEVICES "/0000:00:1f.2/driver");
    tree_file("", "/sys/kernel/iommu_groups/11/devices/0000:02:00.0");
    assert_error(bind_one("0000:01:00.0"), -EBUSY, "nothing was bound");
    assert_said("its IOMMU group 11 has 0000:02:00.0 in it too");
    assert_int_equal(bind_with(NULL, false, NULL, "0000:01:00.0", "0000:02:00.0"), 0);
}

static void without_an_iommu_uio_takes_it(void **state)
{
    (void)state;
    no_iommu();
    assert_int_equal(bind_with("uio_pci_generic", false, NULL, "0000:01:00.0", NULL), 0);
    assert_driver(1, "uio_pci_generic");
}

static void an_iommu_that_lets_all_through_is_none(void **state)
{
    (void)state;
    tree_file("identity\n", "/sys/kernel/iommu_groups/11/type");
    assert_int_equal(bind_with("uio_pci_generic", false, NULL, "0000:01:00.0", NULL), 0);
}

static void another_driver_is_none(void **state)
{
    (void)state;
    assert_error(bind_with("igb_uio", false, NULL, "0000:01:00.0", NULL), -EINVAL, "there is no driver \"igb_uio\"");
}

/* ---- devices that are bound ---- */

static void a_bound_device_stays_so(void **state)
{
    (void)state;
    taken_by_vfio();
    assert_int_equal(bind_one("0000:01:00.0"), 0);
    assert_string_equal(world.journal, "");
    assert_said("done 0000:01:00.0: vfio-pci has it already: /dev/vfio/11");
}

static void a_bound_device_that_a_process_has_is_refused_by_its_name(void **state)
{
    (void)state;
    taken_by_vfio();
    tree_process(300, "qemu-system-x86", 1, "");
    tree_opens(300, "/dev/vfio/11");
    assert_error(bind_one("0000:01:00.0"), -EBUSY, "nothing was bound");
    assert_said("refused 0000:01:00.0: process 300 (qemu-system-x86) has /dev/vfio/11 open");
    memset(&world, 0, sizeof world);
    assert_error(unbind("0000:01:00.0", false), -EBUSY, "nothing was given back; 1 reason speaks against it");
    assert_said("process 300 (qemu-system-x86) has /dev/vfio/11 open");
    assert_string_equal(world.journal, "");
}

static void a_bound_device_is_known_by_what_it_was(void **state)
{
    (void)state;
    struct plx_pci_nvme d;
    taken_by_vfio();
    assert_int_equal(pci_describe(tree_root(), "0000:01:00.0", &d), 0);
    assert_string_equal(d.serial, "SERIAL1");
    assert_string_equal(d.model, "Samsung SSD 980 PRO 1TB");
    assert_string_equal(d.firmware, "5B2QGXA7");
    assert_int_equal(d.bytes, TREE_DISK_BYTES);
    assert_int_equal(d.namespaces, 1);
    assert_int_equal(unbind("SERIAL1", true), 0);
}

static void what_is_plugged_into_its_place_is_another_device(void **state)
{
    (void)state;
    struct plx_pci_nvme d;
    char from[128], to[128];
    taken_by_vfio();
    snprintf(from, sizeof from, "%s" PCI_DEVICES "/0000:01:00.0", tree_root());
    snprintf(to, sizeof to, "%s" PCI_DEVICES "/0000:00:1d.0", tree_root());
    assert_int_equal(rename(from, to), 0);
    tree_file("0x010802\n", PCI_DEVICES "/0000:01:00.0/class");
    assert_int_equal(pci_describe(tree_root(), "0000:01:00.0", &d), 0);
    assert_string_equal(d.serial, "");
    assert_int_equal(d.bytes, 0);
}

static void the_kernel_gets_it_back_and_is_waited_for(void **state)
{
    (void)state;
    taken_by_vfio();
    world.state = "connecting\n";
    assert_int_equal(unbind("0000:01:00.0", false), 0);
    assert_string_equal(world.journal, DEV1 "driver_override= drivers/vfio-pci/unbind=0000:01:00.0 "
                                            "drivers_probe=0000:01:00.0 ");
    assert_int_equal(world.polls, 2);
    assert_driver(1, "nvme");
    assert_said("done 0000:01:00.0: the kernel has it again: /dev/nvme1, with 1 namespace\n");
    assert_false(pci_exists(tree_root(), "/run/pollux-nvme/0000:01:00.0"));
}

static void a_dry_run_gives_nothing_back(void **state)
{
    (void)state;
    taken_by_vfio();
    assert_int_equal(unbind("0000:01:00.0", true), 0);
    assert_said("step 0000:01:00.0: echo 0000:01:00.0 >/sys/bus/pci/drivers_probe\n");
    assert_string_equal(world.journal, "");
    assert_driver(1, "vfio-pci");
}

static void a_kernel_that_does_not_take_it_is_noticed(void **state)
{
    (void)state;
    taken_by_vfio();
    world.refuses = "nvme";
    assert_error(unbind("0000:01:00.0", false), -EIO, "0000:01:00.0: the kernel's driver does not take it");
}

static void a_controller_that_does_not_come_up_is_said(void **state)
{
    (void)state;
    taken_by_vfio();
    world.state = "dead\n";
    world.polls = 10;
    assert_error(unbind("0000:01:00.0", false), -EIO, "but its controller nvme1 is dead");
}

static void without_a_module_nothing_is_given_back(void **state)
{
    (void)state;
    taken_by_vfio();
    tree_gone(PCI_DRIVERS "/nvme/unbind");
    tree_gone(PCI_DRIVERS "/nvme");
    assert_error(unbind("0000:01:00.0", false), -EBUSY, "nothing was given back");
    assert_said("the driver nvme is not loaded: modprobe nvme");
    assert_driver(1, "vfio-pci");
}

static void what_the_kernel_has_is_not_given_back(void **state)
{
    (void)state;
    open_disk_1("mysqld");
    assert_int_equal(unbind("0000:01:00.0", false), 0);
    assert_said("done 0000:01:00.0: nvme has it already: /dev/nvme1");
    assert_string_equal(world.journal, "");
}

/* ---- names ---- */

static void names_are_addresses_and_serial_numbers(void **state)
{
    (void)state;
    static const char *const good[] = {"0000:01:00.0", "01:00.0", "SERIAL1"};
    for (size_t i = 0; i < PLX_ARRAY_SIZE(good); i++) {
        set_up(NULL);
        assert_int_equal(bind_one(good[i]), 0);
        assert_driver(1, "vfio-pci");
        assert_driver(2, "nvme");
    }
}

static void names_of_nobody_are_refused(void **state)
{
    (void)state;
    tree_file("0x010802\n", PCI_DEVICES "/0000:09:00.0/class"); /* without a serial number, or any name */
    static const char *const bad[] = {"", "0000:03:00.0", "00:03.0", "SERIAL", "/dev/nvme1"};
    for (size_t i = 0; i < PLX_ARRAY_SIZE(bad); i++)
        assert_error(bind_with(NULL, false, NULL, "0000:01:00.0", bad[i]), -ENOENT, "there is no NVMe device with");
    assert_driver(1, "nvme");
}

static void a_serial_number_of_two_is_refused(void **state)
{
    (void)state;
    tree_file("SERIAL1\n", "/sys/class/nvme/nvme2/serial");
    assert_error(
        bind_one("SERIAL1"), -EINVAL,
        "\"SERIAL1\" is the serial number of both 0000:01:00.0 and 0000:02:00.0: name them by their addresses");
}

static void a_device_that_is_named_twice_is_one(void **state)
{
    (void)state;
    assert_int_equal(bind_with(NULL, false, NULL, "0000:01:00.0", "SERIAL1"), 0);
    assert_string_equal(world.journal, BOUND1);
}

/* ---- the list ---- */

static void the_list_has_nvme_functions_and_what_is_known_of_them(void **state)
{
    (void)state;
    struct plx_pci_nvme *list;
    unsigned n;
    tree_namespace(1, 2);
    assert_int_equal(pci_find(tree_root(), &list, &n, NULL), 0);
    assert_int_equal(n, 2);
    assert_string_equal(list[0].address, "0000:01:00.0");
    assert_string_equal(list[0].driver, "nvme");
    assert_string_equal(list[0].controller, "nvme1");
    assert_string_equal(list[0].state, "live");
    assert_string_equal(list[0].model, "Samsung SSD 980 PRO 1TB");
    assert_string_equal(list[0].serial, "SERIAL1");
    assert_string_equal(list[0].node, "/dev/nvme1");
    assert_int_equal(list[0].vendor, 0x144d);
    assert_int_equal(list[0].device, 0xa80a);
    assert_int_equal(list[0].namespaces, 2);
    assert_int_equal(list[0].bytes, 2 * TREE_DISK_BYTES);
    assert_int_equal(list[0].iommu_group, 11);
    assert_int_equal(list[0].numa_node, 0);
    assert_string_equal(list[1].address, "0000:02:00.0");
    free(list);
}

static void what_nobody_can_tell_is_left_open(void **state)
{
    (void)state;
    struct plx_pci_nvme d;
    tree_file("0x010802\n", PCI_DEVICES "/0000:09:00.0/class");
    assert_int_equal(pci_describe(tree_root(), "0000:09:00.0", &d), 0);
    assert_string_equal(d.driver, "");
    assert_string_equal(d.serial, "");
    assert_string_equal(d.node, "");
    assert_int_equal(d.iommu_group, -1);
    assert_int_equal(d.numa_node, -1);
    assert_int_equal(pci_describe(tree_root(), "0000:00:03.0", &d), -ENODEV);
}

static void names_of_namespaces_are_told_from_others(void **state)
{
    (void)state;
    char disk[PLX_PCI_NAME];
    assert_true(pci_namespace_name("nvme3n12", disk));
    assert_string_equal(disk, "nvme3n12");
    assert_true(pci_namespace_name("nvme3c1n12", disk));
    assert_string_equal(disk, "nvme3n12");
    static const char *const others[] = {"nvme3", "ng3n1", "nvme3n1p1", "nvme3c1", "hwmon1", "nvmen1"};
    for (size_t i = 0; i < PLX_ARRAY_SIZE(others); i++)
        assert_false(pci_namespace_name(others[i], disk));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, clean_up)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_device_goes_by_an_override_that_is_taken_back),
        TEST(the_disk_is_claimed_until_the_kernel_lets_it_go),
        TEST(a_dry_run_says_the_steps_and_takes_none),
        TEST(a_device_in_use_is_refused_in_earnest_and_in_a_dry_run),
        TEST(all_devices_go_or_none),
        TEST(what_passes_by_itself_is_waited_for),
        TEST(what_does_not_pass_is_not_waited_for),
        TEST(a_driver_that_does_not_take_it_is_noticed_and_the_kernel_has_it_again),
        TEST(who_may_not_write_is_told_so),
        TEST(contents_pass_for_the_serial_number_that_is_named_and_no_other),
        TEST(use_does_not_pass_for_a_serial_number),
        TEST(what_is_missing_is_said_with_what_to_do),
        TEST(others_in_the_group_do_no_harm_where_the_kernel_does_not_use_them),
        TEST(without_an_iommu_uio_takes_it),
        TEST(an_iommu_that_lets_all_through_is_none),
        TEST(another_driver_is_none),
        TEST(a_bound_device_stays_so),
        TEST(a_bound_device_that_a_process_has_is_refused_by_its_name),
        TEST(a_bound_device_is_known_by_what_it_was),
        TEST(what_is_plugged_into_its_place_is_another_device),
        TEST(the_kernel_gets_it_back_and_is_waited_for),
        TEST(a_dry_run_gives_nothing_back),
        TEST(a_kernel_that_does_not_take_it_is_noticed),
        TEST(a_controller_that_does_not_come_up_is_said),
        TEST(without_a_module_nothing_is_given_back),
        TEST(what_the_kernel_has_is_not_given_back),
        TEST(names_are_addresses_and_serial_numbers),
        TEST(names_of_nobody_are_refused),
        TEST(a_serial_number_of_two_is_refused),
        TEST(a_device_that_is_named_twice_is_one),
        TEST(the_list_has_nvme_functions_and_what_is_known_of_them),
        TEST(what_nobody_can_tell_is_left_open),
        TEST(names_of_namespaces_are_told_from_others),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
