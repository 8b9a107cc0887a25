/* SPDX-License-Identifier: BSD-3-Clause */
/* The `pollux` command: one file a subcommand, on nothing but the library's public API. */
#ifndef PLX_CLI_CLI_H
#define PLX_CLI_CLI_H

#include <getopt.h>
#include <limits.h>
#include <netinet/in.h>
#include <pollux/pollux.h>

/* Exit status of every subcommand. */
enum {
    EXIT_OK = 0,
    EXIT_RUNTIME = 1, /* it could not be done */
    EXIT_USAGE = 2,   /* what was asked for is wrong */
};

/* Prints "pollux: ..." to standard error and returns status. */
int cli_fail(int status, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* What came from elsewhere must not steer a terminal: what is not printable becomes '?', in place. @return text */
char *cli_clean(char *text);

/*
 * log.c: text for standard error. After cli_log_start(), which is called when reactors begin to run, it is queued and
 * never waited for, from any thread; what the queue has no room for is dropped, and told afterwards. cli_log_stop()
 * gives the queue a second to become empty.
 * @return EXIT_OK, or EXIT_RUNTIME after having said why not
 */
int cli_log_start(void);
void cli_log_stop(void);
void cli_say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* For plx_log_set(). */
void cli_log(void *arg, enum plx_log_level level, const char *line);

struct cli_command {
    const char *name;
    const char *summary;
    int (*run)(int argc, char **argv); /* argv[0] is the command's name */
    void (*help)(void);
};

extern const struct cli_command cli_serve, cli_ctl, cli_perf, cli_identify, cli_discover, cli_cp, cli_nvme, cli_tune;
extern const struct cli_command cli_pool, cli_volume, cli_compare;

/* ---- options.c ---- */

enum { CLI_WRONG = -2 };

/* How a subcommand's options are read. */
struct cli_options {
    const char *command; /* its name */
    const char *letters; /* short options, as for getopt_long(); begins with ':' or "-:" */
    const struct option *table;
    const int *several; /* those of its values that may be given several times, ended by 0; or NULL */
    uint64_t seen;      /* by place in the table */
};

/*
 * The next option, as getopt_long() returns it: -1 at their end. @return CLI_WRONG after having said what is wrong:
 * there is no such option, it lacks its value or takes none, or it is given a second value
 */
int cli_next_option(struct cli_options *o, int argc, char **argv);

/*
 * An option's value; unit is "a number", "seconds", ... @return EXIT_OK, or EXIT_USAGE after having said what is wrong
 */
int cli_parse_number(const char *option, const char *text, const char *unit, uint64_t min, uint64_t max, uint64_t *out);
int cli_parse_u32(const char *option, const char *text, const char *unit, uint32_t min, uint32_t max, uint32_t *out);
/* A power of two, or else a multiple of 512; range is "4K to 4M". */
int cli_parse_size(const char *option, const char *text, const char *range, uint32_t min, uint32_t max, bool power,
                   uint32_t *out);

/* ---- */

/*
 * The exit status when a disk or a controller cannot be opened: what is wrong with it is an error of usage; that nobody
 * answers is not.
 */
int cli_disk_status(int ret);

/* For people: makes a number of bytes one of the units that it returns, "B", "KiB", ... */
const char *cli_unit(double *bytes);

/*
 * Whether the machine has the memory for all RAM disks together. @return EXIT_OK, or EXIT_USAGE after having said that
 * it has not
 */
int cli_check_memory(struct plx_bdev *const *disks, unsigned n);

/*
 * cores.c: which cores to run on. Checks those that --cores named; with none (*n is 0), takes the one that we run on
 * now: the scheduler put us there because it had the least to do, inside our cpuset, and several instances end up on
 * different ones.
 * `placed`: what cli_parse_cores() has set. At most max.
 * @return EXIT_OK, or EXIT_USAGE after having said what is wrong
 */
int cli_choose_cores(int *cores, int *n, int placed, int max);

/*
 * For a thread that is not to be in the way of those on these cores: it, and what threads it starts, keep to the others
 * that it may run on, where there are some.
 */
void cli_stay_off_cores(const int *cores, int n);

enum { CLI_PLACE_ALL = -1 };
/*
 * "0-3,8", 0x5, "auto" or "auto:4". The latter two are chosen later: *placed is the number of cores, or CLI_PLACE_ALL;
 * else 0.
 */
int cli_parse_cores(const char *text, int max, int *cores, int *n, int *placed);
/* Chooses them, of a machine whose files are below root: see tune_place(). */
int cli_place_cores(const char *root, int placed, int max, int *cores, int *n);

/*
 * identify.c: text from the wire, `size` bytes or up to a zero, for a terminal that it must not steer: what is not
 * printable ASCII becomes '?', spaces at the end are left out. out has room for size + 1.
 */
void cli_text(const void *wire, size_t size, char *out);

/* For JSON: numbers that its integers have no room for, from 2^63 on, are text. */
struct json_t *cli_json_number(uint64_t v);
/* A little-endian number of up to 16 bytes, in decimal. */
void cli_decimal(const void *wire, unsigned size, char out[40]);

/* What is known of a controller before it is asked what it is. */
struct cli_identified {
    const char *address;
    uint64_t cap;
    uint32_t nsid; /* the one namespace that is asked for, or 0 */
    bool json;     /* how it is shown */
};
/* Identify. @return EXIT_OK; or another, after having said what is wrong, unless quiet */
typedef int cli_identify_fn(void *arg, uint8_t cns, uint8_t csi, uint32_t nsid, void *data, bool quiet);
/* Shows what a controller says of itself; asks it by that. @return EXIT_OK, or what that has returned */
int cli_identify_by(const struct cli_identified *about, cli_identify_fn *ask, void *arg);

/* ---- disk_name.c ---- */

enum {
    CLI_DISK_NAME = 128,
    CLI_URL = 4 * PATH_MAX, /* every byte of a path may be written as %XX, and then there are settings */
};

/*
 * A disk's name for a call: a file's path begins with a slash, and JSON takes all of it. *file is the path, or "".
 * @return EXIT_OK, or EXIT_USAGE after having said what is wrong
 */
int cli_disk_url(const char *disk, char url[CLI_URL], char file[PATH_MAX]);
/* A short name for it: that of its file, or of its kind, with a number where it is taken. */
void cli_disk_name(const char *disk, const char *file, char name[CLI_DISK_NAME],
                   bool (*taken)(void *arg, const char *name), void *arg);

/* --poll. @return EXIT_OK, or EXIT_USAGE after having said what is wrong */
int cli_parse_poll(const char *text, enum plx_poll_mode *mode);

/* ---- serve ---- */

enum {
    SERVE_PORT = 4420,
    SERVE_MAX_DISKS = 256,
    SERVE_MAX_SUBSYSTEMS = 64,
    SERVE_MAX_LISTENERS = 32,
    SERVE_MAX_HOSTS = 256,
    SERVE_MAX_CORES = 128,
};

/* What was asked for on the command line; texts are those of argv. */
struct serve_options {
    struct {
        const char *url;
        unsigned subsystem;
    } disks[SERVE_MAX_DISKS];
    unsigned ndisks;
    const char *nqns[SERVE_MAX_SUBSYSTEMS]; /* [0] may be NULL: one is made */
    unsigned nsubsystems;
    struct {
        const char *text; /* ADDR[:PORT] */
        struct sockaddr_storage addr;
    } listeners[SERVE_MAX_LISTENERS];
    unsigned nlisteners;
    const char *hosts[SERVE_MAX_HOSTS];
    unsigned nhosts;
    bool allow_any_host;
    int cores[SERVE_MAX_CORES];
    int ncores; /* 0: one, chosen by us */
    int placed; /* see cli_parse_cores() */
    enum plx_poll_mode poll;
    uint32_t nic_us; /* as struct plx_reactor_opts has it */
    const char *serial;
    const char *rpc, *config, *state;
    const char *vhost; /* directory of sockets */
    const char *group; /* theirs, or NULL; */
    gid_t gid;         /* its number */
    bool wait;
    enum plx_log_level log_level;
    bool quiet;
    bool help, example;
    struct plx_nvmf_opts nvmf;
};

/* @return EXIT_OK, or EXIT_USAGE after having said what is wrong */
int serve_parse(int argc, char **argv, struct serve_options *o);
void serve_help(void);
/* Whether it is controlled by calls. */
bool serve_controlled(const struct serve_options *o);

/* ---- serve_vhost.c ---- */

/* --socket-group. @return EXIT_OK, or EXIT_USAGE after having said what is wrong */
int serve_parse_group(const char *text, struct serve_options *o);
/* Whether sockets can be made as they are to be; the same. */
int serve_check_vhost(const struct serve_options *o);

/* ---- serve_example.c ---- */

/* Prints how QEMU gets to a socket, which is number i of ours. */
void serve_print_qemu(const char *path, unsigned i);
/* Prints what to type for a virtual machine; the command line is the one that the options are from. */
int serve_example(const struct serve_options *o, int argc, char **argv);

#endif
