/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * @file The NVMe-oF target: subsystems of namespaces, served to hosts over NVMe/TCP.  Build a target, its subsystems
 * and its listeners, then start it on reactors that run. Unless a comment says otherwise, functions here are called
 * from one thread at a time, before plx_nvmf_target_start() or after the target has stopped.
 */
#ifndef POLLUX_NVMF_H
#define POLLUX_NVMF_H

#include <pollux/bdev.h>
#include <pollux/reactor.h>

#ifdef __cplusplus
extern "C" {
#endif

struct plx_nvmf_target;
struct plx_nvmf_subsystem;
struct plx_nvmf_listener;

/** Limits; a zero stands for the default. */
struct plx_nvmf_opts {
    uint32_t max_io_size; /**< bytes of the largest transfer (MDTS), a power of two from 4 KiB to what the reactors'
                             buffers hold; 1 MiB */
    uint32_t queue_depth; /**< entries of a queue (CAP.MQES), 2 to 1024; 128 */
    uint32_t max_queues;  /**< I/O queue pairs of a controller, 1 to 128; 128 */
    uint32_t
        in_capsule_size; /**< bytes of data that a command capsule may carry, a multiple of 512 up to 64 KiB; 8 KiB */
    bool no_in_capsule;  /**< I/O commands carry no data, whatever in_capsule_size says */
    uint32_t peer_timeout_ms; /**< how long a peer may leave a PDU, an R2T or its receive window unanswered; 30 s */
    uint32_t max_connections; /**< over all reactors; 4096 */
};

/**
 * Makes a target on reactors, of which the first also runs the control path.
 * @param reactors stay the caller's, and must outlive the target
 * @return 0, -ENOMEM, or -EINVAL with err filled
 */
PLX_API int plx_nvmf_target_create(struct plx_nvmf_target **out, struct plx_reactor *const *reactors,
                                   unsigned nreactors, const struct plx_nvmf_opts *opts, struct plx_error *err);

enum { PLX_NVMF_NQN_SIZE = 224 }; /**< the longest NQN, with its terminating zero */

/**
 * An NQN for a subsystem of these disks, of the form nqn.2014-08.org.nvmexpress:uuid:...: the same on the same machine
 * at every start.
 * @return 0 or -ENOMEM
 */
PLX_API int plx_nvmf_default_nqn(struct plx_bdev *const *disks, unsigned n, char nqn[PLX_NVMF_NQN_SIZE],
                                 struct plx_error *err);

struct plx_nvmf_subsystem_opts {
    const char *nqn;     /**< "nqn.2024-01.com.example:name", at most 223 bytes: Base 4.7 */
    const char *serial;  /**< at most 20 printable characters; NULL for one made from the NQN */
    const char *model;   /**< at most 40 printable characters; NULL for "Pollux" */
    bool allow_any_host; /**< let every host in */
};

/** Adds a subsystem. @return 0, -ENOMEM, -EEXIST or -EINVAL with err filled */
PLX_API int plx_nvmf_subsystem_create(struct plx_nvmf_target *t, const struct plx_nvmf_subsystem_opts *opts,
                                      struct plx_nvmf_subsystem **out, struct plx_error *err);
/** Lets a host in. @return 0, -ENOMEM, -EEXIST or -EINVAL with err filled */
PLX_API int plx_nvmf_subsystem_allow_host(struct plx_nvmf_subsystem *s, const char *hostnqn, struct plx_error *err);
/**
 * Adds a disk as a namespace.
 * @param bdev stays the caller's, and must outlive the target
 * @param nsid the namespace identifier, or 0 for the lowest free one
 * @return the namespace identifier, or a negative errno value with err filled
 */
PLX_API int plx_nvmf_subsystem_add_ns(struct plx_nvmf_subsystem *s, struct plx_bdev *bdev, uint32_t nsid,
                                      struct plx_error *err);
PLX_API const char *plx_nvmf_subsystem_nqn(const struct plx_nvmf_subsystem *s);

/**
 * Binds to an address; hosts can connect from plx_nvmf_target_start() on. Every subsystem is reachable at every
 * listener, and so is a discovery controller.
 * @param addr a numeric IPv4 or IPv6 address, perhaps with a port: see plx_parse_addr()
 * @param port where addr has none; 0 for any free one
 * @return 0 or a negative errno value with err filled
 */
PLX_API int plx_nvmf_listen(struct plx_nvmf_target *t, const char *addr, uint16_t port, struct plx_nvmf_listener **out,
                            struct plx_error *err);
PLX_API const char *plx_nvmf_listener_addr(const struct plx_nvmf_listener *l);
/**
 * Where hosts reach a listener: its address, or for a wildcard that of this machine on its default route. Written to
 * `out`, which is returned.
 */
PLX_API const char *plx_nvmf_listener_reach(const struct plx_nvmf_listener *l, char *out, size_t size);
PLX_API uint16_t plx_nvmf_listener_port(const struct plx_nvmf_listener *l);

/** Called on the first reactor when a start or a stop is over; ret is 0 or a negative errno value. */
typedef void (*plx_nvmf_done_fn)(void *arg, int ret);

/** Opens the disks' channels on every reactor, then begins to accept hosts. From any thread. */
PLX_API void plx_nvmf_target_start(struct plx_nvmf_target *t, plx_nvmf_done_fn done, void *arg);

/**
 * Stops accepting, lets what is in flight finish for at most grace_ms, closes all connections, flushes the disks, and
 * puts their channels back. From any thread, once, after the start was over.
 */
PLX_API void plx_nvmf_target_stop(struct plx_nvmf_target *t, uint32_t grace_ms, plx_nvmf_done_fn done, void *arg);

/** Frees a target that has stopped or never started; also while its reactors no longer run. */
PLX_API void plx_nvmf_target_destroy(struct plx_nvmf_target *t);

#ifdef __cplusplus
}
#endif
#endif
