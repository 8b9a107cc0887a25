/* SPDX-License-Identifier: BSD-3-Clause */
/* `pollux cp`: copies one disk to another, whatever they are. */
#include "cp.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    OPT_VERIFY = 256, /* options that have no letter */
    OPT_DEPTH,
    OPT_CHUNK,
    PROGRESS_MS = 250,
    BAR = 30,
};

struct cp {
    const char *src, *dst;
    char path[4096]; /* of the destination that is a file */
    bool verify, quiet, help;
    bool terminal; /* progress is shown */
    bool drawn;    /* a progress line is on the screen */
    bool made;     /* there was no such destination before */
    struct cp_job job;
    struct plx_timer timer;
    uint64_t began;
};

static struct cp *shown; /* whose progress line log lines have to make room for */

/* ---- progress ---- */

static void erase_line(struct cp *c)
{
    if (c->drawn)
        cli_say("\r\033[K");
    c->drawn = false;
}

static void print_log(void *arg, enum plx_log_level level, const char *line)
{
    if (shown)
        erase_line(shown);
    cli_log(arg, level, line);
}

static void human(double bytes, char *out, size_t size)
{
    const char *unit = cli_unit(&bytes);
    snprintf(out, size, *unit == 'B' ? "%.0f %s" : "%.1f %s", bytes, unit);
}

static double seconds_since(const struct cp *c)
{
    return (double)(plx_reactor_now(c->job.reactor) - c->began) / 1e9;
}

static void draw(struct cp *c)
{
    const struct cp_job *job = &c->job;
    char done[32], total[32], rate[32], bar[BAR + 1];
    double seconds = seconds_since(c), speed = seconds > 0 ? (double)job->done / seconds : 0;
    double part = job->bytes ? (double)job->done / (double)job->bytes : 1;
    unsigned long left = speed > 0 ? (unsigned long)((double)(job->bytes - job->done) / speed + 0.5) : 0;
    memset(bar, ' ', BAR);
    memset(bar, '#', (size_t)(part * BAR));
    bar[BAR] = 0;
    human((double)job->done, done, sizeof done);
    human((double)job->bytes, total, sizeof total);
    human(speed, rate, sizeof rate);
    cli_say("\r\033[K%s [%s] %3.0f %%  %s of %s, %s/s, %lu:%02lu left", job->verify ? "verify" : "copy  ", bar,
            part * 100, done, total, rate, left / 60, left % 60);
    c->drawn = true;
}

static void cp_tick(struct plx_timer *t)
{
    struct cp *c = (struct cp *)(void *)((char *)t - offsetof(struct cp, timer));
    draw(c);
    plx_timer_set(c->job.reactor, t, (uint64_t)PROGRESS_MS * 1000000);
}

/* ---- the disks ---- */

/* Gives a destination that was empty the right size: all zeroes, without taking space. */
static int size_file(struct cp *c)
{
    c->job.fresh = true;
    return truncate(c->path, (off_t)c->job.bytes) == 0
               ? EXIT_OK
               : cli_fail(EXIT_RUNTIME, "%s cannot be made %" PRIu64 " bytes long: %s", c->path, c->job.bytes,
                          strerror(errno));
}

/* What was made for nothing goes. */
static void undo_file(const struct cp *c)
{
    if (c->made)
        unlink(c->path);
    else if (c->job.fresh && truncate(c->path, 0) < 0)
        cli_fail(EXIT_RUNTIME, "%s cannot be made empty again: %s", c->path, strerror(errno));
}

/*
 * A destination that is the name of no file yet becomes one, of the right size; and so does an empty one. One that
 * cannot be written to is said to be so; that it could be read instead, as opening it says, is no help here.
 */
static int create_file(struct cp *c)
{
    struct plx_error err;
    struct stat st;
    int ret = plx_bdev_path(c->dst, c->path, sizeof c->path, &err);
    if (ret < 0)
        return cli_fail(cli_disk_status(ret), "%s", err.text);
    if (!ret)
        return EXIT_OK;
    if (access(c->path, W_OK) == 0)
        return stat(c->path, &st) == 0 && S_ISREG(st.st_mode) && !st.st_size ? size_file(c) : EXIT_OK;
    if (errno != ENOENT)
        return cli_fail(cli_disk_status(-errno), "%s cannot be written to: %s", c->path, strerror(errno));
    int fd = open(c->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0)
        return cli_fail(cli_disk_status(-errno), "%s cannot be created: %s", c->path, strerror(errno));
    c->made = true;
    close(fd);
    return size_file(c);
}

static int check_disks(struct cp *c)
{
    const struct plx_bdev_info *src = plx_bdev_info(c->job.src), *dst = plx_bdev_info(c->job.dst);
    uint64_t room = dst->blocks * dst->block_size;
    if (dst->read_only)
        return cli_fail(EXIT_USAGE, "%s is read-only", c->dst);
    if (memcmp(src->uuid, dst->uuid, sizeof src->uuid) == 0)
        return cli_fail(EXIT_USAGE, "%s and %s are the same disk", c->src, c->dst);
    if (room < c->job.bytes)
        return cli_fail(EXIT_USAGE, "%s has %" PRIu64 " bytes, and %s only %" PRIu64, c->src, c->job.bytes, c->dst,
                        room);
    if (c->job.bytes % dst->block_size)
        return cli_fail(EXIT_USAGE, "%s has %" PRIu64 " bytes, no multiple of the blocks of %s, %u bytes", c->src,
                        c->job.bytes, c->dst, dst->block_size);
    return EXIT_OK;
}

/* A source that is a file is only read, so that it may be read-only, or in use by others who only read it. */
static void name_source(const struct cp *c, char *url, size_t size)
{
    size_t n = (size_t)snprintf(url, size, "file://"); /* without the slashes, those of //PATH would name a host */
    if (strncmp(c->src, "file:", 5) == 0 || strncmp(c->src, "ng:", 3) == 0) {
        const char *settings = strchr(c->src, '?');
        bool told = settings && (strstr(settings, "?ro=") || strstr(settings, "&ro="));
        snprintf(url, size, told ? "%s" : settings ? "%s&ro=1" : "%s?ro=1", c->src);
        return;
    }
    for (const char *p = c->path; *p && n + 8 < size; p++)
        n += (size_t)snprintf(url + n, size - n, *p == '%' || *p == '?' ? "%%%02x" : "%c", *p);
    snprintf(url + n, size - n, "?ro=1");
}

static int open_source(struct cp *c)
{
    struct stat st;
    struct plx_error err;
    char url[2 * sizeof c->path];
    int ret = plx_bdev_path(c->src, c->path, sizeof c->path, &err);
    bool file = ret > 0, there = !file || stat(c->path, &st) == 0;
    if (!there && errno == ENOENT)
        return cli_fail(EXIT_USAGE, "there is no file %s to copy", c->path);
    if (file && there && S_ISREG(st.st_mode) && !st.st_size)
        return cli_fail(EXIT_USAGE, "%s is empty: there is nothing to copy", c->path);
    if (file)
        name_source(c, url, sizeof url);
    if (ret >= 0)
        ret = plx_bdev_open(file ? url : c->src, &c->job.src, &err);
    if (ret)
        return cli_fail(cli_disk_status(ret), "%s", err.text);
    const struct plx_bdev_info *info = plx_bdev_info(c->job.src);
    c->job.bytes = info->blocks * info->block_size;
    return EXIT_OK;
}

static int cp_open_disks(struct cp *c)
{
    struct plx_error err;
    int ret = open_source(c);
    if (!ret)
        ret = create_file(c);
    if (!ret) {
        ret = plx_bdev_open(c->dst, &c->job.dst, &err);
        if (ret == -EBUSY)
            c->made = c->job.fresh = false; /* somebody else's by now */
        ret = ret ? cli_fail(cli_disk_status(ret), "%s", err.text) : EXIT_OK;
    }
    if (!ret)
        ret = cli_check_memory((struct plx_bdev *[]){c->job.src, c->job.dst}, 2);
    if (!ret)
        ret = check_disks(c);
    if (ret)
        undo_file(c);
    return ret;
}

/* ---- copying ---- */

static int run_pass(struct cp *c)
{
    struct cp_job *job = &c->job;
    c->began = plx_reactor_now(job->reactor);
    cp_run(job);
    if (c->terminal)
        plx_timer_set(job->reactor, &c->timer, (uint64_t)PROGRESS_MS * 1000000);
    plx_reactor_run(job->reactor);
    plx_timer_cancel(job->reactor, &c->timer);
    erase_line(c);
    if (!job->status)
        return EXIT_OK;
    if (job->verify && job->status == PLX_SC_COMPARE_FAILURE)
        return cli_fail(EXIT_RUNTIME, "%s differs from %s between byte %" PRIu64 " and %" PRIu64, c->dst, c->src,
                        job->where, job->where + job->chunk);
    return cli_fail(EXIT_RUNTIME, "%s: %s failed at byte %" PRIu64 ": %s (%03x)", job->of_source ? c->src : c->dst,
                    job->what, job->where, plx_nvme_status_text(job->status), job->status);
}

static void cp_summarize(const struct cp *c, double seconds, uint64_t zeroes)
{
    char total[32], skipped[32], rate[32];
    human((double)c->job.bytes, total, sizeof total);
    human((double)zeroes, skipped, sizeof skipped);
    human(seconds > 0 ? (double)c->job.bytes / seconds : 0, rate, sizeof rate);
    printf("copied %s in %.1f s, %s/s; %s of it zeroes%s\n", total, seconds, rate, skipped,
           c->verify ? "; verified" : "");
}

static int copy(struct cp *c)
{
    static const struct plx_reactor_opts opts = {.core = -1, .mode = PLX_POLL_ADAPTIVE};
    int ret = plx_reactor_create(&c->job.reactor, &opts);
    if (ret)
        return cli_fail(EXIT_RUNTIME, "cannot make a reactor: %s", strerror(-ret));
    c->timer.fn = cp_tick;
    shown = c;
    ret = cp_begin(&c->job);
    if (ret) {
        ret = cli_fail(EXIT_RUNTIME, "cannot begin to copy %s to %s: %s", c->src, c->dst, strerror(-ret));
    } else {
        ret = run_pass(c);
        double seconds = seconds_since(c);
        uint64_t zeroes = c->job.zeroes;
        c->job.verify = c->verify;
        if (!ret && c->verify)
            ret = run_pass(c);
        if (!ret && !c->quiet)
            cp_summarize(c, seconds, zeroes);
        cp_end(&c->job);
    }
    shown = NULL;
    plx_reactor_destroy(c->job.reactor);
    return ret;
}

/* ---- the command ---- */

static void cp_help(void)
{
    puts(
        "pollux cp [OPTION]... SRC DST\n"
        "  Copies one disk to another that is at least as large; a destination that is no file yet becomes one.\n"
        "  Zeroes are not transferred where the destination can do without. A remote disk whose connection is lost is\n"
        "  waited for, and the copy goes on.\n\n"
        "disks:");
    for (const char *const *kind = plx_bdev_kinds(); *kind; kind++)
        printf("  %s\n", *kind);
    puts("\noptions:\n"
         "      --verify       afterwards, read both and compare\n"
         "      --depth N      requests in flight (32)\n"
         "      --chunk SIZE   of a request: 64K to 1M, a power of two (256K)\n"
         "  -q, --quiet        neither progress nor summary");
}

static int cp_parse_one(struct cp *c, int opt, const char *arg)
{
    switch (opt) {
    case OPT_VERIFY:
        c->verify = true;
        return EXIT_OK;
    case OPT_DEPTH:
        return cli_parse_u32("depth", arg, "a number", 1, CP_DEPTH_MAX, &c->job.depth);
    case OPT_CHUNK:
        return cli_parse_size("chunk", arg, "64K to 1M", CP_CHUNK_MIN, CP_CHUNK_MAX, true, &c->job.chunk);
    case 'q':
        c->quiet = true;
        return EXIT_OK;
    default:
        c->help = true;
        return EXIT_OK;
    }
}

static int cp_parse(struct cp *c, int argc, char **argv)
{
    static const struct option table[] = {{"verify", no_argument, NULL, OPT_VERIFY},
                                          {"depth", required_argument, NULL, OPT_DEPTH},
                                          {"chunk", required_argument, NULL, OPT_CHUNK},
                                          {"quiet", no_argument, NULL, 'q'},
                                          {"help", no_argument, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
    struct cli_options options = {"cp", ":qh", table, NULL, 0};
    for (int opt; (opt = cli_next_option(&options, argc, argv)) != -1;)
        if (opt == CLI_WRONG || cp_parse_one(c, opt, optarg))
            return EXIT_USAGE;
    if (c->help)
        return EXIT_OK;
    if (argc - optind != 2)
        return cli_fail(EXIT_USAGE, "cp takes two disks, what to copy and where to: pollux cp SRC DST");
    c->src = argv[optind];
    c->dst = argv[optind + 1];
    return EXIT_OK;
}

static int cp(int argc, char **argv)
{
    struct cp c = {.job = {.depth = CP_DEPTH, .chunk = CP_CHUNK}};
    int ret = cp_parse(&c, argc, argv);
    if (ret || c.help) {
        if (!ret)
            cp_help();
        return ret;
    }
    c.terminal = !c.quiet && isatty(STDERR_FILENO);
    plx_log_set(print_log, NULL, PLX_LOG_WARN);
    ret = cp_open_disks(&c);
    if (!ret)
        ret = cli_log_start();
    if (!ret)
        ret = copy(&c);
    if (c.job.dst)
        plx_bdev_close(c.job.dst);
    if (c.job.src)
        plx_bdev_close(c.job.src);
    return ret;
}

const struct cli_command cli_cp = {
    .name = "cp",
    .summary = "copy one disk to another",
    .run = cp,
    .help = cp_help,
};
