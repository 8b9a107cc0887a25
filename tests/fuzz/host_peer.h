/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A controller over loopback, for the fuzzer of the host: it does what a controller should, or whatever it is told to.
 * It has no thread: it goes on when peers_serve() is called.
 *
 * What the host sends is checked on the way: it owes correct PDUs, and the data that it was asked for, even to those
 * who send none.
 */
#ifndef PLX_FUZZ_HOST_PEER_H
#define PLX_FUZZ_HOST_PEER_H

#include "nvme/tcp_pdu.h"

#include <netinet/in.h>

enum {
    PEERS = 64,
    PEER_COMMANDS = 64, /* that it remembers */
    PEER_SLOTS = 16,    /* of commands, whose next identifiers it can guess */
    PEER_BLOCK = 512,
    PEER_LARGEST = 1 << 20, /* bytes of data of a PDU */
    PEER_PERIOD = 251,      /* of what is on its disk: prime, so that no shift is overlooked */
    SPOIL_HEADER = 1,       /* sends a wrong header digest */
    SPOIL_DATA = 2,
};

struct peer_command {
    struct nvme_cmd sqe;
    uint16_t cid;
    uint32_t len, got; /* of its data, by its SGL */
    bool asked;        /* an R2T was sent for the rest */
};

/* The controller's end of a queue pair. */
struct peer {
    int fd; /* -1: none */
    uint16_t qid;
    uint8_t cut;     /* bytes that are sent at once; 0 for all */
    bool deaf;       /* does not receive */
    bool ic_pending; /* an ICReq waits for its answer */
    struct nvme_tcp_rules rules;
    uint16_t cids[PEER_SLOTS]; /* the latest of each slot */
    /* The PDU that is coming in. */
    unsigned have, need, digest_have;
    struct nvme_tcp_layout l;
    uint32_t left, crc;
    const uint8_t *expected; /* the rest of its data, or NULL */
    uint8_t digest[NVME_TCP_DIGEST];
    uint8_t hdr[NVME_TCP_PDO_MAX + 1];
    unsigned ncommands;
    struct peer_command commands[PEER_COMMANDS]; /* oldest first */
};

extern struct peer peers[PEERS];

/* What it says of itself when it behaves. */
struct peer_says {
    bool success_flag;    /* completes reads without a response capsule */
    bool nameless;        /* gives no list of namespace identifiers */
    unsigned groups;      /* of ANA; the namespace is in the last of them */
    uint8_t ana;          /* its state */
    bool zeroes_expected; /* instead of what is on the disk */
};
extern struct peer_says says;

/* What is different about one answer: bytes of its data, or of its completion queue entry where there is none. */
struct peer_patch {
    size_t n;
    uint16_t at;
    const uint8_t *bytes;
};

/* @return the address that it listens on */
struct sockaddr_in peers_begin(void);
/* Accepts and receives. @return how much was done, 0 for nothing */
int peers_serve(void);
void peers_hang_up(void);
void peer_hang_up(struct peer *p);

/* Called while the socket takes no more: the host is to go on. */
void peers_settle(void);

/* What is on the disk from there on, PEER_LARGEST bytes. */
const uint8_t *peer_content(uint64_t byte);
uint64_t peer_first_byte(const struct peer_command *cmd);
struct peer_command *peer_find(struct peer *p, uint16_t cid);
void peer_forget(struct peer *p, struct peer_command *cmd);

/* Bytes as they are. */
void peer_put(struct peer *p, const uint8_t *b, size_t n);
void peer_send_resp(struct peer *p, uint16_t cid, struct nvme_cqe cqe, unsigned spoil);
void peer_send_data(struct peer *p, uint16_t cid, uint8_t flags, uint32_t at, const uint8_t *data, uint32_t len,
                    unsigned spoil);
void peer_send_r2t(struct peer *p, uint16_t cid, uint16_t tag, uint32_t at, uint32_t len);
void peer_send_term(struct peer *p, uint16_t fes, const uint8_t *shown, uint32_t len);

void peer_answer_ic(struct peer *p, const struct peer_patch *patch);
/* Does the next thing about a command, which may be its end. @return false when there is none to be done now */
bool peer_answer(struct peer *p, struct peer_command *cmd, const struct peer_patch *patch);
/* The same for the first command or ICReq that there is, as it should be. */
bool peers_answer_any(void);

#endif
