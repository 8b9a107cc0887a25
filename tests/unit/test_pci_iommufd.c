/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Functions by their own character devices and iommufd: against a kernel that is made up here, as Debian's have
 * neither. What is asked of it, in which order, and what comes of each refusal.
 */
#include "pci/iommufd.h"
#include "pci/pci.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { ALLOC = 0x81, RANGES = 0x84, MAP = 0x85, UNMAP = 0x86, BIND = 118, ATTACH = 119, IOAS = 7, CALLS = 32 };

static struct {
    bool iommu, device, listed; /* there are such nodes; sysfs tells */
    int iommu_fd, device_fd[2];
    unsigned ndevices, open;
    unsigned calls[CALLS], ncalls;
    unsigned refused;
    int error; /* of it */
    struct {
        uint64_t at, bytes, iova;
        uint32_t flags;
    } map;
} k;

static void kernel_reset(void)
{
    memset(&k, 0, sizeof k);
    k.iommu = k.device = k.listed = true;
    k.iommu_fd = k.device_fd[0] = k.device_fd[1] = -1;
}

int __wrap_open64(const char *path, int flags, ...);
int __wrap_close(int fd);
int __real_close(int fd);
int __wrap_ioctl(int fd, unsigned long what, void *arg);
int __wrap_pci_names(const char *root, struct pci_names *out, const char *fmt, ...);

int __wrap_open64(const char *path, int flags, ...)
{
    const bool device = strcmp(path, "/dev/vfio/devices/vfio3") == 0;
    assert_true(device || strcmp(path, "/dev/iommu") == 0);
    assert_int_equal(flags, O_RDWR | O_CLOEXEC);
    if (!(device ? k.device : k.iommu)) {
        errno = ENOENT;
        return -1;
    }
    k.open++;
    int fd = eventfd(0, EFD_CLOEXEC);
    if (device)
        k.device_fd[k.ndevices++] = fd;
    else
        k.iommu_fd = fd;
    return fd;
}

int __wrap_close(int fd)
{
    k.open--;
    return __real_close(fd);
}

int __wrap_pci_names(const char *root, struct pci_names *out, const char *fmt, ...)
{
    assert_string_equal(root, "");
    assert_non_null(strstr(fmt, "vfio-dev"));
    *out = (struct pci_names){0};
    if (!k.listed)
        return -ENOENT;
    out->n = 1;
    out->v = malloc(sizeof *out->v);
    out->v[0] = calloc(1, sizeof *out->v[0]);
    memcpy(out->v[0]->d_name, "vfio3", 6);
    return 0;
}

static void tell_ranges(uint32_t *words)
{
    static const uint64_t ranges[][2] = {{0, 0xfedfffff}, {0xfef00000, UINT64_MAX}, {UINT64_C(1) << 50, UINT64_MAX}};
    uint64_t at;
    assert_true(words[2] >= 3);
    memcpy(&at, words + 4, sizeof at);
    memcpy((void *)(uintptr_t)at, ranges, sizeof ranges);
    words[2] = 3;
    words[6] = 4096;
}

int __wrap_ioctl(int fd, unsigned long what, void *arg)
{
    const unsigned number = _IOC_NR(what);
    uint32_t *words = arg;
    const bool of_device = number == BIND || number == ATTACH;
    assert_int_equal(_IOC_TYPE(what), ';');
    assert_int_equal(fd, of_device ? k.device_fd[k.ndevices - 1] : k.iommu_fd);
    assert_true(k.ncalls < CALLS);
    k.calls[k.ncalls++] = number;
    if (number == k.refused) {
        errno = k.error;
        return -1;
    }
    switch (number) {
    case ALLOC:
        assert_int_equal(words[0], 12);
        words[2] = IOAS;
        return 0;
    case BIND:
        assert_int_equal(words[0], 16);
        assert_int_equal(words[2], k.iommu_fd);
        return 0;
    case ATTACH:
        assert_int_equal(words[0], 12);
        assert_int_equal(words[2], IOAS);
        return 0;
    case RANGES:
        assert_int_equal(words[0], 32);
        assert_int_equal(words[1], IOAS);
        tell_ranges(words);
        return 0;
    case MAP:
        assert_int_equal(words[0], 40);
        assert_int_equal(words[2], IOAS);
        k.map.flags = words[1];
        memcpy(&k.map.at, words + 4, 24);
        return 0;
    case UNMAP:
        assert_int_equal(words[0], 24);
        assert_int_equal(words[1], IOAS);
        memcpy(&k.map.iova, words + 2, 8);
        memcpy(&k.map.bytes, words + 4, 8);
        return 0;
    default:
        fail_msg("ioctl %u", number);
        return -1;
    }
}

static void called(const unsigned *numbers, unsigned n)
{
    assert_int_equal(k.ncalls, n);
    assert_memory_equal(k.calls, numbers, n * sizeof *numbers);
    k.ncalls = 0;
}

static void a_function_is_attached_in_the_one_order_there_is(void **state)
{
    static const unsigned first[] = {ALLOC, BIND, ATTACH, RANGES}, second[] = {BIND, ATTACH};
    struct pci_iommufd *u[2];
    struct pci_iommu *iommu[2];
    struct plx_error err;
    int fd[2];
    (void)state;
    kernel_reset();
    assert_int_equal(pci_iommufd_get("0000:01:00.0", &fd[0], &u[0], &iommu[0], &err), 0);
    called(first, 4);
    assert_int_equal(iommu[0]->nranges, 2);
    assert_int_equal(iommu[0]->ranges[0].last, 0xfedfffff);
    assert_int_equal(iommu[0]->ranges[1].first, 0xfef00000);
    assert_int_equal(iommu[0]->ranges[1].last, (UINT64_C(1) << 48) - 1);
    assert_int_equal(iommu[0]->page, sysconf(_SC_PAGESIZE));
    assert_int_equal(pci_iommufd_get("0000:02:00.0", &fd[1], &u[1], &iommu[1], &err), 0);
    called(second, 2);
    assert_ptr_equal(iommu[0], iommu[1]); /* what is mapped is so for both */
    assert_int_equal(k.open, 3);
    close(fd[0]);
    pci_iommufd_put(u[0]);
    close(fd[1]);
    pci_iommufd_put(u[1]);
    assert_int_equal(k.open, 0);
}

static void memory_is_mapped_where_it_is_to_be(void **state)
{
    struct pci_iommufd *u;
    struct pci_iommu *m;
    struct plx_error err;
    static uint8_t memory[8192];
    int fd;
    (void)state;
    kernel_reset();
    assert_int_equal(pci_iommufd_get("0000:01:00.0", &fd, &u, &m, &err), 0);
    m->ops->hold(m);
    assert_int_equal(m->ops->map(m, memory, sizeof memory, 0x12345000), 0);
    assert_int_equal(k.map.at, (uintptr_t)memory);
    assert_int_equal(k.map.bytes, sizeof memory);
    assert_int_equal(k.map.iova, 0x12345000);
    assert_int_equal(k.map.flags, 7);
    k.refused = MAP;
    k.error = ENOMEM;
    assert_int_equal(m->ops->map(m, memory, sizeof memory, 0), -ENOMEM);
    close(fd);
    pci_iommufd_put(u);
    assert_int_equal(k.open, 1); /* for who has something mapped */
    m->ops->unmap(m, 0x12345000, 4096);
    assert_int_equal(k.map.iova, 0x12345000);
    assert_int_equal(k.map.bytes, 4096);
    m->ops->release(m);
    assert_int_equal(k.open, 0);
}

static void where_there_is_none_groups_are_tried(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        struct pci_iommufd *u = NULL;
        struct pci_iommu *m;
        struct plx_error err;
        int fd;
        kernel_reset();
        *(i == 0 ? &k.listed : i == 1 ? &k.device : &k.iommu) = false;
        assert_int_equal(pci_iommufd_get("0000:01:00.0", &fd, &u, &m, &err), 1);
        assert_int_equal(fd, -1);
        assert_int_equal(k.open, 0);
        assert_int_equal(k.ncalls, 0);
    }
}

static void what_is_refused_gets_a_sentence_and_leaves_nothing(void **state)
{
    static const struct {
        unsigned call;
        int error, ret;
        const char *word;
    } cases[] = {{ALLOC, ENOMEM, -ENOMEM, "has no address space for it: Cannot allocate memory"},
                 {BIND, EBUSY, -EBUSY, "in use by another process"},
                 {BIND, EPERM, -EPERM, "allow_unsafe_interrupts"},
                 {ATTACH, ENOSPC, -ENOSPC, "cannot have the memory that others have"},
                 {RANGES, EMSGSIZE, -ENOSPC, "by which addresses"}};
    (void)state;
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct pci_iommufd *u;
        struct pci_iommu *m;
        struct plx_error err = {""};
        int fd;
        kernel_reset();
        k.refused = cases[i].call;
        k.error = cases[i].error;
        assert_int_equal(pci_iommufd_get("0000:01:00.0", &fd, &u, &m, &err), cases[i].ret);
        if (!strstr(err.text, cases[i].word))
            assert_string_equal(err.text, cases[i].word);
        assert_int_equal(fd, -1);
        assert_int_equal(k.open, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_function_is_attached_in_the_one_order_there_is),
        cmocka_unit_test(memory_is_mapped_where_it_is_to_be),
        cmocka_unit_test(where_there_is_none_groups_are_tried),
        cmocka_unit_test(what_is_refused_gets_a_sentence_and_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
