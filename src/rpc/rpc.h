/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The control server's inside. Bytes from clients are cut into values (frame.c), which are requests (request.c) or
 * batches of them; each is a call of a method, which one table describes. What a table says of the parameters is
 * checked before the method sees them (params.c). A method answers by rpc_ok() or rpc_fail(), now or later.
 *
 * Order. A client's calls are begun one after the other: the next when the one before it is through, or has said that
 * it takes long (rpc_takes_long()). Changes of all clients stand in one line besides, so that what fails is the fault
 * of the one that is told so, and a dump is never taken in the middle of one.
 */
#ifndef PLX_RPC_RPC_H
#define PLX_RPC_RPC_H

#include <pollux/rpc.h>

#include "base/hash.h"
#include "base/list.h"
#include "net/stream.h"
#include "reactor/aio.h"

#include <jansson.h>

enum {
    RPC_PARSE_ERROR = -32700,
    RPC_INVALID_REQUEST = -32600,
    RPC_METHOD_NOT_FOUND = -32601,
    RPC_INVALID_PARAMS = -32602,
    RPC_INTERNAL = -32603,
    RPC_WRONG_STATE = -1,
};

enum {
    RPC_REQUEST_BYTES = 1 << 20, /* of a request, or a batch, at most */
    RPC_DEPTH = 64,              /* brackets within brackets */
    RPC_ANSWER_BYTES = 1 << 20,  /* while so much waits to be read by a client, nothing of it is begun */
    RPC_CALLS = 1024,            /* of a client, begun and not answered */
    RPC_BATCH_BYTES = 32 << 20,  /* of the answers to a batch; results beyond it are left out */
    RPC_CLIENTS = 256,
    RPC_NAME = 256,
    RPC_STOP_MS = 1000, /* for calls that were begun */
    RPC_DROP_MS = 2500, /* for requests of virtual machines to a disk that is deleted, and the flush after them */
};

/* ---- methods ---- */

enum rpc_type {
    RPC_BOOL,
    RPC_UINT,
    RPC_INT,
    RPC_STRING,
    RPC_UUID,
    RPC_ENUM,    /* one of `values` */
    RPC_FLAGS,   /* an array of those */
    RPC_STRINGS, /* an array of strings */
    RPC_UINTS,   /* an array of numbers */
    RPC_OBJECT,  /* `members` */
    RPC_OBJECTS, /* an array of such objects: `min` to `max` */
    RPC_MAP,     /* an object whose members have any names, and are strings; null is an empty one */
};

struct rpc_param {
    const char *name;
    enum rpc_type type;
    uint8_t bits; /* of a number: 8, 16, 32; 0 for 64. What does not fit is of another type. */
    bool required;
    bool inert;        /* it is taken, and kept, and means nothing here */
    uint64_t min, max; /* of a number, or of the bytes of a string; max 0: what fits */
    const char *values;
    const char *init; /* what it is when it is not given, as JSON; NULL: nothing */
    const struct rpc_param *members;
    const char *help;
};

struct rpc_call;

struct rpc_method {
    const char *name;
    const char *alias; /* an older name, or NULL */
    const char *help;
    const struct rpc_param *params; /* NULL, or up to one without a name */
    enum {
        RPC_READS,
        RPC_DUMPS,   /* reads what changes change, and stands in line for that */
        RPC_CHANGES, /* stands in line, and its effect is kept */
        RPC_OPTIONS, /* the same; its parameters are kept for dumps, which is all that is done where run is NULL */
    } kind;
    bool startup;      /* may be called before the initialisation */
    bool startup_only; /* and not after it */
    int bad;           /* what a value out of its limits is answered by; 0 for -EINVAL */
    const char *group; /* that dumps show it in */
    void (*run)(struct rpc_call *c);
};

/* Each is ended by one without a name. */
extern const struct rpc_method rpc_methods_app[], rpc_methods_bdev[], rpc_methods_filter[], rpc_methods_nvme[],
    rpc_methods_options[], rpc_methods_nvmf[], rpc_methods_access[], rpc_methods_query[], rpc_methods_limit[],
    rpc_methods_keyring[], rpc_methods_vhost[], rpc_methods_vhost_scsi[], rpc_methods_lvol[], rpc_methods_lvol_group[],
    rpc_methods_lvol_family[], rpc_methods_pool[], rpc_methods_lvol_copy[], rpc_methods_lvol_xattr[];

const struct rpc_method *rpc_method_find(const char *name);
/* Calls fn for each. */
void rpc_methods_each(void (*fn)(void *arg, const struct rpc_method *m), void *arg);

/* ---- calls ---- */

struct rpc_client;

/* Bytes for a client. */
struct rpc_text {
    struct rpc_text *next;
    size_t len, room;
    char text[];
};

/* A batch, until all of it is answered. Answers are kept as text, which takes a tenth of what values take. */
struct rpc_batch {
    struct rpc_client *client; /* or NULL: it has gone */
    json_t *requests;
    struct rpc_text *answers;
    size_t next;   /* request to begin */
    unsigned open; /* calls */
    bool short_of_memory;
};

struct rpc_call {
    struct plx_list link; /* in rpc->lane, or rpc->unsaved */
    struct plx_list all;  /* in rpc->calls */
    struct plx_rpc *rpc;
    struct rpc_client *client; /* or NULL: it has gone, or is the process itself */
    struct rpc_batch *batch;   /* or NULL */
    const struct rpc_method *method;
    json_t *id; /* NULL: a notification */
    json_t *params;
    bool through;  /* its client's next one may begin */
    bool in_lane;  /* it is the change under way */
    bool tried;    /* it has begun to change something, and may leave some of it behind when it fails */
    uint64_t kept; /* the change that it is, once it is done */
    json_t *result;
    int code; /* of an error, with its text */
    struct plx_error error;
    void (*undo)(struct rpc_call *c); /* what it had prepared, when an apply fails */
    void *prepared;                   /* undo's */
    void (*done)(struct rpc_call *c); /* the process's own calls */
    void *arg;
    void *state; /* the method's: freed with the call */
};

/* Answers, once. result is taken over; NULL stands for true. */
void rpc_ok(struct rpc_call *c, json_t *result);
void rpc_fail(struct rpc_call *c, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* A negative errno value, in the words that clients look for, and then what err says. */
void rpc_fail_errno(struct rpc_call *c, int ret, const struct plx_error *err);
/* "Invalid parameters: ..." */
void rpc_fail_params(struct rpc_call *c, const struct plx_error *err);
/* Its client has gone, and it is none of our own. */
static inline bool rpc_nobody_waits(const struct rpc_call *c)
{
    return !c->client && !c->done;
}

/* It waits for something outside: others need not wait for it. */
void rpc_takes_long(struct rpc_call *c);

/* Parameters, of which the table says that they are there, or what they are otherwise. */
json_t *rpc_param(const struct rpc_call *c, const char *name); /* borrowed; NULL when it is not there */
const char *rpc_str(const struct rpc_call *c, const char *name);
uint64_t rpc_uint(const struct rpc_call *c, const char *name);
bool rpc_bool(const struct rpc_call *c, const char *name);
/* Of an object within. */
const char *rpc_str_in(const json_t *o, const char *name);
uint64_t rpc_uint_in(const json_t *o, const char *name);
bool rpc_bool_in(const json_t *o, const char *name);

/* ---- params.c ---- */

/*
 * Checks parameters by a table. @return new ones, complete and in the table's order; or NULL with *code and err filled
 */
json_t *rpc_params_check(const struct rpc_method *m, const json_t *given, int *code, struct plx_error *err);
json_t *rpc_describe_method(const struct rpc_method *m);

/* ---- frame.c: where a value ends ---- */

struct rpc_scan {
    unsigned depth;
    bool string, escape;
};

/*
 * Looks at the next bytes of a value. @return how many of them belong to it, when it ends there; 0 when it does not;
 * -EBADMSG when it is nothing that a request begins with, -E2BIG when it is nested too deep
 */
ssize_t rpc_scan(struct rpc_scan *s, const char *bytes, size_t n);

/* ---- the server ---- */

/* A disk that was made by a call. */
struct rpc_disk {
    struct plx_list link; /* in rpc->disks, in the order in which they were made */
    char name[RPC_NAME];
    struct plx_bdev *bdev;
    struct plx_hash_link by_bdev;    /* in rpc->by_bdev */
    const struct rpc_method *method; /* that makes it again, or NULL: it comes with its controller; */
    json_t *params;                  /* with these */
    const struct rpc_disk_kind *kind;
    bool closing;
    bool fresh;        /* it was not looked at for a pool yet */
    uint32_t burst_ms; /* of its limits */
    char *text;        /* of the call, in dumps; NULL: to be made */
};

/* Its parameters have changed. */
void rpc_disk_changed(struct rpc_disk *d);

/* A kind of disk: what is different between the methods that make one, delete it, and tell what it is. */
struct rpc_disk_kind {
    const char *product;
    /* Its driver_specific; NULL: nothing. */
    json_t *(*describe)(const struct rpc_disk *d);
};

/* An address that subsystems are reachable at. */
struct rpc_listener {
    struct plx_list link;
    struct plx_nvmf_listener *l;
    char traddr[64], trsvcid[8], adrfam[8];
    bool discovery; /* it was asked for to be one of the discovery subsystem */
};

/* What is kept in a file: see state.c. */
struct rpc_state {
    struct plx_aio io;
    struct plx_msg due;
    bool on, is_due, saving;
    uint64_t changes, saving_to, saved; /* counts of changes */
    struct rpc_text *text;
};

struct plx_rpc {
    struct plx_rpc_opts o;
    struct plx_reactor *reactor;
    struct plx_listener listener;
    struct plx_stream_group *group;
    struct plx_list clients, ready; /* with something to begin */
    unsigned nclients;
    struct plx_list lane;    /* changes that wait for their turn, of which the first is under way */
    struct plx_list unsaved; /* that are done, and not kept yet */
    struct plx_list calls;   /* all that are not answered */
    struct plx_msg turn;
    bool turning, started, stopping;
    void (*stopped)(void *arg, int ret);
    void *stopped_arg;
    struct plx_timer stop_limit;
    struct plx_msg kill; /* a client has asked for the end, by this signal */
    int kill_sig;

    json_t *options;   /* by method: parameters */
    json_t *transport; /* that was created, or NULL */
    struct plx_list disks, listeners;
    struct plx_hash by_bdev; /* disks */
    struct plx_list stores;  /* see lvol.h */
    struct plx_list sums;    /* pool_call.summing: checksums of snapshots that are being made */
    struct plx_list copies;  /* of volumes, likewise: under way, or over and not asked about yet */
    uint32_t last_copy;
    bool loading;                         /* a configuration: what disks have on them is looked at later */
    struct plx_list remotes, discoveries; /* see nvme.h */
    struct plx_list asks, passes;         /* of controllers, likewise */
    struct remote_hotplug *hotplug;       /* likewise, or NULL */
    unsigned remote_tasks;                /* of theirs, on worker threads */
    struct plx_list waiters;              /* for the initialisation */
    struct plx_list ns_texts;             /* nvmf.c: what dumps say of namespaces */
    json_t *subsystems;                   /* by NQN: what they were made with */
    json_t *vhost;                        /* by name of a controller: what it was made with */
    json_t *keys;                         /* by name: the path of its file */
    json_t *log_flags;
    json_t *notes; /* what has happened, for notify_get_notifications; the first of them is the notes_from-th */
    uint64_t notes_from;
    struct rpc_state state;
};

/* request.c: a value that a client has sent, or what is said of one that is none. */
void rpc_request(struct rpc_client *client, const char *text, size_t len);
void rpc_refuse(struct rpc_client *client, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* A client's batch: whether it has a request that was not begun; begins it; its client has gone. */
bool rpc_batch_more(const struct rpc_batch *b);
void rpc_batch_next(struct rpc_batch *b);
void rpc_batch_forget(struct rpc_batch *b);
/* The client has gone. */
void rpc_calls_forget(struct plx_rpc *rpc, const struct rpc_client *client);
void rpc_own_call(struct plx_rpc *rpc, const char *method, const json_t *params, void (*done)(struct rpc_call *c),
                  void *arg);
/* Whether a change is under way. */
bool rpc_changing(const struct plx_rpc *rpc);
/* The change with this number, and all before it, are kept; or cannot be. */
void rpc_saved(struct plx_rpc *rpc, uint64_t change, int ret, const struct plx_error *err);

/* client.c */
/* One that is connected, by a descriptor that is taken over. */
void rpc_client_add(struct plx_rpc *rpc, int fd);
struct plx_rpc *rpc_client_server(const struct rpc_client *c);
void rpc_client_send(struct rpc_client *c, const json_t *answer);
/* The same; text is taken over. */
void rpc_client_send_text(struct rpc_client *c, struct rpc_text *text);
/* Make a text longer, or a new one of NULL: by a value, or by what is between them. @return false: no memory */
bool rpc_text_add(struct rpc_text **text, const json_t *value);
bool rpc_text_end(struct rpc_text **text, const char *bytes);
/* A call of it was begun, is through, was answered. */
void rpc_client_busy(struct rpc_client *c, int calls, int begun);
void rpc_client_end(struct rpc_client *c); /* once it has read what was said */
void rpc_client_describe(const struct rpc_client *c, char *out, size_t size);
void rpc_client_batch(struct rpc_client *c, struct rpc_batch *b);
void rpc_clients_init(struct plx_rpc *rpc);
int rpc_clients_listen(struct plx_rpc *rpc, struct plx_error *err);
void rpc_clients_close(struct plx_rpc *rpc);

/* state.c */
/* There was a change. @return its number, or 0 when nothing is kept */
uint64_t rpc_state_changed(struct plx_rpc *rpc);
void rpc_state_begin(struct plx_rpc *rpc);
/* No change is under way, and another one may begin after this. */
void rpc_state_between(struct plx_rpc *rpc);
bool rpc_state_busy(const struct plx_rpc *rpc);

/*
 * config.c: the calls that make again what there is, as text. It is written at every change where a state is kept, so
 * what there may be many of, and rarely changes, keeps its own.
 */
struct rpc_config {
    struct rpc_text *text;
    unsigned calls;
    bool short_of_memory;
};
/* All groups: an object; NULL without memory. To be freed. */
struct rpc_text *rpc_config_text(struct plx_rpc *rpc);
/* The same, or of a group: NULL when there is no such group. */
json_t *rpc_config(struct plx_rpc *rpc);
json_t *rpc_config_group(struct plx_rpc *rpc, const char *group);
json_t *rpc_config_groups(void);
/* By file: what is to be called again. Appended to a list of calls; params is taken over. */
void rpc_config_add(struct rpc_config *list, const char *method, json_t *params);
/* The same, and returns its text, to be freed, or NULL; and of such a text. */
char *rpc_config_keep(struct rpc_config *list, const char *method, json_t *params);
void rpc_config_add_kept(struct rpc_config *list, const char *text);
void rpc_config_disks(struct plx_rpc *rpc, struct rpc_config *list);
void rpc_config_nvmf(struct plx_rpc *rpc, struct rpc_config *list);
void rpc_config_access(struct plx_rpc *rpc, struct rpc_config *list);
void rpc_config_sock(struct plx_rpc *rpc, struct rpc_config *list);
void rpc_config_vhost(struct plx_rpc *rpc, struct rpc_config *list);
void rpc_config_vhost_scsi(struct plx_rpc *rpc, struct rpc_config *list);
void rpc_config_host_limits(struct plx_rpc *rpc, struct rpc_config *list);

/* rpc.c: one is over, or a write of the state: that may be all that a stop waits for. */
void rpc_may_stop(struct plx_rpc *rpc);

/* Something has happened: for notify_get_notifications. */
void rpc_note(struct plx_rpc *rpc, const char *type, const char *ctx);

/* nvmf.c */
/* The subsystem that parameter nqn names; or NULL, and the call has failed. */
struct plx_nvmf_subsystem *rpc_subsystem(struct rpc_call *c);
/* A subsystem goes; NULL: all. */
void rpc_ns_texts_forget(struct plx_rpc *rpc, const char *nqn);
/* Has hosts see what was changed; then answers with result, which is taken over. */
void rpc_apply(struct rpc_call *c, json_t *result);

/* access.c */
/* Where a subsystem is reached; NULL: that of discovery. */
json_t *rpc_listen_addresses(struct plx_rpc *rpc, const struct plx_nvmf_subsystem *s);
/* Removes listeners that no subsystem has. */
void rpc_listeners_tidy(struct plx_rpc *rpc);
void rpc_listeners_forget(struct plx_rpc *rpc);

/* app.c: the name that clients know a reactor by. */
void rpc_reactor_name(const struct plx_rpc *rpc, unsigned i, char *out, size_t size);
/* The initialisation is over, or will never be; or those who wait for it have gone. */
void rpc_waiters_wake(struct plx_rpc *rpc);

/* disk.c: disks that calls make, and delete. */
/*
 * Opens a disk on a worker thread, and answers with its name. `params` makes it again, and is taken over; it gets the
 * disk's UUID.
 */
void rpc_disk_open(struct rpc_call *c, const struct rpc_disk_kind *kind, const char *url, const char *name);
/* The same of one that is open. */
void rpc_disk_opened(struct rpc_call *c, const struct rpc_disk_kind *kind, struct plx_bdev *bdev);
/* One that no call made by itself. @return NULL without memory */
struct rpc_disk *rpc_disk_add(struct plx_rpc *rpc, const struct rpc_disk_kind *kind, struct plx_bdev *bdev);
/* The same, when what waits for it is to be seen to later: rpc_stores_retry(). */
struct rpc_disk *rpc_disk_enter(struct plx_rpc *rpc, const struct rpc_disk_kind *kind, struct plx_bdev *bdev);
/* It was closed, and is open again as this. */
void rpc_disk_reopened(struct plx_rpc *rpc, struct rpc_disk *d, struct plx_bdev *bdev);
/* It has been closed, and is not there any more. */
void rpc_disk_gone(struct plx_rpc *rpc, struct rpc_disk *d);
/* A disk that is to be deleted, or on which nothing is to stand any more; stands first in the state of a call. */
struct rpc_clearing {
    struct plx_bdev *base;
    bool keep; /* the disk itself */
    void (*over)(struct rpc_call *c);
    struct rpc_disk *top; /* that is being closed */
};
/* Clears it, whatever uses it, and calls over; or the call has failed. */
void rpc_disk_clear(struct rpc_call *c);
/* Deletes a disk of a kind, with what stands on it, whatever uses it. */
void rpc_disk_delete(struct rpc_call *c, const struct rpc_disk_kind *kind, const char *name);
/* A name that no disk has: prefix and the lowest number. */
void rpc_disk_free_name(const char *prefix, char out[RPC_NAME]);
/* One that a call made, by its name or UUID; or NULL. */
struct rpc_disk *rpc_disk_find(struct plx_rpc *rpc, const char *name);
struct rpc_disk *rpc_disk_of(struct plx_rpc *rpc, const struct plx_bdev *bdev);
/* Whether its data, and with that its UUID, is gone when it is made again. */
bool rpc_disk_is_volatile(struct plx_rpc *rpc, const struct plx_bdev *bdev);
/* All of them, when nothing uses them any more. */
void rpc_disks_close(struct plx_rpc *rpc);
/* limit.c: what else was said of a disk: its limits. */
void rpc_config_disk_more(struct rpc_config *list, const struct rpc_disk *d);
/* limit.c: the limits of a disk, as clients know them. */
json_t *rpc_disk_limits(struct plx_bdev *bdev);
/* Whether it has a user who has it alone: a filter. */
bool rpc_disk_claimed(const struct plx_bdev *of);
/* "No such device: ..." */
void rpc_fail_no_disk(struct rpc_call *c, const char *name);

/* nvme_remote.c, nvme_discovery.c: controllers that are attached. */
void rpc_config_remotes(struct plx_rpc *rpc, struct rpc_config *list);
void rpc_config_discoveries(struct plx_rpc *rpc, struct rpc_config *list);
/* The process ends: what waits for a controller is over. */
void rpc_remotes_stop(struct plx_rpc *rpc);
/* All of them; their disks stay. */
void rpc_remotes_close(struct plx_rpc *rpc);
void rpc_discoveries_close(struct plx_rpc *rpc);

/* A UUID as text. */
json_t *rpc_uuid_json(const uint8_t uuid[16]);

#endif
