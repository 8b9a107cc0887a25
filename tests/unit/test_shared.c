/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Memory that other processes can be given: what is in it is in its file, nobody can take that away, and who knows it
 * by its addresses is told when these are somebody else's.
 */
#include "reactor/shared.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MIB = 1 << 20 };

/* The region that begins at an address, with its descriptor; an id of 0 when there is none. */
static struct plx_shared_region region_at(const void *base)
{
    struct plx_shared_region list[8], found = {.fd = -1};
    uint64_t freed;
    unsigned n = plx_shared_list(list, 8, &freed);
    assert_int_equal(freed, atomic_load(&plx_shared_freed));
    for (unsigned i = 0; i < n; i++) {
        if (list[i].base == base)
            found = list[i];
        else
            close(list[i].fd);
    }
    return found;
}

static void test_what_is_written_there_is_in_its_file(void **state)
{
    char *mem = plx_shared_alloc(3 * MIB + 1);
    (void)state;
    assert_non_null(mem);
    struct plx_shared_region r = region_at(mem);
    assert_true(r.bytes > 3 * MIB && r.bytes < 4 * MIB);
    memcpy(mem + 3 * MIB - 8, "hello", 6);
    char *other = mmap(NULL, r.bytes, PROT_READ, MAP_SHARED, r.fd, 0);
    assert_ptr_not_equal(other, MAP_FAILED);
    assert_string_equal(other + 3 * MIB - 8, "hello");
    munmap(other, r.bytes);
    close(r.fd);
    plx_shared_free(mem);
}

static void test_nobody_can_take_it_away(void **state)
{
    void *mem = plx_shared_alloc(MIB);
    (void)state;
    struct plx_shared_region r = region_at(mem);
    assert_int_equal(ftruncate(r.fd, 4096), -1);
    assert_int_equal(ftruncate(r.fd, 2 * MIB), -1);
    close(r.fd);
    plx_shared_free(mem);
}

static void test_what_is_gone_is_counted_and_not_listed(void **state)
{
    void *mem = plx_shared_alloc(MIB);
    (void)state;
    struct plx_shared_region first = region_at(mem);
    uint64_t freed = atomic_load(&plx_shared_freed);
    assert_int_equal(first.id, atomic_load(&plx_shared_made));
    plx_shared_free(mem);
    assert_int_equal(atomic_load(&plx_shared_freed), freed + 1);
    assert_int_equal(region_at(mem).id, 0);
    void *again = plx_shared_alloc(MIB);
    struct plx_shared_region second = region_at(again);
    assert_int_not_equal(first.id, second.id); /* at the same address, as likely as not */
    close(first.fd);
    close(second.fd);
    plx_shared_free(again);
    plx_shared_free(NULL);
}

static void test_a_reactor_s_buffers_are_shared_where_that_is_wanted(void **state)
{
    const struct plx_reactor_opts opts = {.core = -1, .shared = true};
    struct plx_shared_region list[8];
    struct plx_reactor *r;
    uint64_t freed;
    (void)state;
    assert_int_equal(plx_reactor_create(&r, &opts), 0);
    assert_int_equal(plx_shared_list(list, 8, &freed), 1);
    uint8_t *buffer = plx_buf_get(r, MIB);
    assert_true(buffer >= list[0].base && buffer + MIB <= list[0].base + list[0].bytes);
    assert_int_equal((uintptr_t)buffer % PLX_BUF_MIN, 0);
    assert_int_equal(list[0].bytes, plx_buf_total_bytes(r));
    plx_buf_put(r, buffer, MIB);
    plx_reactor_destroy(r);
    close(list[0].fd);
    assert_int_equal(plx_shared_list(list, 8, &freed), 0);
}

static void test_more_than_there_is_room_for_are_left_out(void **state)
{
    struct plx_shared_region list[2];
    uint64_t freed;
    void *mem[3];
    (void)state;
    for (unsigned i = 0; i < 3; i++)
        mem[i] = plx_shared_alloc(4096);
    assert_int_equal(plx_shared_list(list, 2, &freed), 2);
    close(list[0].fd);
    close(list[1].fd);
    for (unsigned i = 0; i < 3; i++)
        plx_shared_free(mem[i]);
}

/* ---- the kernel cannot map it where there was room, and the room is somebody else's by then ---- */

void *__real_mmap64(void *at, size_t bytes, int prot, int flags, int fd, off_t offset);
void *__wrap_mmap64(void *at, size_t bytes, int prot, int flags, int fd, off_t offset);

static bool somebody_is_there;
static char *somebody;

void *__wrap_mmap64(void *at, size_t bytes, int prot, int flags, int fd, off_t offset)
{
    if (!somebody_is_there || !(flags & MAP_FIXED))
        return __real_mmap64(at, bytes, prot, flags, fd, offset);
    somebody_is_there = false;
    somebody = __real_mmap64(at, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    assert_ptr_equal(somebody, at);
    memcpy(somebody, "hello", 6);
    errno = ENOMEM;
    return MAP_FAILED;
}

static void test_others_are_left_alone(void **state)
{
    const size_t align = (size_t)64 * MIB;
    (void)state;
    somebody_is_there = true;
    void *mem = plx_shared_make(MIB, align); /* one that the kernel does not hit by itself */
    assert_false(somebody_is_there);
    assert_null(mem);
    assert_string_equal(somebody, "hello");
    munmap(somebody, MIB);
    mem = plx_shared_make(MIB, align);
    assert_non_null(mem);
    assert_int_equal((uintptr_t)mem % align, 0);
    memset(mem, 1, MIB);
    plx_shared_free(mem);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_written_there_is_in_its_file),
        cmocka_unit_test(test_nobody_can_take_it_away),
        cmocka_unit_test(test_what_is_gone_is_counted_and_not_listed),
        cmocka_unit_test(test_a_reactor_s_buffers_are_shared_where_that_is_wanted),
        cmocka_unit_test(test_more_than_there_is_room_for_are_left_out),
        cmocka_unit_test(test_others_are_left_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
