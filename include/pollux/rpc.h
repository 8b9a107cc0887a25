/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * @file The control server: a target is changed and looked at over JSON-RPC 2.0, on a local socket, while hosts use it.
 * It speaks the dialect of SPDK's clients; docs/methods.md lists what can be called, docs/control.md begins with an
 * example. All of it runs on the target's first reactor, the control reactor.
 */
#ifndef POLLUX_RPC_H
#define POLLUX_RPC_H

#include <pollux/nvmf.h>
#include <pollux/vhost.h>

#ifdef __cplusplus
extern "C" {
#endif

struct plx_rpc;

struct plx_rpc_opts {
    struct plx_nvmf_target *target;
    struct plx_reactor *const *reactors; /**< the target's, of which the first is the control reactor */
    unsigned nreactors;
    struct plx_vhost *vhost; /**< that is changed, too, or NULL */
    const char *vhost_dir;   /**< where its sockets are; NULL: in the working directory */
    const char *socket;      /**< where to listen; NULL: calls come by plx_rpc_call() and plx_rpc_load() alone */
    const char *state;       /**< the file that the configuration is kept in at every change; NULL for none */
    bool wait;               /**< is not initialised before framework_start_init was called */
    /** A client asks the process to end, by spdk_kill_instance; sig is the signal that it names. */
    void (*kill)(void *arg, int sig);
    void *arg;
};

/**
 * Makes a control server for a target that runs. Reactors and target stay the caller's, and outlive it; so do the
 * texts of opts. On the control reactor, as everything here.
 * @return 0, or -errno with err filled
 */
PLX_API int plx_rpc_create(struct plx_rpc **out, const struct plx_rpc_opts *opts, struct plx_error *err);

/**
 * Ends it: clients are disconnected, nothing is begun any more, and done is called when what was begun is over, with 0;
 * or after a second, with -ETIMEDOUT: then the server, its target and the reactors must stay as they are. Disks that
 * were opened by calls stay open until plx_rpc_destroy().
 */
PLX_API void plx_rpc_stop(struct plx_rpc *rpc, void (*done)(void *arg, int ret), void *arg);

/** Frees one that was stopped, and closes its disks. After plx_nvmf_target_stop(). */
PLX_API void plx_rpc_destroy(struct plx_rpc *rpc);

/** Begins to listen. @return 0, or -errno with err filled */
PLX_API int plx_rpc_listen(struct plx_rpc *rpc, struct plx_error *err);

/** How a call, or a load, has ended: ret is 0, or negative with err filled. */
typedef void (*plx_rpc_done_fn)(void *arg, int ret, const char *result, const struct plx_error *err);

/**
 * Makes a call from within the process.
 * @param params a JSON object, or NULL
 * @param done called with the result as JSON, perhaps before this returns
 */
PLX_API void plx_rpc_call(struct plx_rpc *rpc, const char *method, const char *params, plx_rpc_done_fn done, void *arg);

/**
 * Makes the calls of a configuration, as `pollux ctl save` prints one, in order; what may only be called before the
 * initialisation first. Ends with the first that fails.
 * @param text JSON, which may have comments of the kinds that C has
 * @param name of it, for messages
 */
PLX_API void plx_rpc_load(struct plx_rpc *rpc, const char *text, const char *name, plx_rpc_done_fn done, void *arg);

/**
 * All methods, with their parameters, as JSON: an array of objects. From any thread.
 * @return to be freed; NULL without memory
 */
PLX_API char *plx_rpc_describe(void);

#ifdef __cplusplus
}
#endif
#endif
