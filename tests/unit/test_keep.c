/* SPDX-License-Identifier: BSD-3-Clause */
/* Small files that are kept whole: in which order they are written, and what is there when that fails. */
#include "reactor/keep.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[64], path[80], beside[80];
static char calls[16];
static int fail_at; /* which of those calls, from 1 */

int __real_fsync(int fd);
int __wrap_fsync(int fd);
int __real_rename(const char *from, const char *to);
int __wrap_rename(const char *from, const char *to);

static bool note_call(char what)
{
    size_t n = strlen(calls);
    calls[n] = what;
    calls[n + 1] = 0;
    errno = EIO;
    return fail_at == (int)n + 1;
}

int __wrap_fsync(int fd)
{
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    return note_call(S_ISDIR(st.st_mode) ? 'd' : 'f') ? -1 : __real_fsync(fd);
}

int __wrap_rename(const char *from, const char *to)
{
    return note_call('r') ? -1 : __real_rename(from, to);
}

static int setup(void **state)
{
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/test_keep.XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof path, "%s/kept", dir);
    snprintf(beside, sizeof beside, "%s/kept.new", dir);
    calls[0] = 0;
    fail_at = 0;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    unlink(path);
    unlink(beside);
    return rmdir(dir);
}

static const char *content(void)
{
    static char text[64];
    long n = plx_keep_read(path, text, sizeof text);
    assert_true(n >= 0);
    text[n] = 0;
    return text;
}

static void what_is_written_is_read(void **state)
{
    char small[5];
    (void)state;
    assert_int_equal(plx_keep_read(path, small, sizeof small), -ENOENT);
    assert_int_equal(plx_keep_write(path, "long text", 9), 0);
    assert_string_equal(content(), "long text");
    assert_int_equal(plx_keep_read(path, small, sizeof small), -EFBIG);
    assert_int_equal(plx_keep_write(path, "text", 4), 0);
    assert_string_equal(content(), "text");
    assert_int_equal(access(beside, F_OK), -1);
    assert_int_equal(plx_keep_read(path, small, sizeof small), 4);
}

/* The content before its name, and that before it is told: so a crash leaves the old one or the new one. */
static void it_is_on_stable_storage_in_this_order(void **state)
{
    (void)state;
    assert_int_equal(plx_keep_write(path, "text", 4), 0);
    assert_string_equal(calls, "frd");
    assert_int_equal(chdir(dir), 0);
    calls[0] = 0;
    assert_int_equal(plx_keep_write("kept", "more", 4), 0); /* in the current directory */
    assert_string_equal(calls, "frd");
    assert_string_equal(content(), "more");
}

static void what_fails_leaves_what_was_there(void **state)
{
    (void)state;
    assert_int_equal(plx_keep_write(path, "old", 3), 0);
    for (fail_at = 1; fail_at <= 2; fail_at++) {
        calls[0] = 0;
        assert_int_equal(plx_keep_write(path, "new", 3), -EIO);
        assert_string_equal(content(), "old");
        assert_int_equal(access(beside, F_OK), -1);
    }
    calls[0] = 0;
    assert_int_equal(plx_keep_write(path, "new", 3), -EIO); /* it may be there after a crash, or not */
    assert_string_equal(content(), "new");
}

static void a_path_that_cannot_be_is_refused(void **state)
{
    static char endless[8192];
    (void)state;
    assert_int_equal(plx_keep_write("/nowhere/at all/kept", "text", 4), -ENOENT);
    memset(endless, 'a', sizeof endless - 1);
    assert_int_equal(plx_keep_write(endless, "text", 4), -ENAMETOOLONG);
    assert_int_equal(mkdir(beside, 0700), 0);
    assert_int_equal(plx_keep_write(path, "text", 4), -EISDIR);
    assert_int_equal(rmdir(beside), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_is_written_is_read, setup, teardown),
        cmocka_unit_test_setup_teardown(it_is_on_stable_storage_in_this_order, setup, teardown),
        cmocka_unit_test_setup_teardown(what_fails_leaves_what_was_there, setup, teardown),
        cmocka_unit_test_setup_teardown(a_path_that_cannot_be_is_refused, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
