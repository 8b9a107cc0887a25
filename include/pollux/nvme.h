/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * @file The NVMe/TCP host, for tools: connect to a controller, ask it what it is, discover what else there is. To read
 * and write, open the namespace as a disk instead: plx_bdev_open() with the same name.  These functions wait: each runs
 * on the calling thread, which may be any, until its answer is there. A connection is used by one thread at a time.
 */
#ifndef POLLUX_NVME_H
#define POLLUX_NVME_H

#include <pollux/base.h>
#include <pollux/nvme_status.h>

#ifdef __cplusplus
extern "C" {
#endif

struct plx_nvme;

/**
 * Connects to a controller.
 * @param url nvme+tcp://ADDR:PORT/NQN?key=value..., as for a disk; of several addresses the first that answers. Or the
 * generic node of a namespace that this machine's kernel has, such as /dev/ng0n1
 * @return 0, or -errno with err filled
 */
PLX_API int plx_nvme_connect(const char *url, struct plx_nvme **out, struct plx_error *err);

/** Ends the connection and frees it. */
PLX_API void plx_nvme_disconnect(struct plx_nvme *n);

struct plx_nvme_info {
    char address[64]; /**< "192.0.2.1:4420" */
    uint64_t cap;     /**< Controller Capabilities: Base 3.1.4.1 */
    uint32_t vs;      /**< Version: Base 3.1.4.2 */
    uint16_t cntlid;  /**< the controller's identifier */
    uint32_t nsid;    /**< what nsid= in the URL said, else 0 */
    uint32_t
        ana_state; /**< 1 to 15 of the namespace in nsid=, or of the first: Base 8.1.1; 0 where there is no namespace */
};
PLX_API void plx_nvme_get_info(const struct plx_nvme *n, struct plx_nvme_info *out);

enum { PLX_NVME_IDENTIFY_BYTES = 4096 };

/**
 * Identify (Base 5.1.13).
 * @param cns the data structure: 0 a namespace, 1 the controller, 2 the list of active namespaces, ...
 * @param data PLX_NVME_IDENTIFY_BYTES, little-endian, as the specification has it
 * @return 0; -EIO with err filled when the controller refused or the connection is lost
 */
PLX_API int plx_nvme_identify(struct plx_nvme *n, uint8_t cns, uint32_t nsid, void *data, struct plx_error *err);

/** The same of a command set: csi 2 is that of zoned namespaces, with cns 5 a namespace, 6 the controller. */
PLX_API int plx_nvme_identify_set(struct plx_nvme *n, uint8_t cns, uint8_t csi, uint32_t nsid, void *data,
                                  struct plx_error *err);

/**
 * Get Log Page (Base 5.1.12), of any length: it is read in pieces where the controller wants that.
 * @param lsp log specific parameter
 * @param offset, len bytes, multiples of 4
 */
PLX_API int plx_nvme_get_log(struct plx_nvme *n, uint8_t lid, uint8_t lsp, uint32_t nsid, uint64_t offset, void *data,
                             uint32_t len, struct plx_error *err);

/**
 * Waits for an asynchronous event (Base 5.1.2), and keeps the connection alive meanwhile.
 * @param timeout_ms -1 for as long as it takes
 * @param dw0 what happened: dword 0 of the event's completion
 * @return 1 when there was one, 0 when time is up, -EIO with err filled when the connection is lost or the
 *         controller refuses to tell of events
 */
PLX_API int plx_nvme_wait_event(struct plx_nvme *n, int timeout_ms, uint32_t *dw0, struct plx_error *err);

/**
 * Sends a command as it is given, by a connection that is made for it, and waits for its answer. What would break this
 * driver is refused: of admin commands those that make or delete queues, Abort, Asynchronous Event Request, Doorbell
 * Buffer Config, Set Features of Number of Queues, Keep Alive Timer, Asynchronous Event Configuration and Host Memory
 * Buffer, and a Format that changes blocks; of all commands fused ones, and those for Fabrics.
 * @param url as of plx_nvme_connect()
 * @param admin else it goes to an I/O queue
 * @param sqe 64 bytes, little-endian, as the specification has it (Base 4.1); its identifier, PSDT, MPTR and DPTR are
 * not looked at
 * @param data len bytes that are sent, or received, as bits 1:0 of the opcode say
 * @param timeout_ms until it is aborted; when it ignores that the connection is given up, over PCIe with a reset of the
 * controller
 * @param cqe receives 16 bytes (Base 4.2); its status is for the caller to look at, and its identifiers are zero
 * @return 0; -EPERM when it is refused, -EINVAL when data is not what the command says, -ETIMEDOUT, or another -errno,
 * with err filled
 */
PLX_API int plx_nvme_send(const char *url, bool admin, const void *sqe, void *data, uint32_t len, uint32_t timeout_ms,
                          void *cqe, struct plx_error *err);

/**
 * What keeps a text from being the NQN of a host or a subsystem (Base 4.7), as a sentence goes on after it: "does not
 * begin with ..."; NULL when nothing does.
 */
PLX_API const char *plx_nvme_nqn_problem(const char *nqn);

/** A status in words, as the specification has them. */
PLX_API const char *plx_nvme_status_text(uint16_t status);

/* ---- discovery ---- */

/**
 * Connects to a discovery controller.
 * @param where ADDR or ADDR:PORT, IPv6 in brackets; without a port 8009 is tried, then 4420
 * @param params "hostnqn=...&hdgst=1", as in a URL, or NULL
 * @param persistent whether it is to stay connected, to be told of changes
 */
PLX_API int plx_nvme_connect_discovery(const char *where, const char *params, bool persistent, struct plx_nvme **out,
                                       struct plx_error *err);

/** An entry of the discovery log (Base 5.1.12.3.1); texts are terminated, and without trailing spaces. */
struct plx_nvme_record {
    uint8_t trtype;  /**< 1 RDMA, 2 Fibre Channel, 3 TCP */
    uint8_t adrfam;  /**< 1 IPv4, 2 IPv6 */
    uint8_t subtype; /**< 1 another discovery subsystem, 2 an NVM subsystem, 3 this discovery subsystem */
    uint8_t treq;    /**< transport requirements */
    uint16_t portid, cntlid, asqsz, eflags;
    uint8_t sectype; /**< of TCP: 0 none, 1 TLS 1.2, 2 TLS 1.3 */
    char trsvcid[33];
    char traddr[257];
    char subnqn[257];
};

struct plx_nvme_discovery {
    uint64_t genctr; /**< changes when the log does */
    uint32_t count;
    struct plx_nvme_record records[];
};

/**
 * Reads the discovery log, whole and of one generation. @return 0 with *out to be freed with plx_nvme_discovery_free(),
 * or -errno
 */
PLX_API int plx_nvme_get_discovery(struct plx_nvme *n, struct plx_nvme_discovery **out, struct plx_error *err);
PLX_API void plx_nvme_discovery_free(struct plx_nvme_discovery *d);

#ifdef __cplusplus
}
#endif
#endif
