/* SPDX-License-Identifier: BSD-3-Clause */
/* Local listening sockets: one process at a time has a path, also over those that die. */
#include "net/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[64], path[96], lock[112];
static int removals; /* so often the lock's file is removed just before somebody has the lock */

int __real_flock(int fd, int operation);
int __wrap_flock(int fd, int operation);

int __wrap_flock(int fd, int operation)
{
    if (removals && removals--)
        unlink(lock);
    return __real_flock(fd, operation);
}

static int setup(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/pollux-listener-XXXXXX");
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/socket", folder);
    snprintf(lock, sizeof lock, "%s.lock", path);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    unlink(path);
    unlink(lock);
    return rmdir(folder); /* nothing else is left */
}

static bool is_there(const char *name)
{
    struct stat st;
    return lstat(name, &st) == 0;
}

static int connect_there(void)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    memcpy(at.sun_path, path, strlen(path));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int ret = connect(fd, (const struct sockaddr *)&at, sizeof at) < 0 ? -errno : 0;
    close(fd);
    return ret;
}

static void nobody_comes(struct plx_listener *l, int fd)
{
    (void)l;
    close(fd);
}

static void refused(const char *where, int want, const char *word)
{
    struct plx_listener l;
    struct plx_error err = {""};
    int ret = plx_listener_bind_path(&l, where, NULL, &err);
    if (ret != want || !strstr(err.text, word))
        fail_msg("%s: %d for '%s', not %d with '%s'", where, ret, err.text, want, word);
    assert_int_equal(l.watch.fd, -1);
    assert_int_equal(l.lock_fd, -1);
    plx_listener_close(&l); /* harmless */
}

static void it_is_its_owners_and_goes_with_the_listener(void **state)
{
    struct plx_listener l;
    struct plx_error err;
    struct plx_reactor *r;
    struct stat st;
    (void)state;
    const mode_t before = umask(0);
    assert_int_equal(plx_reactor_create(&r, &(struct plx_reactor_opts){.core = -1}), 0);
    assert_int_equal(plx_listener_bind_path(&l, path, NULL, &err), 0);
    umask(before);
    assert_true(stat(path, &st) == 0 && S_ISSOCK(st.st_mode) && (st.st_mode & 07777) == 0600);
    assert_true(stat(lock, &st) == 0 && S_ISREG(st.st_mode) && (st.st_mode & 07777) == 0600);
    assert_int_equal(connect_there(), -ECONNREFUSED); /* not yet */
    l.accepted = nobody_comes;
    assert_int_equal(plx_listener_accept(&l, r), 0);
    assert_int_equal(connect_there(), 0);
    plx_listener_close(&l);
    assert_false(is_there(path) || is_there(lock));
    plx_listener_close(&l);
    plx_reactor_destroy(r);
}

/* Its group only: the lock stays the owner's, and so does the next one without a group. */
static void it_is_given_to_a_group(void **state)
{
    struct plx_listener l;
    struct plx_error err;
    struct stat st;
    const gid_t group = geteuid() ? getegid() : 4711;
    (void)state;
    const mode_t before = umask(077);
    assert_int_equal(plx_listener_bind_path(&l, path, &group, &err), 0);
    umask(before);
    assert_true(stat(path, &st) == 0 && S_ISSOCK(st.st_mode) && (st.st_mode & 07777) == 0660);
    assert_true(st.st_gid == group && st.st_uid == geteuid());
    assert_true(stat(lock, &st) == 0 && (st.st_mode & 07777) == 0600);
    plx_listener_close(&l);
    assert_false(is_there(path) || is_there(lock));
    assert_int_equal(plx_listener_bind_path(&l, path, NULL, &err), 0);
    assert_true(stat(path, &st) == 0 && (st.st_mode & 07777) == 0600);
    plx_listener_close(&l);
}

/* By somebody without privileges. @return 0 when it was refused as it should be */
static int try_a_group_of_others(void)
{
    struct plx_listener l;
    struct plx_error err = {""};
    const gid_t group = 4711;
    if (!geteuid() && (setgroups(0, NULL) || setgid(4712) || setuid(4712)))
        return 1;
    const int ret = plx_listener_bind_path(&l, path, &group, &err);
    if (ret != -EPERM || !strstr(err.text, path) || !strstr(err.text, "4711"))
        return 2;
    return is_there(path) || is_there(lock) ? 3 : l.watch.fd != -1;
}

static void a_group_of_others_is_refused(void **state)
{
    int status;
    (void)state;
    assert_int_equal(chmod(folder, 0777), 0);
    pid_t child = fork();
    if (child == 0)
        _exit(try_a_group_of_others());
    assert_true(waitpid(child, &status, 0) == child);
    assert_int_equal(status, 0);
}

static void a_second_one_is_refused_and_disturbs_nothing(void **state)
{
    struct plx_listener l;
    struct plx_error err;
    (void)state;
    assert_int_equal(plx_listener_bind_path(&l, path, NULL, &err), 0);
    refused(path, -EBUSY, "another process");
    assert_true(is_there(path) && is_there(lock));
    plx_listener_close(&l);
    assert_int_equal(plx_listener_bind_path(&l, path, NULL, &err), 0);
    plx_listener_close(&l);
}

/* As a process that was killed leaves it. */
static void what_is_stale_is_replaced(void **state)
{
    struct plx_listener l;
    struct plx_error err;
    (void)state;
    pid_t child = fork();
    if (child == 0)
        _exit(plx_listener_bind_path(&l, path, NULL, &err) != 0); /* nothing is closed, or removed */
    int status;
    assert_true(waitpid(child, &status, 0) == child && status == 0);
    assert_true(is_there(path) && is_there(lock));
    assert_int_equal(plx_listener_bind_path(&l, path, NULL, &err), 0);
    plx_listener_close(&l);
    assert_false(is_there(path) || is_there(lock));
}

static void what_is_no_socket_is_let_be(void **state)
{
    (void)state;
    int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    assert_true(fd >= 0 && write(fd, "x", 1) == 1);
    close(fd);
    refused(path, -EEXIST, "no socket");
    struct stat st;
    assert_true(stat(path, &st) == 0 && st.st_size == 1);
    assert_false(is_there(lock));
    unlink(path);
    assert_int_equal(symlink("/nowhere", path), 0); /* not followed, as nobody knows where it leads */
    refused(path, -EEXIST, "no socket");
    assert_true(is_there(path));
}

/* By one that ends in that moment: what was locked then is nobody's, and another process would not see it. */
static void a_lock_that_was_removed_meanwhile_is_none(void **state)
{
    struct plx_listener l, second;
    struct plx_error err;
    (void)state;
    removals = 3;
    assert_int_equal(plx_listener_bind_path(&l, path, NULL, &err), 0);
    assert_int_equal(removals, 0);
    assert_true(is_there(lock));
    assert_int_equal(plx_listener_bind_path(&second, path, NULL, &err), -EBUSY);
    plx_listener_close(&l);
}

static void links_in_the_place_of_the_lock_are_not_followed(void **state)
{
    char target[112];
    (void)state;
    snprintf(target, sizeof target, "%s/other", folder);
    assert_int_equal(symlink(target, lock), 0);
    refused(path, -ELOOP, ".lock");
    assert_false(is_there(target) || is_there(path));
}

static void paths_that_cannot_be_are_refused(void **state)
{
    char text[sizeof((struct sockaddr_un *)NULL)->sun_path + 1];
    (void)state;
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = 0;
    refused(text, -ENAMETOOLONG, "107");
    refused("", -ENAMETOOLONG, "107");
    refused("/nowhere/at/all", -ENOENT, "No such file");
    struct plx_listener l;
    struct plx_error err;
    size_t n = (size_t)snprintf(text, sizeof text, "%s/", folder);
    memset(text + n, 'x', sizeof text - n);
    text[sizeof text - 2] = 0; /* 107 bytes: the longest */
    assert_int_equal(plx_listener_bind_path(&l, text, NULL, &err), 0);
    plx_listener_close(&l);
}

enum { RACERS = 8, RACES = 40 };

static atomic_int inside;

/*
 * Whoever has the path is alone with it, and everybody gets it in the end. flock() is of descriptors, so threads race
 * as processes do.
 */
static void *race(void *arg)
{
    (void)arg;
    for (int i = 0; i < RACES;) {
        struct plx_listener l;
        struct plx_error err;
        int ret = plx_listener_bind_path(&l, path, NULL, &err);
        if (ret == -EBUSY)
            continue;
        assert_int_equal(ret, 0);
        assert_int_equal(atomic_fetch_add(&inside, 1), 0);
        assert_true(is_there(path) && is_there(lock));
        i++;
        atomic_fetch_sub(&inside, 1);
        plx_listener_close(&l);
    }
    return NULL;
}

static void of_many_that_come_and_go_one_has_it(void **state)
{
    pthread_t threads[RACERS];
    (void)state;
    for (int i = 0; i < RACERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, race, NULL), 0);
    for (int i = 0; i < RACERS; i++)
        pthread_join(threads[i], NULL);
    assert_false(is_there(path) || is_there(lock));
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(it_is_its_owners_and_goes_with_the_listener),
        TEST(it_is_given_to_a_group),
        TEST(a_group_of_others_is_refused),
        TEST(a_second_one_is_refused_and_disturbs_nothing),
        TEST(what_is_stale_is_replaced),
        TEST(what_is_no_socket_is_let_be),
        TEST(a_lock_that_was_removed_meanwhile_is_none),
        TEST(links_in_the_place_of_the_lock_are_not_followed),
        TEST(paths_that_cannot_be_are_refused),
        TEST(of_many_that_come_and_go_one_has_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
