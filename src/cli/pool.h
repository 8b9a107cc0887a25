/* SPDX-License-Identifier: BSD-3-Clause */
/* What `pollux pool` and `pollux volume` have in common: a pool on a disk that nobody else has open. */
#ifndef PLX_CLI_POOL_H
#define PLX_CLI_POOL_H

#include "ctl.h"

enum { POOL_TEXT = 256, POOL_COUNT = 64 };

/* What was asked for. Words are those of argv. */
struct pool_command {
    char **words; /* the first one is the disk */
    unsigned nwords;
    bool json, yes, thick, checksum, data, help;
    const char *name; /* --name */
    const char *base; /* --base */
    uint64_t offset;  /* --offset */
    bool offset_given;
    const char *cluster;
};

/* A verb of either command. */
struct pool_verb {
    const char *name;
    const char *takes;   /* after "pollux pool create" */
    unsigned min, max;   /* words */
    const char *options; /* a letter for each option that it takes beside --json: y, n, c, k, t, b, o, d */
    const char *method;  /* what a server is asked by for the same; or NULL */
    int (*run)(const struct pool_command *o, const struct pool_verb *v);
    const char *why; /* "it is repaired", when nobody has the disk; NULL: a server does it, too */
    bool spares;     /* and the pool is there after it */
};

/* Reads a command line, and does it. verbs are ended by one without a name. @return the exit status */
int pool_run(int argc, char **argv, const struct pool_verb *verbs, void (*help)(void));

/* A disk, and its pool, as long as a command takes. */
struct pool_at {
    const char *name; /* of the disk, as it was typed */
    struct plx_bdev *disk;
    struct plx_pool *pool; /* or NULL */

    /* A server has it, and is asked. */
    bool is_served;
    struct ctl server;
    char socket[PATH_MAX], uuid[40];
    char lvstore[2 * PLX_POOL_NAME]; /* as which it is known there, or "" */
    uint32_t unit;                   /* of the pool */
    struct pool_seen *seen;          /* of it, since it was last changed from here; or NULL */
};

/* ---- pool_served.c: what is done to a pool that is open here, or in a server ---- */

/*
 * busy is why the disk cannot be opened. @return 1: there is a server that has its pool, and answers; 0: there is none;
 * -1: it answers what cannot be, which has been said
 */
int pool_served(struct pool_at *at, const char *disk, const char *busy);
/* As the library's calls do. @return EXIT_OK, or another after having said why a server has not answered */
int pool_info(struct pool_at *at, struct plx_pool_info *out);
int pool_each(struct pool_at *at, bool (*fn)(void *arg, const struct plx_volume_info *info), void *arg);
/* What the server says of an error is in op->err, d->err. */
int pool_do(struct pool_at *at, struct plx_pool_op *op);
int pool_diff(struct pool_at *at, struct plx_pool_diff *d);
/* Of a server. @return EXIT_OK, or another after having said what is wrong */
int pool_read(struct pool_at *at, const uint8_t volume[16], uint64_t offset, uint64_t length, uint8_t *mem);
/* mem: NULL for zeroes; length 0: what was written is durable then. */
int pool_write(struct pool_at *at, const uint8_t volume[16], uint64_t offset, uint64_t length, const uint8_t *mem);
/* Of a server, too. data: all data is compared with its checksums. */
int pool_served_check(struct pool_at *at, bool data, struct plx_pool_check *c);
void pool_served_end(struct pool_at *at);

/* @return EXIT_OK, or another after having said what is wrong */
int pool_open_disk(struct pool_at *at, const char *disk, const struct pool_verb *v);
/* The same, or a server that has its pool. */
int pool_open_served(struct pool_at *at, const char *disk, const struct pool_verb *v);
/* The same, and its pool. */
int pool_open_pool(struct pool_at *at, const char *disk, const struct pool_verb *v);
/* Puts back what there is. @return status, or EXIT_RUNTIME after having said that the end was not written */
int pool_put(struct pool_at *at, int status);

/* The exit status of an error of the library's. */
int pool_status(int ret);

/*
 * Asks whether what the text says is to be lost: on a terminal, unless --yes has answered already. @return EXIT_OK, or
 * another after having said that nothing was done
 */
int pool_ask(const struct pool_command *o, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* How many volumes and snapshots there are: "2 volumes and a snapshot". */
struct pool_count {
    unsigned volumes, snapshots;
};
/* @return EXIT_OK, or another after having said why they are not known */
int pool_count(struct pool_at *at, struct pool_count *out);
void pool_count_text(const struct pool_count *n, char text[POOL_COUNT]);

/* Names the pool on a disk, though it may be damaged. @return 1; 0 when there is none, or -errno, with err filled */
int pool_on(struct plx_bdev *disk, char text[POOL_TEXT], struct plx_error *err);
/* Names whatever is on it. @return 1; 0 for nothing; -errno with err filled */
int pool_content(struct plx_bdev *disk, char text[POOL_TEXT], struct plx_error *err);

/* pool_check.c */
int pool_check(const struct pool_command *o, const struct pool_verb *v);
int pool_repair(const struct pool_command *o, const struct pool_verb *v);
int pool_dump(const struct pool_command *o, const struct pool_verb *v);

/* The volume of a name or UUID. @return EXIT_OK, or another after having said that there is none */
int pool_find_volume(struct pool_at *at, const char *name, struct plx_volume_info *info);
int pool_show_volume(const struct pool_command *o, struct pool_at *at, const char *name);

/* ---- progress.c ---- */

struct pool_progress {
    const char *what;
    bool bytes; /* what is done is counted in them, and its rate is shown */
    bool quiet;
    bool drawn;
    uint64_t drawn_ns;
};

/* ns: since it began. On a terminal, and now and then only. */
void pool_progress(struct pool_progress *p, uint64_t done, uint64_t total, uint64_t ns);
/* Makes room for something else. */
void pool_progress_clear(struct pool_progress *p);

/* volume_diff.c, volume_export.c, volume_import.c */
int volume_export(const struct pool_command *o, const struct pool_verb *v);
int volume_import(const struct pool_command *o, const struct pool_verb *v);
int volume_diff(const struct pool_command *o, const struct pool_verb *v);

/* For people, and as JSON; text that did not come from us cannot do harm in either. */
void pool_uuid(const uint8_t uuid[16], char text[40]);
json_t *pool_json_text(const char *text);

#endif
