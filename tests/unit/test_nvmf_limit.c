/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Rate limits of a disk that is served, and of a host: set while memory is lent to sockets, and while data is used in
 * place.
 */
#include "nvmf_util.h"

#include "bdev/driver.h"
#include "reactor/clock.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { N = 30, LENT = 65536, SMALL = 4096 };

static uint64_t now_ns = PLX_NS_PER_S;

/* A little at each look, for those who wait for time in a loop. */
static uint64_t simulated(void)
{
    return now_ns += PLX_NS_PER_US;
}

static int begin_time(void **state)
{
    (void)state;
    plx_clock_simulate(simulated);
    return 0;
}

static int end_time(void **state)
{
    (void)state;
    plx_clock_simulate(NULL);
    return 0;
}

struct served {
    struct rig rig;
    int admin, queue;
};

static void serve(struct served *s)
{
    assert_int_equal(rig_start(&s->rig, "ram:1M"), 0);
    assert_true(rig_host(&s->rig, &s->admin, &s->queue));
    assert_true(s->rig.target->groups[0].in_place);
}

static void end(struct served *s)
{
    close(s->queue);
    close(s->admin);
    rig_stop(&s->rig);
}

static bool by_host; /* it is the host that is limited, and not its disk */

static void done(void *arg, int ret)
{
    *(int *)arg = ret;
}

static void limit_host(struct served *s, const char *group, const char *host, uint64_t ios)
{
    int result = 1;
    const struct plx_bdev_limits l = {.ios = ios};
    assert_int_equal(plx_nvmf_host_limits_set(s->rig.target, group, &host, 1, &l, done, &result, NULL), 0);
    rig_settle(&s->rig);
    assert_int_equal(result, 0);
}

static void limit(struct served *s, uint64_t ios)
{
    if (by_host) {
        limit_host(s, "ours", RIG_HOST, ios);
        return;
    }
    assert_int_equal(plx_bdev_set_limits(s->rig.disk, &(struct plx_bdev_limits){.ios = ios}, NULL), 0);
}

static struct nvme_tcp_cmd io_of(uint8_t opcode, uint16_t cid, uint64_t lba, uint32_t len)
{
    bool write = opcode == NVME_IO_WRITE;
    return (struct nvme_tcp_cmd){
        .hdr = {.type = NVME_TCP_CMD, .hlen = 72, .pdo = write ? 72 : 0, .plen = plx_put32(write ? 72 + len : 72)},
        .cmd = {.opcode = opcode,
                .flags = NVME_PSDT_SGL,
                .cid = plx_put16(cid),
                .nsid = plx_put32(1),
                .sgl = {.length = plx_put32(len), .type = write ? NVME_SGL_DATA_BLOCK_OFFSET : NVME_SGL_TRANSPORT_DATA},
                .cdw10 = plx_put32(lba),
                .cdw12 = plx_put32(len / 512 - 1)}};
}

static void send_reads(struct served *s, uint32_t len)
{
    for (uint16_t cid = 0; cid < N; cid++) {
        struct nvme_tcp_cmd read = io_of(NVME_IO_READ, cid, cid * 8, len);
        assert_true(rig_send(&s->rig, s->queue, &read, sizeof read));
    }
}

/* Writes with their data in the capsule, one after the other in the same buffer of the target's. */
static void send_writes(struct served *s, uint16_t n)
{
    static struct {
        struct nvme_tcp_cmd pdu;
        uint8_t data[SMALL];
    } write;
    for (uint16_t cid = 0; cid < n; cid++) {
        write.pdu = io_of(NVME_IO_WRITE, N + cid, cid * 8, SMALL); /* reads may be in flight */
        memset(write.data, 1 + cid, SMALL);
        assert_true(rig_send(&s->rig, s->queue, &write, sizeof write));
    }
}

static size_t received(struct served *s)
{
    static uint8_t buf[1 << 20];
    size_t total = 0;
    for (ssize_t n; (n = rig_receive(&s->rig, s->queue, buf, sizeof buf)) > 0;)
        total += (size_t)n;
    return total;
}

static void pass_time(struct served *s, uint64_t ms)
{
    for (uint64_t end = now_ns + ms * PLX_NS_PER_MS; now_ns < end; now_ns += 10 * PLX_NS_PER_MS)
        rig_settle(&s->rig);
    rig_settle(&s->rig);
}

/* That the disk holds what send_writes() sent. */
static void check_written(struct served *s)
{
    struct plx_bdev_channel *ch;
    uint8_t expected[SMALL];
    assert_int_equal(plx_bdev_channel_get(s->rig.disk, s->rig.reactor, &ch), 0);
    for (unsigned i = 0; i < N; i++) {
        memset(expected, 1 + (int)i, SMALL);
        const void *memory = plx_bdev_map(ch, i * 8, 8);
        assert_non_null(memory);
        assert_memory_equal(memory, expected, SMALL);
    }
    plx_bdev_channel_put(ch);
}

static void reads_that_were_lent_memory_are_sent_to_their_end(void **state)
{
    (void)state;
    struct served s;
    serve(&s);
    send_reads(&s, LENT); /* more than the socket takes */
    limit(&s, 1);
    assert_int_equal(received(&s), N * (sizeof(struct nvme_tcp_data) + LENT + sizeof(struct nvme_tcp_resp)));
    end(&s);
}

static void reads_are_lent_nothing_while_they_are_limited(void **state)
{
    (void)state;
    struct served s;
    const size_t each = sizeof(struct nvme_tcp_data) + SMALL + sizeof(struct nvme_tcp_resp);
    serve(&s);
    limit(&s, 10);
    send_reads(&s, SMALL);
    pass_time(&s, 450);
    assert_int_equal(received(&s), 5 * each);
    limit(&s, 0);
    pass_time(&s, 100);
    assert_int_equal(received(&s), (N - 5) * each);
    send_reads(&s, SMALL);
    assert_int_equal(received(&s), N * each);
    end(&s);
}

static void data_of_writes_that_wait_is_kept(void **state)
{
    (void)state;
    struct served s;
    serve(&s);
    limit(&s, 10);
    send_writes(&s, N);
    assert_false(s.rig.target->groups[0].in_place); /* so no more is received than there is memory for */
    pass_time(&s, 450);
    assert_int_equal(received(&s), 5 * sizeof(struct nvme_tcp_resp));
    limit(&s, 0);
    pass_time(&s, 100);
    assert_int_equal(received(&s), (N - 5) * sizeof(struct nvme_tcp_resp));
    check_written(&s);
    end(&s);
}

/* A limit that is set by another thread between parse and execute, which had counted on there being none. */
static void writes_that_are_in_place_already_do_not_wait(void **state)
{
    (void)state;
    struct served s;
    serve(&s);
    limit(&s, 10);
    s.rig.disk->info.in_place = true;
    send_writes(&s, N);
    assert_int_equal(received(&s), N * sizeof(struct nvme_tcp_resp));
    limit(&s, 0);
    check_written(&s);
    end(&s);
}

/* SMART / Health Information is of all time, however often an operator begins anew. */
static void what_hosts_are_told_of_a_disk_is_of_all_time(void **state)
{
    (void)state;
    struct served s;
    uint64_t read, written, reads, writes;
    serve(&s);
    send_writes(&s, N);
    received(&s);
    plx_bdev_reset_stats(s.rig.disk, true);
    const struct plx_nvmf_subsystem *of =
        plx_list_entry(s.rig.target->subsystems.prev, struct plx_nvmf_subsystem, link);
    nvmf_image_stats(s.rig.target->groups[0].snap->images[of->index], &read, &written, &reads, &writes);
    assert_int_equal(writes, N);
    assert_int_equal(written, N * SMALL / 512);
    end(&s);
}

/* ---- of hosts alone ---- */

static size_t answers(unsigned n)
{
    return n * (sizeof(struct nvme_tcp_data) + SMALL + sizeof(struct nvme_tcp_resp));
}

static void what_waits_goes_on_when_limits_are_taken_away(void **state)
{
    (void)state;
    struct served s;
    int result = 1;
    serve(&s);
    limit_host(&s, "slow", RIG_HOST, 1);
    send_reads(&s, SMALL);
    assert_int_equal(received(&s), answers(1));
    assert_int_equal(plx_nvmf_host_limits_remove(s.rig.target, "slow", done, &result, NULL), 0);
    rig_settle(&s.rig);
    assert_int_equal(result, 0);
    assert_int_equal(received(&s), answers(N - 1));
    assert_true(s.rig.target->groups[0].in_place);
    end(&s);
}

static void another_host_is_not_limited(void **state)
{
    (void)state;
    struct served s;
    serve(&s);
    limit_host(&s, "slow", "nqn.2024-01.com.example:another", 1);
    send_reads(&s, SMALL);
    assert_int_equal(received(&s), answers(N));
    /* Until it is in the place of that one. */
    limit_host(&s, "slow", RIG_HOST, 1);
    send_reads(&s, SMALL);
    assert_int_equal(received(&s), answers(1));
    limit_host(&s, "slow", "nqn.2024-01.com.example:another", 1);
    assert_int_equal(received(&s), answers(N - 1));
    end(&s);
}

static void what_waits_ends_with_its_connection_and_with_the_target(void **state)
{
    (void)state;
    struct served s;
    serve(&s);
    limit_host(&s, "slow", RIG_HOST, 1);
    send_reads(&s, SMALL);
    rig_settle(&s.rig);
    assert_int_equal(s.rig.target->groups[0].reqs_in_use, N - 1 + 0);
    close(s.queue);
    rig_settle(&s.rig);
    assert_int_equal(s.rig.target->groups[0].reqs_in_use, 0);
    close(s.admin);
    rig_stop(&s.rig);
}

static void what_waits_may_be_paused_then(void **state)
{
    (void)state;
    struct served s;
    int paused = 1, resumed = 1;
    serve(&s);
    struct plx_nvmf_subsystem *of = plx_nvmf_subsystem_next(s.rig.target, NULL);
    limit_host(&s, "slow", RIG_HOST, 10);
    send_reads(&s, SMALL);
    assert_int_equal(received(&s), answers(1));
    plx_nvmf_subsystem_pause(of, 0, done, &paused);
    rig_settle(&s.rig);
    assert_int_equal(paused, 0);
    pass_time(&s, 450); /* some of them have waited long enough, but for the pause */
    assert_int_equal(received(&s), 0);
    plx_nvmf_subsystem_resume(of, 0, done, &resumed);
    rig_settle(&s.rig);
    assert_int_equal(resumed, 0);
    assert_int_equal(received(&s), answers(4));
    limit_host(&s, "slow", RIG_HOST, 0);
    pass_time(&s, 100);
    assert_int_equal(received(&s), answers(N - 5));
    end(&s);
}

static void count_stages(void *arg, const struct plx_nvmf_command_info *c, unsigned n, uint64_t left_out)
{
    unsigned *stages = arg;
    (void)left_out;
    for (; n--; c++)
        stages[c->stage]++;
}

static void what_is_paused_and_limited_waits_for_one_at_a_time(void **state)
{
    (void)state;
    struct served s;
    int result = 1;
    unsigned paused[PLX_NVMF_STAGES] = {0}, limited[PLX_NVMF_STAGES] = {0};
    serve(&s);
    struct plx_nvmf_subsystem *of = plx_nvmf_subsystem_next(s.rig.target, NULL);
    limit_host(&s, "slow", RIG_HOST, 1);
    plx_nvmf_subsystem_pause(of, 0, done, &result);
    rig_settle(&s.rig);
    send_reads(&s, SMALL);
    assert_int_equal(plx_nvmf_query_inflight(s.rig.target, count_stages, paused), 0);
    rig_settle(&s.rig);
    assert_int_equal(paused[PLX_NVMF_STAGE_PAUSED], N);
    plx_nvmf_subsystem_resume(of, 0, done, &result);
    assert_int_equal(received(&s), answers(1));
    assert_int_equal(plx_nvmf_query_inflight(s.rig.target, count_stages, limited), 0);
    rig_settle(&s.rig);
    assert_int_equal(limited[PLX_NVMF_STAGE_LIMITED], N - 1);
    end(&s);
}

/* As all that is in flight is; it would take half a minute else. */
static void what_waits_is_done_before_the_target_stops(void **state)
{
    (void)state;
    enum { GRACE_MS = 2000 };
    struct served s;
    int result = 1;
    serve(&s);
    limit_host(&s, "slow", RIG_HOST, 1);
    send_writes(&s, N);
    assert_int_equal(received(&s), sizeof(struct nvme_tcp_resp));
    plx_nvmf_target_stop(s.rig.target, GRACE_MS, done, &result);
    pass_time(&s, GRACE_MS);
    assert_int_equal(result, 0);
    assert_int_equal(received(&s), (N - 1) * sizeof(struct nvme_tcp_resp));
    check_written(&s);
    plx_nvmf_target_destroy(s.rig.target);
    plx_reactor_destroy(s.rig.reactor);
    plx_bdev_close(s.rig.disk);
    close(s.queue);
    close(s.admin);
}

static void reads_and_writes_wait_apart(void **state)
{
    (void)state;
    struct served s;
    int result = 1;
    const char *host = RIG_HOST;
    const struct plx_bdev_limits reads = {.read_ios = 1}, both = {.read_ios = 1, .write_ios = 1};
    serve(&s);
    assert_int_equal(plx_nvmf_host_limits_set(s.rig.target, "slow", &host, 1, &reads, done, &result, NULL), 0);
    rig_settle(&s.rig);
    send_writes(&s, N);
    assert_int_equal(received(&s), N * sizeof(struct nvme_tcp_resp));
    send_reads(&s, SMALL);
    assert_int_equal(received(&s), answers(1));
    assert_int_equal(plx_nvmf_host_limits_set(s.rig.target, "slow", &host, 1, &both, done, &result, NULL), 0);
    send_writes(&s, 2);
    assert_int_equal(received(&s), sizeof(struct nvme_tcp_resp));
    assert_int_equal(plx_nvmf_host_limits_remove(s.rig.target, "slow", done, &result, NULL), 0);
    rig_settle(&s.rig);
    assert_int_equal(received(&s), answers(N - 1) + sizeof(struct nvme_tcp_resp));
    check_written(&s);
    end(&s);
}

static void wrong_groups_are_refused(void **state)
{
    (void)state;
    struct served s;
    struct plx_error err;
    int result = 1;
    const char *host = RIG_HOST, *wrong = "junk";
    const struct plx_bdev_limits l = {.ios = 1}, long_burst = {.burst_ms = PLX_BDEV_BURST_MS_MAX + 1};
    serve(&s);
    struct plx_nvmf_target *t = s.rig.target;
    limit_host(&s, "one", RIG_HOST, 1);
    assert_int_equal(plx_nvmf_host_limits_set(t, "two", &host, 1, &l, done, &result, &err), -EEXIST);
    assert_int_equal(plx_nvmf_host_limits_set(t, "two", &wrong, 1, &l, done, &result, &err), -EINVAL);
    assert_int_equal(plx_nvmf_host_limits_set(t, "two", &host, 0, &l, done, &result, &err), -EINVAL);
    assert_int_equal(plx_nvmf_host_limits_set(t, "", &host, 1, &l, done, &result, &err), -EINVAL);
    assert_int_equal(plx_nvmf_host_limits_set(t, "one", &host, 1, &long_burst, done, &result, &err), -EINVAL);
    assert_int_equal(plx_nvmf_host_limits_remove(t, "two", done, &result, &err), -ENOENT);
    assert_int_equal(result, 1);
    end(&s);
}

static int limit_hosts(void **state)
{
    by_host = true;
    return begin_time(state);
}

static int limit_disks_again(void **state)
{
    by_host = false;
    return end_time(state);
}

#define timed(test) cmocka_unit_test_setup_teardown(test, begin_time, end_time)
#define of_hosts(test)                                                                                                 \
    {                                                                                                                  \
        "of hosts: " #test, test, limit_hosts, limit_disks_again, NULL                                                 \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        timed(reads_that_were_lent_memory_are_sent_to_their_end),
        timed(reads_are_lent_nothing_while_they_are_limited),
        timed(data_of_writes_that_wait_is_kept),
        timed(writes_that_are_in_place_already_do_not_wait),
        timed(what_hosts_are_told_of_a_disk_is_of_all_time),
        of_hosts(reads_that_were_lent_memory_are_sent_to_their_end),
        of_hosts(reads_are_lent_nothing_while_they_are_limited),
        of_hosts(data_of_writes_that_wait_is_kept),
        timed(what_waits_goes_on_when_limits_are_taken_away),
        timed(another_host_is_not_limited),
        timed(what_waits_ends_with_its_connection_and_with_the_target),
        timed(what_waits_may_be_paused_then),
        timed(what_is_paused_and_limited_waits_for_one_at_a_time),
        timed(what_waits_is_done_before_the_target_stops),
        timed(reads_and_writes_wait_apart),
        timed(wrong_groups_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
