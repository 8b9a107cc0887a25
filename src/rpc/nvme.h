/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Controllers, as calls attach them: a subsystem of another target under a name, by one or several paths, or an SSD of
 * this machine; with a disk for each of its namespaces.
 *
 *   nvme.c            the methods that change something
 *   nvme_show.c       those that tell
 *   nvme_ask.c        those that ask a controller
 *   nvme_pass.c       the one that sends a controller what it is given
 *   nvme_remote.c     what is attached: paths and namespaces
 *   nvme_addr.c       their addresses
 *   nvme_hotplug.c    SSDs that come and go
 *   nvme_discovery.c  discovery controllers that are followed
 *
 * Beside the associations of the disks, which belong to the reactors that use these, each path has one of its own on
 * the control reactor, with an admin queue alone: it finds out whether there is a controller, lists its namespaces, and
 * is told of those that come and go. Nothing here blocks; disks are opened by worker threads.
 */
#ifndef PLX_RPC_NVME_H
#define PLX_RPC_NVME_H

#include "rpc/rpc.h"

#include "nvme/host.h"

#include <pollux/bdev_nvme.h>

enum {
    REMOTE_PATHS = PLX_BDEV_NVME_PATHS_MAX,
    REMOTE_NAMESPACES = 1024, /* that Identify lists at once */
    REMOTE_SETTINGS = 1024,
    REMOTE_DISCOVERIES = 16,
    REMOTE_RESET_MS = 20000, /* until a controller that was reset is expected to be back */
};

/* An address, in the form in which it is compared. */
struct remote_addr {
    bool pcie;                              /* of a function here; else of a port, by TCP */
    char traddr[64], trsvcid[8], adrfam[8]; /* the last two of TCP alone */
    char name[80];                          /* ADDR:PORT, or that of the function */
};

struct remote;
struct remote_discovery;

/*
 * How an attachment, or a detachment, has ended; r is what was attached, else NULL. It must not attach or detach
 * anything before it returns.
 */
typedef void (*remote_done_fn)(void *arg, struct remote *r, int ret, const struct plx_error *err);

struct remote_path {
    struct plx_list link;
    struct remote *r;
    struct remote_addr addr;
    json_t *params;           /* of the call that attached it; NULL: discovery did */
    struct nvme_ctrlr *watch; /* its association; NULL at the process's end */
    bool held;                /* the device, over PCIe: it is not begun with anew for each disk */
    bool live;                /* the watch is connected */
    bool attached;            /* it has been connected once, and disks have it */
    bool listing, list_again; /* namespaces, */
    bool listed;              /* into `list` */
    bool changed;             /* an event has told that some may be gone */
    struct nvme_req req;
    struct iovec iov;
    plx_le32 list[REMOTE_NAMESPACES];
    bool sizing;    /* namespaces are looked at, */
    uint32_t sized; /* up to this one, by number, */
    struct nvme_id_ns id;
    struct iovec id_iov;
    struct nvme_req size_req;
    remote_done_fn done; /* of its attachment, until that is over */
    void *arg;
};

struct remote_ns {
    struct plx_list link; /* by nsid */
    struct remote *r;
    uint32_t nsid;
    enum { REMOTE_NS_WANTED, REMOTE_NS_OPENING, REMOTE_NS_OPEN, REMOTE_NS_GOING } state;
    char name[RPC_NAME];
};

struct remote {
    struct plx_list link; /* in rpc->remotes */
    struct plx_rpc *rpc;
    bool pcie; /* has one path, by PCIe */
    char name[RPC_NAME], subnqn[NVME_NQN_FIELD], hostnqn[NVME_NQN_FIELD];
    char settings[REMOTE_SETTINGS]; /* key=value&..., of disks and watches */
    unsigned max_namespaces;
    bool round_robin;
    const struct remote_discovery *found_by; /* or NULL */
    struct plx_list paths, namespaces;
    int open_ret; /* of the first disk that could not be opened, since a path was attached last, */
    struct plx_error open_err;
    bool detaching;
    remote_done_fn detached;
    void *detached_arg;
};

/* What is to be attached. */
struct remote_spec {
    const char *name, *subnqn, *hostnqn;
    const struct remote_addr *addr;
    const char *settings;
    unsigned max_namespaces;
    bool round_robin;
    json_t *params; /* are copied */
    const struct remote_discovery *found_by;
};

extern const struct rpc_disk_kind rpc_kind_remote;

/* nvme_addr.c */
/* An address, from the parameters of a call. @return 0, -EINVAL, or -ENODEV where there is no such transport */
int remote_addr_parse(struct remote_addr *out, const char *trtype, const char *adrfam, const char *traddr,
                      const char *trsvcid, uint16_t port, struct plx_error *err);
bool remote_addr_same(const struct remote_addr *a, const struct remote_addr *b);
/* As clients know it; subnqn NULL: without it. */
json_t *remote_trid_json(const struct remote_addr *addr, const char *subnqn);
/* The controller there, with those settings. @return 0 or -errno with err filled */
int remote_where(struct nvme_where *w, const struct remote_addr *addr, const char *settings, struct plx_error *err);

/* nvme_remote.c */
struct remote *remote_find(struct plx_rpc *rpc, const char *name);
struct remote_path *remote_path_find(struct remote *r, const struct remote_addr *addr);
/* Its disks, by namespace; those that are open. */
struct rpc_disk *remote_ns_disk(const struct remote_ns *ns);
/*
 * Attaches a controller, or a path to one that is attached: connects, and opens a disk for each namespace. done is
 * called later.
 * @return 0; -errno with err filled: then it is not
 */
int remote_attach(struct plx_rpc *rpc, const struct remote_spec *spec, remote_done_fn done, void *arg,
                  struct plx_error *err);
/* Detaches a path; with the last one, the controller. done is called later. @return as above */
int remote_detach_path(struct remote *r, const struct remote_addr *addr, remote_done_fn done, void *arg,
                       struct plx_error *err);
/* Detaches a controller: closes its disks, and removes the namespaces that they are. done may be called at once. */
int remote_detach(struct remote *r, remote_done_fn done, void *arg, struct plx_error *err);

/* nvme_discovery.c */
int remote_discovery_start(struct plx_rpc *rpc, struct rpc_call *c, const struct remote_addr *addr,
                           const char *settings, struct plx_error *err);
int remote_discovery_stop(struct plx_rpc *rpc, const char *name, struct rpc_call *c, struct plx_error *err);
json_t *remote_discoveries_json(struct plx_rpc *rpc);
/* The process ends. */
void remote_discoveries_stop(struct plx_rpc *rpc);

/* nvme.c: settings of a controller, from the parameters of a call. @return 0 or -errno */
int remote_settings(struct plx_rpc *rpc, const json_t *params, bool pcie, char out[REMOTE_SETTINGS],
                    struct plx_error *err);

/* nvme_show.c */
/* The driver_specific of a disk that is a namespace; {} for others. */
json_t *remote_disk_json(const struct plx_bdev *bdev);
void remote_get_controllers(struct rpc_call *c);
void remote_get_io_paths(struct rpc_call *c);
/* "No such device: ..." */
void remote_fail_none(struct rpc_call *c, const char *name);

/* nvme_ask.c */
void remote_get_health(struct rpc_call *c);
void remote_read(struct rpc_call *c);
/* The controller that a disk is attached by, or NULL. */
struct remote *remote_of_disk(struct plx_rpc *rpc, const struct plx_bdev *bdev);
/* The process ends. */
void remote_asks_stop(struct plx_rpc *rpc);

/* nvme_pass.c */
void remote_send_cmd(struct rpc_call *c);
/* The process ends. */
void remote_passes_stop(struct plx_rpc *rpc);

/* nvme_hotplug.c */
void remote_set_hotplug(struct rpc_call *c);
/* The process ends. */
void remote_hotplug_stop(struct plx_rpc *rpc);

#endif
