/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * target_control [REACTORS [apart]]: a target of the library, built and changed by commands, one a line on standard
 * input, whose control path may have a reactor apart. Each is answered by one line, "ok", "ok NUMBER", "ok JSON" or
 * "error TEXT". For tests that change a target while hosts look at it: tests/control.py runs it. The table below says
 * what there is; hosts see changes after `apply`.
 */
#include "target_query.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    REACTORS_MAX = 8,
    SUBSYSTEMS = 16,
    LISTENERS = 16,
    DISKS = 256,
    WORDS = 6,
    GRACE_MS = 30000, /* generous: the machine may be busy */
    LATER = 1 << 30,  /* of a command: it is answered when what it has begun is over */
};

static struct plx_reactor *reactors[REACTORS_MAX];
static unsigned nreactors;
static struct plx_nvmf_target *target;
static struct plx_nvmf_subsystem *subsystems[SUBSYSTEMS];
static struct plx_nvmf_listener *listeners[LISTENERS];
static char input[8192];
static size_t ninput;
static bool begun, started, at_end, ending, stopping;
static int status;

static void next_lines(void);

/* ---- answers ---- */

static void answer(int ret, const struct plx_error *err)
{
    begun = false;
    if (ret < 0)
        printf("error %s\n", err && err->text[0] ? err->text : strerror(-ret));
    else if (ret > 0)
        printf("ok %d\n", ret);
    else
        printf("ok\n");
}

static void over(void *arg, int ret)
{
    (void)arg;
    answer(ret, NULL);
    next_lines();
}

static void disk_over(void *arg, struct plx_bdev *bdev, int ret, const struct plx_error *err)
{
    (void)arg;
    (void)bdev;
    answer(ret, err);
    next_lines();
}

/* ---- what words mean ---- */

static uint32_t number(const char *text)
{
    return text ? (uint32_t)strtoul(text, NULL, 10) : 0;
}

static struct plx_nvmf_subsystem **find_subsystem(const char *nqn)
{
    for (unsigned i = 0; i < SUBSYSTEMS; i++)
        if (subsystems[i] && strcmp(plx_nvmf_subsystem_nqn(subsystems[i]), nqn) == 0)
            return &subsystems[i];
    return NULL;
}

static struct plx_nvmf_listener **find_listener(const char *port)
{
    for (unsigned i = 0; i < LISTENERS; i++)
        if (listeners[i] && plx_nvmf_listener_port(listeners[i]) == number(port))
            return &listeners[i];
    return NULL;
}

/* ---- the commands: their words, of which the first is the name and the last is followed by NULL ---- */

static int cmd_open(char **word, struct plx_error *err)
{
    (void)err;
    int ret = plx_bdev_open_begin(reactors[0], word[2], word[1], disk_over, NULL);
    return ret ? ret : LATER;
}

static int cmd_close(char **word, struct plx_error *err)
{
    struct plx_bdev *disk = plx_bdev_find(word[1]);
    if (!disk)
        return plx_fail(err, -ENOENT, "there is no disk %.80s", word[1]);
    int ret = plx_bdev_close_begin(reactors[0], disk, disk_over, NULL);
    return ret ? ret : LATER;
}

static int cmd_resize(char **word, struct plx_error *err)
{
    uint64_t bytes;
    struct plx_bdev *disk = plx_bdev_find(word[1]);
    if (!disk)
        return plx_fail(err, -ENOENT, "there is no disk %.80s", word[1]);
    if (plx_parse_size(word[2], &bytes))
        return plx_fail(err, -EINVAL, "%.40s is no size", word[2]);
    return plx_bdev_resize(disk, bytes / plx_bdev_info(disk)->block_size, err);
}

static int cmd_rescan(char **word, struct plx_error *err)
{
    struct plx_bdev *disk = plx_bdev_find(word[1]);
    if (!disk)
        return plx_fail(err, -ENOENT, "there is no disk %.80s", word[1]);
    int ret = plx_bdev_rescan_begin(reactors[0], disk, disk_over, NULL);
    return ret ? ret : LATER;
}

/* Of filters: numbers are those of <pollux/bdev_filter.h>. */

static int cmd_delay(char **word, struct plx_error *err)
{
    struct plx_bdev *disk = plx_bdev_find(word[1]);
    if (!disk)
        return plx_fail(err, -ENOENT, "there is no disk %.80s", word[1]);
    return plx_bdev_delay_set(disk, (enum plx_bdev_delay)number(word[2]), number(word[3]), err);
}

static int cmd_inject(char **word, struct plx_error *err)
{
    const struct plx_bdev_injection what = {.type = (enum plx_bdev_injection_type)number(word[2]),
                                            .ops = 1u << number(word[3]),
                                            .count = number(word[4]),
                                            .status = PLX_SC_WRITE_FAULT,
                                            .corrupt_value = 0xff};
    struct plx_bdev *disk = plx_bdev_find(word[1]);
    if (!disk)
        return plx_fail(err, -ENOENT, "there is no disk %.80s", word[1]);
    return plx_bdev_error_inject(disk, &what, err);
}

static int cmd_subsystem(char **word, struct plx_error *err)
{
    struct plx_nvmf_subsystem_opts opts = {.nqn = word[1]};
    for (unsigned i = 2; word[i]; i++) {
        opts.allow_any_host |= strcmp(word[i], "any-host") == 0;
        opts.some_listeners |= strcmp(word[i], "some-listeners") == 0;
    }
    for (unsigned i = 0; i < SUBSYSTEMS; i++)
        if (!subsystems[i])
            return plx_nvmf_subsystem_create(target, &opts, &subsystems[i], err);
    return -ENOSPC;
}

static int cmd_listen(char **word, struct plx_error *err)
{
    for (unsigned i = 0; i < LISTENERS; i++) {
        if (listeners[i])
            continue;
        int ret = plx_nvmf_listen(target, word[1], 0, &listeners[i], err);
        return ret ? ret : plx_nvmf_listener_port(listeners[i]);
    }
    return -ENOSPC;
}

static int cmd_unlisten(char **word, struct plx_error *err)
{
    struct plx_nvmf_listener **l = find_listener(word[1]);
    if (!l)
        return plx_fail(err, -ENOENT, "nothing listens on port %.20s", word[1]);
    plx_nvmf_listener_remove(*l);
    *l = NULL;
    return 0;
}

/* Of a subsystem: those whose second word names one. */

static int cmd_remove_subsystem(struct plx_nvmf_subsystem **s, char **word, struct plx_error *err)
{
    (void)word;
    (void)err;
    plx_nvmf_subsystem_remove(*s);
    *s = NULL;
    return 0;
}

static int cmd_add_ns(struct plx_nvmf_subsystem **s, char **word, struct plx_error *err)
{
    const bool group = word[3] && word[4], masked = group && word[5] && strcmp(word[5], "masked") == 0;
    const struct plx_nvmf_ns_opts opts = {.nsid = number(word[3]),
                                          .anagrpid = group ? number(word[4]) : 0,
                                          .ptpl_file = group && !masked ? word[5] : NULL,
                                          .no_auto_visible = masked};
    struct plx_bdev *disk = plx_bdev_find(word[2]);
    if (!disk)
        return plx_fail(err, -ENOENT, "there is no disk %.80s", word[2]);
    return plx_nvmf_subsystem_add_ns(*s, disk, &opts, err);
}

static int cmd_remove_ns(struct plx_nvmf_subsystem **s, char **word, struct plx_error *err)
{
    return plx_nvmf_subsystem_remove_ns(*s, number(word[2]), err);
}

static int cmd_attach(struct plx_nvmf_subsystem **s, char **word, struct plx_error *err)
{
    return strcmp(word[0], "attach") == 0 ? plx_nvmf_ns_add_host(*s, number(word[2]), word[3], err)
                                          : plx_nvmf_ns_remove_host(*s, number(word[2]), word[3], err);
}

static int cmd_ns_group(struct plx_nvmf_subsystem **s, char **word, struct plx_error *err)
{
    return plx_nvmf_subsystem_set_ns_ana_group(*s, number(word[2]), number(word[3]), err);
}

/* What is going on. */

static void printed(void)
{
    begun = false;
    next_lines();
}

static int cmd_controllers(struct plx_nvmf_subsystem **s, char **word, struct plx_error *err)
{
    (void)word;
    (void)err;
    int ret = query_controllers(*s, printed);
    return ret ? ret : LATER;
}

static int cmd_inflight(char **word, struct plx_error *err)
{
    (void)word;
    (void)err;
    int ret = query_inflight(target, printed);
    return ret ? ret : LATER;
}

static int cmd_stats(char **word, struct plx_error *err)
{
    (void)word;
    (void)err;
    int ret = query_stats(target, printed);
    return ret ? ret : LATER;
}

static int cmd_pause(struct plx_nvmf_subsystem **s, char **word, struct plx_error *err)
{
    (void)err;
    if (strcmp(word[0], "pause") == 0)
        plx_nvmf_subsystem_pause(*s, number(word[2]), over, NULL);
    else
        plx_nvmf_subsystem_resume(*s, number(word[2]), over, NULL);
    return LATER;
}

static int cmd_allow(struct plx_nvmf_subsystem **s, char **word, struct plx_error *err)
{
    bool allow = strcmp(word[0], "allow") == 0;
    if (strcmp(word[2], "any") == 0) {
        plx_nvmf_subsystem_allow_any_host(*s, allow);
        return 0;
    }
    return allow ? plx_nvmf_subsystem_allow_host(*s, word[2], err) : plx_nvmf_subsystem_disallow_host(*s, word[2], err);
}

static int cmd_reach(struct plx_nvmf_subsystem **s, char **word, struct plx_error *err)
{
    struct plx_nvmf_listener **l = find_listener(word[2]);
    if (!l)
        return plx_fail(err, -ENOENT, "nothing listens on port %.20s", word[2]);
    return strcmp(word[0], "add-listener") == 0 ? plx_nvmf_subsystem_add_listener(*s, *l, err)
                                                : plx_nvmf_subsystem_remove_listener(*s, *l, err);
}

static int cmd_ana(struct plx_nvmf_subsystem **s, char **word, struct plx_error *err)
{
    static const struct {
        const char *name;
        enum plx_nvmf_ana state;
    } states[] = {{"optimized", PLX_NVMF_ANA_OPTIMIZED},
                  {"non-optimized", PLX_NVMF_ANA_NON_OPTIMIZED},
                  {"inaccessible", PLX_NVMF_ANA_INACCESSIBLE},
                  {"persistent-loss", PLX_NVMF_ANA_PERSISTENT_LOSS},
                  {"change", PLX_NVMF_ANA_CHANGE}};
    struct plx_nvmf_listener **l = find_listener(word[2]);
    if (!l && strcmp(word[2], "all") != 0)
        return plx_fail(err, -ENOENT, "nothing listens on port %.20s", word[2]);
    for (unsigned i = 0; i < sizeof states / sizeof states[0]; i++)
        if (strcmp(states[i].name, word[4]) == 0)
            return plx_nvmf_subsystem_set_ana(*s, l ? *l : NULL, number(word[3]), states[i].state, err);
    return plx_fail(err, -EINVAL, "there is no ANA state %.40s", word[4]);
}

static int cmd_start(char **word, struct plx_error *err)
{
    (void)word;
    if (started)
        return plx_fail(err, -EBUSY, "the target was started already");
    started = true;
    plx_nvmf_target_start(target, over, NULL);
    return LATER;
}

static int cmd_apply(char **word, struct plx_error *err)
{
    (void)word;
    (void)err;
    plx_nvmf_target_apply(target, over, NULL);
    return LATER;
}

static int cmd_quit(char **word, struct plx_error *err)
{
    (void)word;
    (void)err;
    ending = true;
    return LATER;
}

static const struct command {
    const char *name;
    unsigned min, max; /* words, the name included */
    int (*run)(char **word, struct plx_error *err);
    int (*run_on)(struct plx_nvmf_subsystem **s, char **word, struct plx_error *err);
} commands[] = {
    {"open", 3, 3, cmd_open, NULL},                         /* NAME URL */
    {"close", 2, 2, cmd_close, NULL},                       /* NAME */
    {"resize", 3, 3, cmd_resize, NULL},                     /* NAME BYTES */
    {"rescan", 2, 2, cmd_rescan, NULL},                     /* NAME */
    {"delay", 4, 4, cmd_delay, NULL},                       /* NAME WHICH US */
    {"inject", 5, 5, cmd_inject, NULL},                     /* NAME TYPE OPERATION COUNT */
    {"subsystem", 2, 4, cmd_subsystem, NULL},               /* NQN [any-host] [some-listeners] */
    {"listen", 2, 2, cmd_listen, NULL},                     /* ADDR[:PORT]: the port, which is its name from here on */
    {"unlisten", 2, 2, cmd_unlisten, NULL},                 /* PORT */
    {"remove-subsystem", 2, 2, NULL, cmd_remove_subsystem}, /* NQN */
    {"add-ns", 3, 6, NULL, cmd_add_ns},                     /* NQN NAME [NSID [ANA-GROUP [masked|PTPL-FILE]]]: NSID */
    {"remove-ns", 3, 3, NULL, cmd_remove_ns},               /* NQN NSID */
    {"attach", 4, 4, NULL, cmd_attach},                     /* NQN NSID HOSTNQN: of one that is masked */
    {"detach", 4, 4, NULL, cmd_attach},                     /* the same */
    {"ns-group", 4, 4, NULL, cmd_ns_group},                 /* NQN NSID ANA-GROUP */
    {"pause", 3, 3, NULL, cmd_pause},                       /* NQN NSID; 0 is all */
    {"resume", 3, 3, NULL, cmd_pause},                      /* the same */
    {"allow", 3, 3, NULL, cmd_allow},                       /* NQN HOSTNQN|any */
    {"disallow", 3, 3, NULL, cmd_allow},                    /* the same */
    {"add-listener", 3, 3, NULL, cmd_reach},                /* NQN PORT */
    {"remove-listener", 3, 3, NULL, cmd_reach},             /* NQN PORT */
    {"ana", 5, 5, NULL, cmd_ana},                           /* NQN PORT|all ANA-GROUP STATE; group 0 is all */
    {"controllers", 2, 2, NULL, cmd_controllers},           /* NQN: as JSON, as the next two */
    {"inflight", 1, 1, cmd_inflight, NULL},
    {"stats", 1, 1, cmd_stats, NULL},
    {"start", 1, 1, cmd_start, NULL},
    {"apply", 1, 1, cmd_apply, NULL},
    {"quit", 1, 1, cmd_quit, NULL}, /* as the end of the input does */
};

/* ---- the loop ---- */

static int run(char *line, struct plx_error *err)
{
    char *word[WORDS + 1] = {NULL}, *rest;
    unsigned n = 0;
    for (char *w = strtok_r(line, " ", &rest); w && n < WORDS; w = strtok_r(NULL, " ", &rest))
        word[n++] = w;
    for (unsigned i = 0; n && i < sizeof commands / sizeof commands[0]; i++) {
        const struct command *c = &commands[i];
        if (strcmp(c->name, word[0]) != 0)
            continue;
        if (n < c->min || n > c->max)
            return plx_fail(err, -EINVAL, "%s takes %u to %u words", c->name, c->min - 1, c->max - 1);
        if (c->run)
            return c->run(word, err);
        struct plx_nvmf_subsystem **s = find_subsystem(word[1]);
        return s ? c->run_on(s, word, err) : plx_fail(err, -ENOENT, "there is no subsystem %.240s", word[1]);
    }
    return plx_fail(err, -EINVAL, "there is no command %.80s", n ? word[0] : "");
}

static void stopped(void *arg, int ret)
{
    (void)arg;
    if (ret) {
        fprintf(stderr, "target_control: stopping: %s\n", strerror(-ret));
        status = 1;
    }
    for (unsigned i = 0; i < nreactors; i++)
        plx_reactor_stop(reactors[i]);
}

/* Runs the lines that are there, until one of them has begun something that is to be waited for. */
static void next_lines(void)
{
    while (!begun && !ending) {
        char line[sizeof input];
        const char *end = memchr(input, '\n', ninput);
        ending = !end && at_end;
        if (!end)
            break;
        size_t length = (size_t)(end - input);
        memcpy(line, input, length);
        line[length] = 0;
        ninput -= length + 1;
        memmove(input, end + 1, ninput);
        struct plx_error err = {""};
        begun = true;
        int ret = run(line, &err);
        if (ret != LATER)
            answer(ret, &err);
    }
    if (!ending || stopping)
        return;
    stopping = true;
    if (started)
        plx_nvmf_target_stop(target, GRACE_MS, stopped, NULL);
    else
        stopped(NULL, 0);
}

static void input_ready(struct plx_watch *w)
{
    ssize_t n = read(w->fd, input + ninput, sizeof input - ninput);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0) { /* the end, or a line that is too long */
        plx_watch_remove(reactors[0], w);
        at_end = true;
        n = 0;
    }
    ninput += (size_t)n;
    next_lines();
}

static void print_log(void *arg, enum plx_log_level level, const char *line)
{
    static const char *const names[] = {"error", "warning", "info", "debug"};
    (void)arg;
    fprintf(stderr, "%s: %s\n", names[level], line);
}

static void *reactor_thread(void *arg)
{
    plx_reactor_run(arg);
    return NULL;
}

static bool collect(void *arg, struct plx_bdev *bdev)
{
    struct plx_bdev **disks = arg;
    for (unsigned i = 0; i < DISKS; i++)
        if (!disks[i]) {
            disks[i] = bdev;
            return true;
        }
    return false;
}

static int clean_up(void)
{
    struct plx_bdev *disks[DISKS] = {NULL};
    plx_nvmf_target_destroy(target);
    for (unsigned i = 0; i < nreactors; i++)
        plx_reactor_destroy(reactors[i]);
    plx_bdev_each(collect, disks);
    for (unsigned i = 0; i < DISKS && disks[i]; i++) /* of filters that opened what is below them, none is left */
        if (plx_bdev_close(disks[i]))
            status = 1;
    return status;
}

int main(int argc, char **argv)
{
    static struct plx_watch watch = {.fd = STDIN_FILENO, .ready = input_ready};
    const struct plx_reactor_opts opts = {.core = -1, .mode = PLX_POLL_SLEEP};
    pthread_t threads[REACTORS_MAX];
    struct plx_error err = {""};
    unsigned wanted = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 1;
    const struct plx_nvmf_opts topts = {.control_apart = argc > 2 && strcmp(argv[2], "apart") == 0};
    if (argc > 2 + topts.control_apart || wanted < 1 || wanted > REACTORS_MAX) {
        fprintf(stderr, "usage: target_control [REACTORS [apart]], of which there are 1 to %d\n", REACTORS_MAX);
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    setvbuf(stdout, NULL, _IOLBF, 0);
    plx_log_set(print_log, NULL, PLX_LOG_INFO);
    for (; nreactors < wanted; nreactors++)
        if (plx_reactor_create(&reactors[nreactors], &opts))
            return 1;
    if (plx_nvmf_target_create(&target, reactors, nreactors, &topts, &err)) {
        fprintf(stderr, "target_control: %s\n", err.text);
        return 1;
    }
    fcntl(STDIN_FILENO, F_SETFL, O_NONBLOCK);
    if (plx_watch_add(reactors[0], &watch))
        return 1;
    for (unsigned i = 1; i < nreactors; i++)
        if (pthread_create(&threads[i], NULL, reactor_thread, reactors[i]))
            return 1;
    plx_reactor_run(reactors[0]);
    for (unsigned i = 1; i < nreactors; i++)
        pthread_join(threads[i], NULL);
    return status ? status : clean_up();
}
