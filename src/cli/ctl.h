/* SPDX-License-Identifier: BSD-3-Clause */
/* `pollux ctl`: a client of the control server. What can be called, and with what, is read from plx_rpc_describe(). */
#ifndef PLX_CLI_CTL_H
#define PLX_CLI_CTL_H

#include "cli.h"

#include <jansson.h>
#include <stdio.h>

#define CTL_SOCKET "/var/tmp/pollux.sock"

struct ctl {
    const char *socket;
    uint32_t timeout; /* seconds without an answer; 0: for ever */
    bool json;
    const char *nqn, *name, *listen; /* --nqn, --name, --listen, or NULL */
    uint32_t nsid;                   /* --nsid, or 0 */
    json_t *methods;                 /* the table, as plx_rpc_describe() has it */
    int fd;                          /* -1: not connected */
    int64_t id;                      /* of the last request */
    bool quiet;                      /* what is wrong with the connection is not said, but kept: */
    char *why;
};

/* ---- ctl_client.c ---- */

/*
 * Makes a call; connects first when that was not done. params is taken over, and NULL for none. The result is the
 * caller's; result may be NULL.
 * @return EXIT_OK; or EXIT_RUNTIME, or EXIT_USAGE for a socket that cannot be one, after having said what is wrong
 */
int ctl_call(struct ctl *c, const char *method, json_t *params, json_t **result);
/*
 * The same, but that an error of the server is not said: *error is its message, to be freed; or NULL. When c is quiet,
 * it is what is wrong with the connection otherwise.
 */
int ctl_try(struct ctl *c, const char *method, json_t *params, json_t **result, char **error);
/* The server's process, or 0 when it is not known. */
long ctl_server_pid(const struct ctl *c);
void ctl_close(struct ctl *c);

/* ---- ctl_params.c: the table, and key=value ---- */

/* A method by its name or its older one. NULL when there is none. */
const json_t *ctl_find_method(const struct ctl *c, const char *name);
/* Says that there is no such method, and which is the nearest. @return EXIT_USAGE */
int ctl_no_method(const struct ctl *c, const char *name);
/* @return parameters made of key=value words; or NULL after having said what is wrong */
json_t *ctl_params(const json_t *method, char *const *words, int n);

/* ---- ctl_help.c ---- */

void ctl_usage(void);
/* `pollux ctl help ...`, with what was asked for: --names, --keys, --markdown */
struct ctl_help_wanted {
    bool names, keys, markdown;
};
int ctl_help(const struct ctl *c, const struct ctl_help_wanted *w, char *const *words, int n);

/* ---- ctl_print.c ---- */

/* A result as it is for people, or as JSON. */
void ctl_print_result(const struct ctl *c, const json_t *result);
void ctl_print_json(const json_t *v);
/*
 * Rows of texts (arrays of strings) under their heads, aligned: align has an 'l' or an 'r' for each column. Takes rows
 * over.
 */
void ctl_print_table(const char *const *heads, const char *align, json_t *rows);
/* "64 MiB". */
void ctl_size(double bytes, char *out, size_t size);
/* A text for a table. What is none is "-". */
json_t *ctl_text(const char *text);
json_t *ctl_textf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Members; "" or 0 when they are not there. */
const char *ctl_str(const json_t *o, const char *name);
json_int_t ctl_int(const json_t *o, const char *name);

/* ---- verbs ---- */

enum ctl_option {
    CTL_NQN = 1,
    CTL_NAME = 2,
    CTL_NSID = 4,
    CTL_LISTEN = 8,
};

struct ctl_verb {
    const char *name, *args, *help;
    int min, max;     /* words after it */
    unsigned options; /* enum ctl_option */
    int (*run)(struct ctl *c, char *const *words, int n);
};

/* Ended by one without a name. */
extern const struct ctl_verb ctl_verbs[];
const struct ctl_verb *ctl_find_verb(const char *name);

/* ctl_show.c */
int ctl_status(struct ctl *c, char *const *words, int n);
int ctl_list(struct ctl *c, char *const *words, int n);
int ctl_connections(struct ctl *c, char *const *words, int n);
int ctl_inflight(struct ctl *c, char *const *words, int n);
int ctl_stats(struct ctl *c, char *const *words, int n);
/* All disks there are, and all subsystems. @return EXIT_OK, or EXIT_RUNTIME after having said what is wrong */
int ctl_look(struct ctl *c, json_t **disks, json_t **subsystems);
/* Whether it is one with namespaces. */
bool ctl_is_nvm(const json_t *subsystem);

/* ctl_vms.c */
int ctl_vms(struct ctl *c, char *const *words, int n);

/* ctl_nvme.c */
int ctl_smart(struct ctl *c, char *const *words, int n);
int ctl_identify(struct ctl *c, char *const *words, int n);

/* ctl_change.c */
int ctl_create(struct ctl *c, char *const *words, int n);
int ctl_listen(struct ctl *c, char *const *words, int n);
int ctl_add(struct ctl *c, char *const *words, int n);
int ctl_remove(struct ctl *c, char *const *words, int n);
int ctl_resize(struct ctl *c, char *const *words, int n);
int ctl_allow(struct ctl *c, char *const *words, int n);
int ctl_deny(struct ctl *c, char *const *words, int n);

/* ctl_config.c */
int ctl_save(struct ctl *c, char *const *words, int n);
int ctl_load(struct ctl *c, char *const *words, int n);
/* JSON of a file, which may have comments; "-" is standard input. @return NULL after having said what is wrong */
json_t *ctl_read_json(const char *path);

/* ctl_import.c */
int ctl_import(struct ctl *c, char *const *words, int n);

#endif
