/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Asynchronous file I/O: what the reactor reads by itself, and when the kernel gets the rest. What is read and written
 * is in test_bdev_file.c.
 *
 * The calls that tell are linked to wrappers, which count them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <time.h>
#include <unistd.h>

#include "base/util.h"
#include "reactor/aio.h"

enum { KIB = 1024, READ = 4 * KIB, MANY = 100 };

/* ---- the wrapped calls ---- */

static pthread_t tester;
static unsigned own_calls, looks;
static unsigned long swapped;

ssize_t __real_preadv64(int fd, const struct iovec *iov, int n, off_t at);
ssize_t __wrap_preadv64(int fd, const struct iovec *iov, int n, off_t at);
ssize_t __wrap_preadv64(int fd, const struct iovec *iov, int n, off_t at)
{
    if (pthread_equal(pthread_self(), tester))
        own_calls++;
    return __real_preadv64(fd, iov, n, at);
}

ssize_t __real_pwritev64v2(int fd, const struct iovec *iov, int n, off_t at, int flags);
ssize_t __wrap_pwritev64v2(int fd, const struct iovec *iov, int n, off_t at, int flags);
ssize_t __wrap_pwritev64v2(int fd, const struct iovec *iov, int n, off_t at, int flags)
{
    if (pthread_equal(pthread_self(), tester))
        own_calls++;
    return __real_pwritev64v2(fd, iov, n, at, flags);
}

int __wrap_sysinfo(struct sysinfo *info);
int __wrap_sysinfo(struct sysinfo *info)
{
    looks++;
    *info = (struct sysinfo){.totalswap = 1000, .freeswap = 1000 - swapped};
    return 0;
}

static bool rings_refused;

long __real_syscall(long number, ...);
long __wrap_syscall(long number, long a, long b, long c, long d);
long __wrap_syscall(long number, long a, long b, long c, long d)
{
    if (!rings_refused || number != __NR_io_uring_register)
        return __real_syscall(number, a, b, c, d);
    errno = EPERM;
    return -1;
}

static int filled_by_yield = -1; /* a pipe, that the first sched_yield() writes to; while there is one */
static unsigned yields;

int __real_sched_yield(void);
int __wrap_sched_yield(void);
int __wrap_sched_yield(void)
{
    if (filled_by_yield < 0)
        return __real_sched_yield(); /* sanitizers yield too */
    if (yields++ == 0)
        assert_int_equal(write(filled_by_yield, "x", 1), 1);
    return 0;
}

/* ---- reads ---- */

struct io {
    struct plx_aio aio;
    struct iovec iov;
    _Atomic int done;
    uint8_t data[READ];
};

static struct plx_reactor *r;
static struct io ios[MANY];
static int file = -1;

static void count_done(struct plx_aio *aio)
{
    plx_container_of(aio, struct io, aio)->done++;
}

static struct plx_aio *init_io(struct io *io, int fd, enum plx_aio_way way, uint64_t at)
{
    io->done = 0;
    io->iov = (struct iovec){io->data, READ};
    io->aio = (struct plx_aio){.done = count_done,
                               .fd = fd,
                               .op = PLX_AIO_READ,
                               .way = way,
                               .iov = &io->iov,
                               .iovcnt = 1,
                               .offset = at,
                               .length = READ};
    return &io->aio;
}

static void read_many(int fd, enum plx_aio_way way, int n)
{
    for (int i = 0; i < n; i++)
        plx_aio_submit(r, init_io(&ios[i], fd, way, (uint64_t)i * READ));
}

static int ended(void)
{
    int n = 0;
    for (int i = 0; i < MANY; i++) {
        assert_true(ios[i].done <= 1);
        n += ios[i].done;
    }
    return n;
}

static void run_until_ended(int n)
{
    while (ended() < n) {
        if (plx_reactor_poll(r) || plx_reactor_arm(r))
            continue;
        struct pollfd p = {.fd = plx_reactor_fd(r), .events = POLLIN};
        assert_int_equal(poll(&p, 1, 30000), 1);
    }
}

static void read_one(struct io *io, uint64_t length)
{
    init_io(io, file, plx_aio_way_of(file), 0);
    io->aio.length = length;
    plx_aio_submit(r, &io->aio);
    run_until_ended(1);
    assert_int_equal(io->aio.res, READ);
}

/* A reactor with an engine, and a file in memory whose blocks tell their number. */
static void make(enum plx_poll_mode mode, bool threads)
{
    struct plx_reactor_opts opts = {.core = -1, .mode = mode};
    uint8_t block[READ];
    tester = pthread_self();
    own_calls = looks = 0;
    swapped = 0;
    for (int i = 0; i < MANY; i++)
        ios[i].done = 0;
    file = memfd_create("pollux-test", MFD_CLOEXEC);
    assert_true(file >= 0);
    for (int i = 0; i < MANY; i++) {
        memset(block, i, sizeof block);
        assert_int_equal(pwrite(file, block, sizeof block, (off_t)i * READ), READ);
    }
    assert_int_equal(plx_reactor_create(&r, &opts), 0);
    if (threads)
        plx_aio_force_threads(r);
    assert_int_equal(plx_aio_prepare(r), 0);
}

static void unmake(void)
{
    plx_reactor_destroy(r);
    close(file);
}

/* ---- memory ---- */

static void the_node_of_a_device_is_not_taken_for_memory(void **state)
{
    (void)state;
    char dir[] = "/var/tmp/pollux-aio-XXXXXX";
    make(PLX_POLL_ADAPTIVE, false);
    assert_int_equal(plx_aio_way_of(file), PLX_AIO_MEMORY);
    int device = open("/dev/full", O_RDONLY | O_CLOEXEC); /* it knows no RWF_NOWAIT, and /dev is a tmpfs */
    assert_true(device >= 0);
    assert_int_not_equal(plx_aio_way_of(device), PLX_AIO_MEMORY);
    close(device);
    assert_non_null(mkdtemp(dir));
    int directory = open(dir, O_RDONLY | O_CLOEXEC);
    assert_int_not_equal(plx_aio_way_of(directory), PLX_AIO_MEMORY);
    close(directory);
    rmdir(dir);
    unmake();
}

static void memory_is_read_by_the_reactor(void **state)
{
    make(PLX_POLL_ADAPTIVE, *(bool *)*state);
    read_many(file, PLX_AIO_MEMORY, MANY);
    assert_int_equal(ended(), 0); /* never within the submission */
    assert_int_equal(looks, 1);   /* for swapped memory */
    run_until_ended(MANY);
    assert_int_equal(own_calls, MANY);
    for (int i = 0; i < MANY; i++) {
        assert_int_equal(ios[i].aio.res, READ);
        assert_true(ios[i].data[0] == i && !memcmp(ios[i].data, ios[i].data + 1, READ - 1));
    }
    unmake();
}

static void a_round_reads_only_so_much(void **state)
{
    make(PLX_POLL_ADAPTIVE, *(bool *)*state);
    read_many(file, PLX_AIO_MEMORY, MANY);
    for (int before = 0; before < MANY; before = ended()) {
        assert_true(plx_reactor_arm(r)); /* it must not sleep on the rest */
        assert_true(plx_reactor_poll(r) > 0);
        assert_in_range(ended() - before, 1, 32);
    }
    assert_false(plx_reactor_arm(r));
    unmake();
}

static void reads_of_memory_end_once_though_cancelled(void **state)
{
    make(PLX_POLL_ADAPTIVE, *(bool *)*state);
    read_many(file, PLX_AIO_MEMORY, MANY);
    for (int i = 0; i < MANY; i++) {
        plx_aio_cancel(r, &ios[i].aio);
        if (i == MANY / 2)
            plx_reactor_poll(r);
    }
    run_until_ended(MANY);
    plx_reactor_poll(r);
    assert_false(plx_reactor_arm(r)); /* nobody waits for the end of a cancel */
    unmake();
}

static void long_reads_and_writes_are_left_to_threads(void **state)
{
    make(PLX_POLL_ADAPTIVE, *(bool *)*state);
    read_one(&ios[0], 128 * KIB);
    assert_int_equal(own_calls, 1);
    read_one(&ios[0], 128 * KIB + 512);
    assert_int_equal(own_calls, 1);
    struct plx_aio *write = init_io(&ios[0], file, PLX_AIO_MEMORY, 0);
    write->op = PLX_AIO_WRITE;
    plx_aio_submit(r, write);
    run_until_ended(1);
    assert_int_equal(write->res, READ);
    assert_int_equal(own_calls, 1);
    unmake();
}

static void swapped_memory_is_left_to_threads(void **state)
{
    make(PLX_POLL_ADAPTIVE, *(bool *)*state);
    swapped = 1;
    read_one(&ios[0], READ);
    assert_int_equal(own_calls, 0);
    swapped = 0;
    for (time_t limit = time(NULL) + 60; !own_calls && time(NULL) < limit;) /* it is not looked at for every read */
        read_one(&ios[0], READ);
    assert_int_equal(own_calls, 1);
    unmake();
}

static void an_entry_may_be_larger_than_32_bits_can_say(void **state)
{
    make(PLX_POLL_ADAPTIVE, *(bool *)*state);
    int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    void *mem = mmap(NULL, UINT64_C(1) << 32, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert_true(null >= 0 && mem != MAP_FAILED);
    struct plx_aio *write = init_io(&ios[0], null, PLX_AIO_ASYNC, 0);
    write->op = PLX_AIO_WRITE;
    ios[0].iov = (struct iovec){mem, UINT64_C(1) << 32};
    plx_aio_submit(r, write);
    run_until_ended(1);
    assert_in_range(write->res, 1 << 30, UINT32_MAX);
    assert_false(write->res % READ); /* whole blocks */
    munmap(mem, UINT64_C(1) << 32);
    close(null);
    unmake();
}

/* ---- the kernel ---- */

static void make_pipe(int fds[2])
{
    make(PLX_POLL_BUSY, false);
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    yields = 0;
    filled_by_yield = fds[1];
}

static void unmake_pipe(int fds[2])
{
    filled_by_yield = -1;
    close(fds[0]);
    close(fds[1]);
    unmake();
}

static void a_burst_is_begun_while_it_is_made(void **state)
{
    (void)state;
    int fds[2];
    make_pipe(fds);
    if (strcmp(plx_aio_name(r), "io_uring"))
        skip();
    struct pollfd p = {.fd = fds[0], .events = POLLIN};
    for (int i = 0; i < 4; i++) {
        assert_int_equal(poll(&p, 1, 0), 0); /* a system call for each would cost more than it brings */
        init_io(&ios[i], fds[1], PLX_AIO_ASYNC, 0);
        ios[i].aio.op = PLX_AIO_WRITE;
        plx_aio_submit(r, &ios[i].aio);
    }
    assert_int_equal(poll(&p, 1, 0), 1);
    assert_int_equal(ended(), 0);
    run_until_ended(4);
    unmake_pipe(fds);
}

static void stop_reactor(struct plx_aio *aio)
{
    count_done(aio);
    plx_reactor_stop(r);
}

static void fill(struct plx_timer *timer)
{
    (void)timer;
    assert_int_equal(write(filled_by_yield, "x", 1), 1);
}

/* A read of an empty pipe, until something is written there: by who yields the core, or later. */
static void read_pipe(int fd, enum plx_aio_way way, uint64_t later_ns)
{
    struct plx_timer timer = {.fn = fill};
    init_io(&ios[0], fd, way, 0);
    ios[0].aio.done = stop_reactor;
    plx_aio_submit(r, &ios[0].aio);
    plx_timer_set(r, &timer, later_ns);
    plx_reactor_run(r);
    plx_timer_cancel(r, &timer);
    assert_int_equal(ios[0].done, 1);
    assert_int_equal(ios[0].aio.res, 1);
}

static void a_thread_of_the_kernel_gets_the_core(void **state)
{
    (void)state;
    int fds[2];
    make_pipe(fds);
    if (strcmp(plx_aio_name(r), "io_uring"))
        skip();
    read_pipe(fds[0], PLX_AIO_ASYNC, PLX_NS_PER_MS);
    assert_int_equal(yields, 0);
    read_pipe(fds[0], PLX_AIO_THREADED, 60 * PLX_NS_PER_S);
    assert_true(yields > 0);
    yields = 0;
    read_pipe(fds[0], PLX_AIO_ASYNC, PLX_NS_PER_MS);
    assert_int_equal(yields, 0); /* nor any more when it has ended */
    unmake_pipe(fds);
}

static void what_did_not_begin_can_be_cancelled(void **state)
{
    (void)state;
    make(PLX_POLL_ADAPTIVE, false);
    if (strcmp(plx_aio_name(r), "io_uring"))
        skip();
    rings_refused = true;
    plx_aio_submit(r, init_io(&ios[0], file, PLX_AIO_ASYNC, 0));
    plx_aio_cancel(r, &ios[0].aio);
    rings_refused = false;
    run_until_ended(1);
    assert_int_equal(ios[0].aio.res, -EPERM);
    assert_false(plx_reactor_arm(r)); /* nothing was put into a ring that takes nothing */
    unmake();
}

/* ---- reads of a pipe that nobody writes to ---- */

enum { HUNG = 4000, SHARES = 10 };

static struct io hung[HUNG];

static void submit_hung(int fd, enum plx_aio_way way, int from, int to)
{
    for (int i = from; i < to; i++)
        plx_aio_submit(r, init_io(&hung[i], fd, way, 0));
    for (int i = 0; i < 100; i++)
        plx_reactor_poll(r);
}

static void end_hung(int n)
{
    for (int i = 0; i < n; i++)
        plx_aio_cancel(r, &hung[i].aio);
    alarm(60); /* ends the test: it hangs */
    for (int i = 0; i < n; i++) {
        while (!hung[i].done)
            plx_reactor_poll(r);
        assert_int_equal(hung[i].aio.res, -ECANCELED);
    }
    alarm(0);
}

static void more_can_be_cancelled_at_once_than_the_ring_takes_at_once(void **state)
{
    (void)state;
    int fds[2];
    make_pipe(fds);
    if (strcmp(plx_aio_name(r), "io_uring"))
        skip();
    submit_hung(fds[0], PLX_AIO_ASYNC, 0, HUNG);
    end_hung(HUNG);
    unmake_pipe(fds);
}

static void a_file_that_hangs_leaves_the_others_alone(void **state)
{
    enum plx_aio_way way = *(enum plx_aio_way *)*state;
    int fds[2], more[2];
    make_pipe(fds);
    if (strcmp(plx_aio_name(r), "io_uring"))
        skip();
    assert_int_equal(pipe2(more, O_CLOEXEC), 0);
    submit_hung(fds[0], way, 0, HUNG / 2); /* more than the ring holds */
    submit_hung(more[0], way, HUNG / 2, HUNG);
    alarm(60);
    read_many(file, way, MANY); /* more threads than there are, too */
    run_until_ended(MANY);
    alarm(0);
    for (int i = 0; i < MANY; i++)
        assert_int_equal(ios[i].aio.res, READ);
    end_hung(HUNG);
    close(more[0]);
    close(more[1]);
    unmake_pipe(fds);
}

/* Of all the room in the ring hung files leave one place, by and by. */
static void leave_one_place(int fds[][2])
{
    static const int shares[SHARES] = {768, 384, 192, 96, 48, 24, 12, 6, 3, 2};
    for (int i = 0, from = 0; i < SHARES; from += shares[i++]) {
        assert_int_equal(pipe2(fds[i], O_CLOEXEC), 0);
        submit_hung(fds[i][0], PLX_AIO_ASYNC, from, from + shares[i]);
    }
}

static struct plx_aio *order[MANY];
static int norder;

static void note_order(struct plx_aio *aio)
{
    order[norder++] = aio;
    count_done(aio);
}

static void submit_noted(struct io *io, int fd)
{
    init_io(io, fd, PLX_AIO_ASYNC, 0)->done = note_order;
    plx_aio_submit(r, &io->aio);
}

static void note_and_submit_again(struct plx_aio *aio)
{
    order[norder++] = aio;
    if (norder < 10)
        plx_aio_submit(r, aio);
    else
        count_done(aio);
}

static void files_that_wait_take_turns(void **state)
{
    (void)state;
    int fds[2], more[SHARES][2], other = memfd_create("pollux-other", MFD_CLOEXEC);
    make_pipe(fds);
    if (strcmp(plx_aio_name(r), "io_uring"))
        skip();
    assert_int_equal(ftruncate(other, READ), 0);
    leave_one_place(more);
    norder = 0;
    alarm(60);
    for (int i = 0; i < 3; i++)
        submit_noted(&ios[i], file);
    for (int i = 3; i < 6; i++)
        submit_noted(&ios[i], other);
    run_until_ended(6);
    assert_ptr_equal(order[0], &ios[0].aio);
    for (int i = 0; i < 6; i++)
        if (order[i] == &ios[2].aio) /* the first file's last comes after the other's first */
            assert_true(i > 2);
    assert_ptr_equal(order[5], &ios[5].aio);

    norder = 0; /* nor does who submits again at once pass others */
    init_io(&ios[0], file, PLX_AIO_ASYNC, 0)->done = note_and_submit_again;
    plx_aio_submit(r, &ios[0].aio);
    for (int i = 1; i < MANY; i++)
        ios[i].done = 0;
    submit_noted(&ios[1], other);
    run_until_ended(2);
    assert_ptr_equal(order[1], &ios[1].aio);
    alarm(0);
    end_hung(1535);
    for (int i = 0; i < SHARES; i++) {
        close(more[i][0]);
        close(more[i][1]);
    }
    close(other);
    unmake_pipe(fds);
}

static int64_t hang(struct plx_aio *io)
{
    char byte;
    return read(io->fd, &byte, 1);
}

static int64_t do_not_hang(struct plx_aio *io)
{
    (void)io;
    return READ;
}

static void calls_that_hang_leave_those_for_other_files_alone(void **state)
{
    enum { CALLS = 20 };
    (void)state;
    int fds[2], more[2];
    make_pipe(fds);
    assert_int_equal(pipe2(more, O_CLOEXEC), 0);
    for (int i = 0; i < CALLS; i++) {
        init_io(&hung[i], i % 2 ? fds[0] : more[0], PLX_AIO_ASYNC, 0)->op = PLX_AIO_CALL;
        hung[i].aio.call = hang;
        plx_aio_submit(r, &hung[i].aio);
    }
    alarm(60);
    for (int i = 0; i < MANY; i++) {
        init_io(&ios[i], i % 2 ? file : -1, PLX_AIO_ASYNC, 0)->op = PLX_AIO_CALL;
        ios[i].aio.call = do_not_hang;
        plx_aio_submit(r, &ios[i].aio);
    }
    run_until_ended(MANY);
    for (int i = 0; i < CALLS; i++)
        assert_false(hung[i].done);
    for (int i = 0; i < CALLS / 2; i++)
        assert_true(write(fds[1], "x", 1) == 1 && write(more[1], "x", 1) == 1);
    for (int i = 0; i < CALLS; i++) /* and those that were passed over come in */
        while (!hung[i].done)
            plx_reactor_poll(r);
    alarm(0);
    close(more[0]);
    close(more[1]);
    unmake_pipe(fds);
}

int main(void)
{
    static enum plx_aio_way async = PLX_AIO_ASYNC, threaded = PLX_AIO_THREADED;
    static bool uring = false, threads = true;
    static const struct CMUnitTest each[] = {
        cmocka_unit_test(memory_is_read_by_the_reactor),
        cmocka_unit_test(a_round_reads_only_so_much),
        cmocka_unit_test(reads_of_memory_end_once_though_cancelled),
        cmocka_unit_test(long_reads_and_writes_are_left_to_threads),
        cmocka_unit_test(swapped_memory_is_left_to_threads),
        cmocka_unit_test(an_entry_may_be_larger_than_32_bits_can_say),
    };
    const struct CMUnitTest once[] = {
        cmocka_unit_test(the_node_of_a_device_is_not_taken_for_memory),
        cmocka_unit_test(a_burst_is_begun_while_it_is_made),
        cmocka_unit_test(a_thread_of_the_kernel_gets_the_core),
        cmocka_unit_test(what_did_not_begin_can_be_cancelled),
        cmocka_unit_test(more_can_be_cancelled_at_once_than_the_ring_takes_at_once),
        cmocka_unit_test_prestate(a_file_that_hangs_leaves_the_others_alone, &async),
        cmocka_unit_test_prestate(a_file_that_hangs_leaves_the_others_alone, &threaded),
        cmocka_unit_test(files_that_wait_take_turns),
        cmocka_unit_test(calls_that_hang_leave_those_for_other_files_alone),
    };
    struct CMUnitTest tests[PLX_ARRAY_SIZE(each)];
    int failed = 0;
    for (int i = 0; i < 2; i++) {
        for (size_t k = 0; k < PLX_ARRAY_SIZE(each); k++) {
            tests[k] = each[k];
            tests[k].initial_state = i ? &threads : &uring;
        }
        failed += cmocka_run_group_tests_name(i ? "threads" : "io_uring", tests, NULL, NULL);
    }
    return failed + cmocka_run_group_tests(once, NULL, NULL);
}
