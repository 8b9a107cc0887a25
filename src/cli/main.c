/* SPDX-License-Identifier: BSD-3-Clause */
#include "cli.h"

#include "tune/advice.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>

static const struct cli_command *const commands[] = {&cli_serve,    &cli_ctl,      &cli_perf,  &cli_cp,
                                                     &cli_identify, &cli_discover, &cli_nvme,  &cli_tune,
                                                     &cli_compare,  &cli_pool,     &cli_volume};
enum { COMMANDS = sizeof commands / sizeof commands[0] };

char *cli_clean(char *text)
{
    for (size_t n, at = 0; text[at]; at += n) {
        n = plx_text_printable(text + at);
        if (!n)
            text[at] = '?';
        n += !n;
    }
    return text;
}

int cli_fail(int status, const char *fmt, ...)
{
    char *text;
    va_list ap;
    va_start(ap, fmt);
    int len = vasprintf(&text, fmt, ap);
    va_end(ap);
    if (len < 0)
        return status;
    cli_say("pollux: %s\n", cli_clean(text));
    free(text);
    return status;
}

int cli_disk_status(int ret)
{
    static const int usage[] = {EINVAL, ENAMETOOLONG, ENOENT,  ENOTDIR, EISDIR, ELOOP,  EACCES,    EPERM,
                                EROFS,  EBUSY,        ENOTBLK, ENODEV,  ENXIO,  ERANGE, EOPNOTSUPP};
    for (size_t i = 0; i < sizeof usage / sizeof usage[0]; i++)
        if (ret == -usage[i])
            return EXIT_USAGE;
    return EXIT_RUNTIME;
}

const char *cli_unit(double *bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    unsigned u = 0;
    for (; *bytes >= 1024 && u < 5; u++)
        *bytes /= 1024;
    return units[u];
}

int cli_check_memory(struct plx_bdev *const *disks, unsigned n)
{
    struct sysinfo si;
    uint64_t wanted = 0;
    for (unsigned i = 0; i < n; i++) {
        const struct plx_bdev *bdev = disks[i];
        while (plx_bdev_below(bdev))
            bdev = plx_bdev_below(bdev);
        const struct plx_bdev_info *info = plx_bdev_info(bdev);
        if (strcmp(info->driver, "ram") == 0)
            wanted += info->blocks * info->block_size;
    }
    if (sysinfo(&si) < 0)
        return EXIT_OK;
    uint64_t memory = ((uint64_t)si.totalram + si.totalswap) * si.mem_unit;
    if (wanted <= memory)
        return EXIT_OK;
    return cli_fail(EXIT_USAGE,
                    "the RAM disks have %.1f GiB together, more than the %.1f GiB of memory of this machine",
                    (double)wanted / (1 << 30), (double)memory / (1 << 30));
}

static const struct cli_command *find_command(const char *name)
{
    for (int i = 0; i < COMMANDS; i++)
        if (strcmp(commands[i]->name, name) == 0)
            return commands[i];
    return NULL;
}

static void usage(void)
{
    printf("pollux %s: disks over NVMe/TCP, from user space\n\n"
           "  pollux COMMAND [ARGUMENT]...\n\n",
           plx_version());
    for (int i = 0; i < COMMANDS; i++)
        printf("  %-10s %s\n", commands[i]->name, commands[i]->summary);
    printf("  %-10s %s\n", "help", "explain a command: pollux help COMMAND");
    printf("\n  pollux --version\n  pollux version --cpu\n");
}

/* The words after "help". */
static int help(int argc, char **argv)
{
    const struct cli_command *c = argc ? find_command(argv[0]) : NULL;
    if (argc > 1)
        return cli_fail(EXIT_USAGE, "help takes one command: \"%s\" is a word too many", argv[1]);
    if (!argc || strcmp(argv[0], "help") == 0)
        usage();
    else if (c)
        c->help();
    else
        return cli_fail(EXIT_USAGE, "there is no command \"%s\"; \"pollux help\" lists those there are", argv[0]);
    return EXIT_OK;
}

/* The words after "version". */
static int version(int argc, char **argv)
{
    struct tune_way ways[TUNE_WAYS];
    const bool cpu = argc && strcmp(argv[0], "--cpu") == 0;
    if (argc > cpu)
        return cli_fail(EXIT_USAGE, "version takes --cpu and nothing else: \"%s\" is a word too many", argv[cpu]);
    if (!cpu)
        printf("pollux %s\n", plx_version());
    for (unsigned i = 0, n = cpu ? tune_ways(ways) : 0; i < n; i++)
        printf("%-10s %s\n", ways[i].what, ways[i].how);
    return EXIT_OK;
}

static int run_command(int argc, char **argv)
{
    if (argc < 2) {
        usage();
        return EXIT_USAGE;
    }
    if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "version") == 0)
        return version(argc - 2, argv + 2);
    if (strcmp(argv[1], "help") == 0 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)
        return help(argc - 2, argv + 2);
    const struct cli_command *c = find_command(argv[1]);
    if (!c)
        return cli_fail(EXIT_USAGE, "there is no command \"%s\"; \"pollux help\" lists those there are", argv[1]);
    return c->run(argc - 1, argv + 1);
}

/*
 * Memory that a front-end shares and has made shorter, or registers of an SSD that was pulled out: whose it was copes.
 * Any other fault ends us, as always.
 */
static void fault(int number, siginfo_t *info, void *context)
{
    (void)context;
    if (!plx_memory_fault(info->si_addr))
        signal(number, SIG_DFL);
}

static void open_faults(void)
{
    struct sigaction act = {.sa_flags = SA_SIGINFO};
    act.sa_sigaction = fault;
    sigemptyset(&act.sa_mask);
    sigaction(SIGBUS, &act, NULL);
}

int main(int argc, char **argv)
{
    open_faults();
    setvbuf(stdout, NULL, _IOLBF, 0); /* whoever waits for a line gets it, pipe or not */
    signal(SIGXFSZ, SIG_IGN);         /* a write beyond a limit of file sizes fails, and that is all */
    int status = run_command(argc, argv);
    bool server = argc > 1 && strcmp(argv[1], cli_serve.name) == 0; /* does not run for the sake of what it prints */
    if (!status && !server && (fflush(stdout) || ferror(stdout)))
        status = cli_fail(EXIT_RUNTIME, "standard output could not be written");
    plx_log_set(NULL, NULL, PLX_LOG_ERROR); /* which has counts told that are not yet */
    cli_log_stop();
    return status;
}
