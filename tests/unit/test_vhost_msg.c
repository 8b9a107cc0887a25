/* SPDX-License-Identifier: BSD-3-Clause */
/* Messages of vhost-user, as they are looked at before anybody acts by them; and memory tables. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vhost/log.h"
#include "vhost/memory.h"
#include "vhost/msg.h"

static const struct vhost_terms all = {
    .protocol = UINT64_MAX, .offered = UINT64_MAX, .offered_protocol = UINT64_MAX, .rings = 4};

static enum vhost_verdict check(uint32_t request, uint32_t size, unsigned nfds, const struct vhost_terms *terms)
{
    const char *why = NULL;
    struct vhost_msg m = {.header = {request, VHOST_VERSION, size}, .nfds = nfds};
    m.body.state.num = 16;
    enum vhost_verdict verdict = vhost_msg_check(&m, terms, &why);
    assert_true(verdict == VHOST_TAKE || why != NULL);
    return verdict;
}

static void headers(void **state)
{
    static const struct {
        struct vhost_header h;
        enum vhost_verdict verdict;
    } cases[] = {
        {{1, VHOST_VERSION, 0}, VHOST_TAKE},
        {{1, VHOST_VERSION | VHOST_NEED_REPLY, sizeof(union vhost_body)}, VHOST_TAKE},
        {{1, VHOST_VERSION, sizeof(union vhost_body) + 1}, VHOST_BREAK},
        {{1, VHOST_VERSION, UINT32_MAX}, VHOST_BREAK},
        {{1, VHOST_VERSION | VHOST_REPLY, 0}, VHOST_BREAK},
        {{1, 0, 0}, VHOST_BREAK},
        {{1, 2, 0}, VHOST_BREAK},
    };
    (void)state;
    for (size_t i = 0; i < PLX_ARRAY_SIZE(cases); i++)
        assert_int_equal(vhost_msg_header(&cases[i].h), cases[i].verdict);
}

/* Every message with every size and number of descriptors: what is taken has all that its handler looks at. */
static void sizes_and_descriptors(void **state)
{
    (void)state;
    for (uint32_t request = 0; request < VHOST_REQUESTS + 8; request++) {
        unsigned taken = 0;
        for (uint32_t size = 0; size <= sizeof(union vhost_body); size++)
            for (unsigned nfds = 0; nfds <= VHOST_MSG_FDS; nfds++)
                taken += check(request, size, nfds, &all) == VHOST_TAKE;
        assert_true(taken <= 4 || request == VHOST_SET_MEM_TABLE);
    }
    assert_int_equal(check(VHOST_GET_FEATURES, 0, 0, &all), VHOST_TAKE);
    assert_int_equal(check(VHOST_GET_FEATURES, 0, 1, &all), VHOST_BREAK);
    assert_int_equal(check(VHOST_SET_VRING_NUM, 8, 0, &all), VHOST_TAKE);
    assert_int_equal(check(VHOST_SET_VRING_NUM, 4, 0, &all), VHOST_BREAK);
    assert_int_equal(check(999, 0, 0, &all), VHOST_REFUSE);
    assert_int_equal(check(0, 0, 0, &all), VHOST_REFUSE);
}

static void features_that_messages_need(void **state)
{
    struct vhost_terms none = all;
    (void)state;
    none.protocol = 0;
    assert_int_equal(check(VHOST_GET_QUEUE_NUM, 0, 0, &none), VHOST_REFUSE);
    assert_int_equal(check(VHOST_RESET_DEVICE, 0, 0, &none), VHOST_REFUSE);
    assert_int_equal(check(VHOST_SET_VRING_ENABLE, 8, 0, &none), VHOST_TAKE);
}

static void sizes_of_rings(void **state)
{
    const char *why;
    struct vhost_terms terms = all;
    (void)state;
    for (unsigned packed = 0; packed < 2; packed++)
        for (uint32_t num = 0; num < 3000; num++) {
            struct vhost_msg m = {.header = {VHOST_SET_VRING_NUM, VHOST_VERSION, 8}, .body.state = {0, num}};
            terms.packed = packed;
            bool good = num && num <= 1024 && (packed || !(num & (num - 1)));
            assert_int_equal(vhost_msg_check(&m, &terms, &why), good ? VHOST_TAKE : VHOST_REFUSE);
        }
}

/* ---- memory ---- */

static atomic_bool fault;

static struct vhost_table *table_of(const struct vhost_mem_region *r, unsigned n, int fd)
{
    int fds[VHOST_MEM_SLOTS];
    struct vhost_table *t;
    struct plx_error err;
    for (unsigned i = 0; i < n; i++)
        fds[i] = fd;
    assert_int_equal(vhost_table_set(&t, NULL, r, fds, n, &fault, &err), 0);
    return t;
}

static void addresses(void **state)
{
    const struct vhost_mem_region r[] = {
        {0x100000, 0x2000, 0x7000, 0x1000}, {0, 0x1000, 0x20000, 0}, {0x102000, 0x1000, 0x30000, 0x4000}};
    const int fd = memfd_create("m", 0);
    (void)state;
    assert_int_equal(ftruncate(fd, 0x8000), 0);
    struct vhost_table *t = table_of(r, 3, fd);
    struct vhost_view v = vhost_view_of(t);
    for (uint64_t guest = 0; guest < 0x104000; guest += 0x400) {
        uint64_t len = 0x800, back;
        uint8_t *at = vhost_at(&v, guest, &len);
        bool there = guest < 0x1000 || (guest >= 0x100000 && guest < 0x103000);
        assert_int_equal(at != NULL, there);
        if (!there)
            continue;
        uint64_t end = guest < 0x1000 ? 0x1000 : guest < 0x102000 ? 0x102000 : 0x103000;
        assert_int_equal(len, plx_min_u64(0x800, end - guest));
        at[len - 1] = 1; /* it is all there */
        assert_true(vhost_guest_of(t, at, &back));
        assert_int_equal(back, guest);
    }
    assert_null(vhost_user_at(t, 0x7000, 0x2001, 1));
    assert_null(vhost_user_at(t, 0x7008, 16, 16));
    assert_non_null(vhost_user_at(t, 0x7010, 0x1ff0, 16));
    assert_null(vhost_user_at(t, UINT64_MAX, 2, 1));
    vhost_table_free(t);
    close(fd);
}

static void regions_are_kept_from_table_to_table(void **state)
{
    const struct vhost_mem_region r[] = {{0, 0x1000, 0x1000, 0}, {0x1000, 0x1000, 0x5000, 0x1000}};
    const int fd = memfd_create("m", 0), fds[] = {fd, fd};
    struct vhost_table *one, *two, *three;
    struct plx_error err;
    (void)state;
    assert_int_equal(ftruncate(fd, 0x2000), 0);
    one = table_of(r, 1, fd);
    assert_int_equal(vhost_table_set(&two, one, r, fds, 2, &fault, &err), 0);
    assert_ptr_equal(one->spans[0].at, two->spans[0].at);
    vhost_table_free(one);
    two->spans[0].at[0] = 1;
    assert_int_equal(vhost_table_remove(&three, two, &r[0], &err), 0);
    assert_int_equal(three->n, 1);
    assert_int_equal(vhost_table_remove(&one, three, &r[0], &err), -ENOENT);
    vhost_table_free(two);
    three->spans[0].at[0] = 1;
    vhost_table_free(three);
    close(fd);
}

static void pages_are_marked(void **state)
{
    uint8_t bits[16] = {0};
    struct vhost_log log = {.map.at = bits, .bytes = sizeof bits - 1};
    (void)state;
    vhost_log_guest(&log, 0, 0);
    assert_int_equal(bits[0], 0);
    vhost_log_guest(&log, 4095, 2);
    assert_int_equal(bits[0], 3);
    vhost_log_guest(&log, 9 << 12, 4096);
    assert_int_equal(bits[1], 2);
    vhost_log_guest(&log, 118 << 12, UINT64_C(1) << 40); /* up to its end */
    assert_int_equal(bits[14], 0xc0);
    vhost_log_guest(&log, UINT64_MAX - 1, 100);
    assert_int_equal(bits[15], 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(headers),
        cmocka_unit_test(sizes_and_descriptors),
        cmocka_unit_test(features_that_messages_need),
        cmocka_unit_test(sizes_of_rings),
        cmocka_unit_test(addresses),
        cmocka_unit_test(regions_are_kept_from_table_to_table),
        cmocka_unit_test(pages_are_marked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
