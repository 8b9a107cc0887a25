/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Remote disks and tools when memory runs out at any point, here or in the target: an error with a sentence, or success
 * in spite of it, and nothing left over on either side. And when they try again.
 *
 * Both sides are in one thread, so that the n-th allocation is the same one each time: whoever runs the host's reactor
 * (plx_reactor_run() is wrapped) runs the target's, too. Time passes while neither has anything to do (clock_gettime()
 * is wrapped), so that a connection that is lost is made again at once.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "bdev/driver.h"
#include "nvmf/nvmf.h"
#include "reactor/reactor.h"

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <pollux/nvme.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "failalloc.h"

#define NQN "nqn.2014-08.org.nvmexpress:unit"

enum {
    BLOCK = 512,
    LARGE = 64 << 10, /* more than goes into a capsule */
    IDLE_TURNS = 20,  /* then time is what both wait for */
    ATTEMPTS = 7,
    LIMIT_S = 300, /* for all of what is done with one allocation failing */
};

static struct far {
    struct plx_reactor *reactor;
    struct plx_bdev *disk;
    struct plx_nvmf_target *target;
    struct plx_nvmf_listener *listener;
    bool done;
} far;

/* ---- time, and turns ---- */

static uint64_t now_ns = PLX_NS_PER_S, limit_ns;
static unsigned idle;

int __wrap_clock_gettime(clockid_t id, struct timespec *t);
void __wrap_plx_reactor_run(struct plx_reactor *r);

int __wrap_clock_gettime(clockid_t id, struct timespec *t)
{
    (void)id;
    *t = (struct timespec){(time_t)(now_ns / PLX_NS_PER_S), (long)(now_ns % PLX_NS_PER_S)};
    return 0;
}

/* A round of the target's reactor, and of another one. */
static void turn(struct plx_reactor *r)
{
    const struct timespec moment = {.tv_nsec = 50000};
    int work = plx_reactor_poll(far.reactor) + (r ? plx_reactor_poll(r) : 0);
    idle = work ? 0 : idle + 1;
    now_ns += PLX_NS_PER_US * 100; /* listeners are looked at every millisecond */
    if (idle < IDLE_TURNS)
        return;
    nanosleep(&moment, NULL); /* the kernel may still have something under way */
    now_ns += PLX_NS_PER_MS * 5;
    if (now_ns > limit_ns)
        fail_msg("it hangs");
}

void __wrap_plx_reactor_run(struct plx_reactor *r)
{
    while (!r->stop)
        turn(r);
    r->stop = false;
}

static bool is_deserted(const struct plx_nvmf_target *t)
{
    return !t->connections && plx_list_empty(&t->ctrlrs);
}

static int lowest_free_descriptor(void)
{
    int fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0);
    close(fd);
    return fd;
}

/* Does something from beginning to end. @return whether it ended well, with no trace of it left in the target */
static bool whole(bool (*what)(const char *where), const char *where)
{
    int before = lowest_free_descriptor();
    limit_ns = now_ns + LIMIT_S * PLX_NS_PER_S;
    bool well = what(where);
    while (!is_deserted(far.target))
        turn(NULL);
    turn(NULL);
    return well && lowest_free_descriptor() == before;
}

/* ---- connections ---- */

static struct {
    bool refused;
    uint64_t at[ATTEMPTS]; /* when somebody tried since then */
    unsigned n;
    int made[8]; /* those of before */
    unsigned nmade;
} attempts;

int __real_connect(int fd, const struct sockaddr *addr, socklen_t len);
int __wrap_connect(int fd, const struct sockaddr *addr, socklen_t len);

int __wrap_connect(int fd, const struct sockaddr *addr, socklen_t len)
{
    if (!attempts.refused) {
        attempts.made[attempts.nmade++ % PLX_ARRAY_SIZE(attempts.made)] = fd;
        return __real_connect(fd, addr, len);
    }
    if (attempts.n < ATTEMPTS)
        attempts.at[attempts.n++] = now_ns;
    errno = ECONNREFUSED;
    return -1;
}

/* ---- disks ---- */

static void request_done(struct plx_bdev_req *req)
{
    (void)req;
    far.done = true;
}

static uint16_t io(struct plx_bdev_channel *ch, enum plx_bdev_op op, uint8_t *data, uint32_t len)
{
    static struct plx_bdev_req memory;
    struct plx_bdev_req *req = &memory;
    struct iovec iov = {data, len};
    *req = (struct plx_bdev_req){
        .done = request_done, .iov = &iov, .iovcnt = 1, .op = (uint8_t)op, .lba = 8, .nlb = len / BLOCK};
    far.done = false;
    plx_bdev_submit(ch, req);
    while (!far.done)
        turn(ch->reactor);
    return req->status;
}

static bool use_channel(struct plx_bdev *bdev, struct plx_reactor *r)
{
    static uint8_t data[LARGE], read[LARGE];
    struct plx_bdev_channel *ch;
    int ret = plx_bdev_channel_get(bdev, r, &ch);
    if (ret)
        return ret == -ENOMEM;
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(data[i] * 5 + i + 1);
    uint16_t first = io(ch, PLX_BDEV_READ, read, BLOCK);
    uint16_t written = io(ch, PLX_BDEV_WRITE, data, sizeof data);
    uint16_t last = io(ch, PLX_BDEV_READ, read, sizeof read);
    plx_bdev_channel_put(ch);
    bool all = !first && !written && !last;
    return all ? memcmp(data, read, sizeof data) == 0 : failalloc_failed();
}

static bool use_disk(const char *url)
{
    struct plx_reactor *r;
    struct plx_bdev *bdev;
    struct plx_error err = {""};
    int ret = plx_reactor_create(&r, NULL);
    if (ret)
        return ret == -ENOMEM;
    ret = plx_bdev_open(url, &bdev, &err);
    bool well = ret ? failalloc_failed() && err.text[0] : use_channel(bdev, r);
    if (!ret)
        plx_bdev_close(bdev);
    plx_reactor_destroy(r);
    return well;
}

static bool disk(void *url)
{
    return whole(use_disk, url);
}

/* ---- tools ---- */

static bool use_discovery(const char *where)
{
    struct plx_nvme *n;
    struct plx_nvme_discovery *d;
    struct plx_error err = {""};
    if (plx_nvme_connect_discovery(where, NULL, true, &n, &err))
        return failalloc_failed() && err.text[0];
    int ret = plx_nvme_get_discovery(n, &d, &err);
    bool well = ret ? failalloc_failed() && err.text[0] : d->count == 2;
    if (!ret)
        plx_nvme_discovery_free(d);
    plx_nvme_disconnect(n);
    return well;
}

static bool discovery(void *where)
{
    return whole(use_discovery, where);
}

/* ---- tests ---- */

static void started(void *arg, int ret)
{
    (void)arg;
    far.done = ret == 0;
}

static int far_start(void **state)
{
    const struct plx_nvmf_subsystem_opts opts = {.nqn = NQN, .allow_any_host = true};
    const struct plx_nvmf_opts limits = {.max_io_size = LARGE / 2, .queue_depth = 16};
    struct plx_nvmf_subsystem *s;
    (void)state;
    limit_ns = now_ns + LIMIT_S * PLX_NS_PER_S;
    assert_int_equal(plx_reactor_create(&far.reactor, NULL), 0);
    assert_int_equal(plx_bdev_open("ram:1M", &far.disk, NULL), 0);
    assert_int_equal(plx_nvmf_target_create(&far.target, &far.reactor, 1, &limits, NULL), 0);
    assert_int_equal(plx_nvmf_subsystem_create(far.target, &opts, &s, NULL), 0);
    assert_int_equal(plx_nvmf_subsystem_add_ns(s, far.disk, NULL, NULL), 1);
    assert_int_equal(plx_nvmf_listen(far.target, "127.0.0.1", 0, &far.listener, NULL), 0);
    plx_nvmf_target_start(far.target, started, NULL);
    while (!far.done)
        turn(NULL);
    return 0;
}

static int far_stop(void **state)
{
    (void)state;
    far.done = false;
    limit_ns = now_ns + LIMIT_S * PLX_NS_PER_S;
    plx_nvmf_target_stop(far.target, 100, started, NULL);
    while (!far.done)
        turn(NULL);
    plx_nvmf_target_destroy(far.target);
    plx_reactor_destroy(far.reactor);
    plx_bdev_close(far.disk);
    return 0;
}

/* The first time brings what the target keeps, and what OpenSSL allocates once and for all. */
static void every_failed_allocation(bool (*what)(void *arg), const char *format)
{
    char where[128];
    snprintf(where, sizeof where, format, plx_nvmf_listener_port(far.listener));
    failalloc_at(0);
    assert_true(what(where));
    assert_true(failalloc_each(what, where) > 20);
}

static void disks_survive_every_failed_allocation(void **state)
{
    (void)state;
    every_failed_allocation(disk, "nvme+tcp://127.0.0.1:%u/" NQN);
}

static void disks_with_queues_and_digests_do(void **state)
{
    (void)state;
    every_failed_allocation(disk, "nvme+tcp://127.0.0.1:%u/" NQN "?queues=3&depth=2&hdgst=1&ddgst=1");
}

static void discovery_does(void **state)
{
    (void)state;
    every_failed_allocation(discovery, "127.0.0.1:%u");
}

/* It doubles, from a second to half a minute. */
static void the_time_between_attempts_to_connect_grows(void **state)
{
    char where[128];
    struct plx_reactor *r;
    struct plx_bdev *bdev;
    struct plx_bdev_channel *ch;
    (void)state;
    failalloc_at(0);
    limit_ns = now_ns + LIMIT_S * PLX_NS_PER_S;
    snprintf(where, sizeof where, "nvme+tcp://127.0.0.1:%u/" NQN, plx_nvmf_listener_port(far.listener));
    assert_int_equal(plx_reactor_create(&r, NULL), 0);
    assert_int_equal(plx_bdev_open(where, &bdev, NULL), 0);
    attempts.nmade = 0;
    assert_int_equal(plx_bdev_channel_get(bdev, r, &ch), 0);
    uint8_t block[BLOCK];
    assert_int_equal(io(ch, PLX_BDEV_READ, block, BLOCK), 0); /* it is connected */
    attempts.refused = true;
    uint64_t before = now_ns;
    for (unsigned i = 0; i < attempts.nmade; i++)
        shutdown(attempts.made[i], SHUT_RDWR);
    while (attempts.n < ATTEMPTS)
        turn(r);
    static const uint64_t seconds[ATTEMPTS] = {1, 2, 4, 8, 16, 30, 30};
    for (int i = 0; i < ATTEMPTS; before = attempts.at[i++])
        assert_in_range((attempts.at[i] - before) / PLX_NS_PER_MS, seconds[i] * 1000, seconds[i] * 1000 + 50);
    plx_bdev_channel_put(ch);
    plx_bdev_close(bdev);
    plx_reactor_destroy(r);
    attempts.refused = false;
    while (!is_deserted(far.target))
        turn(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(disks_survive_every_failed_allocation),
        cmocka_unit_test(disks_with_queues_and_digests_do),
        cmocka_unit_test(discovery_does),
        cmocka_unit_test(the_time_between_attempts_to_connect_grows),
    };
    return cmocka_run_group_tests_name("nvme_failalloc", tests, far_start, far_stop);
}
