/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Streams of bytes, and the group of all streams of a reactor.
 *
 * A stream has two faces. Whoever implements a kind of stream (sockets here, TLS on top of them, memory in tests) fills
 * struct plx_stream_ops. Whoever speaks a protocol on one embeds struct plx_stream, and fills struct plx_stream_user:
 * what to do when something came, and when something can be sent. A reactor has one group, which decides whose turn it
 * is, for every protocol and both ends of it.
 */
#ifndef PLX_NET_STREAM_H
#define PLX_NET_STREAM_H

#include "base/list.h"

#include <pollux/reactor.h>
#include <sys/socket.h>
#include <sys/uio.h>

enum { PLX_STREAM_RX_BYTES = 256 << 10 }; /* the receive buffer that all streams of a reactor share */

struct plx_stream;
struct plx_stream_group;

struct plx_stream_ops {
    /*
     * The step before the first byte: a connection is being made, hands are shaken. Called until it is over. NULL where
     * there is none. @return 0 when bytes may flow, -EAGAIN, or another -errno: why they never will
     */
    int (*start)(struct plx_stream *s);
    /* @return bytes, 0 at the end of the stream, -EAGAIN, or another -errno. Never blocks, and may take less. */
    ssize_t (*recv)(struct plx_stream *s, const struct iovec *iov, unsigned niov);
    ssize_t (*send)(struct plx_stream *s, const struct iovec *iov, unsigned niov);
    /*
     * Whether recv() has something that the readiness of s->fd does not tell of, such as the rest of a record. NULL for
     * never.
     */
    bool (*pending)(const struct plx_stream *s);
    /* The other side sees the end of the stream. */
    void (*shut)(struct plx_stream *s);
    void (*close)(struct plx_stream *s);
};

/* All are called from the group's poll, and may close any stream, this one included. */
struct plx_stream_user {
    /* The step before the first byte is over, or has failed: then the stream is to be closed. */
    void (*started)(struct plx_stream *s, int ret);
    /* Something may have come, or the end: receives once, and handles it. @return progress */
    int (*in)(struct plx_stream *s);
    /*
     * Sends what there is to send, as far as the stream takes it; sets s->blocked when it takes no more, and calls
     * plx_stream_dirty() again when there is more to send even so. @return progress
     */
    int (*out)(struct plx_stream *s);
    /*
     * When one of these had something, the round is over: it is for those who wait for its answers to go on, and what
     * they submit is sent before the next one is served. So the other side always has something to do.
     */
    bool one_a_round;
};

enum plx_stream_state {
    PLX_STREAM_CLOSED,
    PLX_STREAM_STARTING,
    PLX_STREAM_OPEN,
};

struct plx_stream {
    const struct plx_stream_ops *ops;
    const struct plx_stream_user *user;
    struct plx_stream_group *group;
    void *impl;    /* of a stream that is more than its descriptor */
    int fd;        /* becomes readable and writable as the stream does; -1 for one that has none and is always tried */
    uint8_t state; /* enum plx_stream_state */
    bool dirty;    /* something to send: in group->dirty */
    bool blocked;  /* it took no more */
    bool quiet;    /* the user's: nothing is expected, so it is tried now and then */
    bool stalled;  /* see plx_stream_stall() */
    bool ended;    /* the user's: its peer says no more, but may yet listen; to be stalled */
    bool napi;     /* it was added to those whose NIC is polled: plx_napi_add() */
    uint8_t asks;  /* how often it is asked yet by what NIC its packets come */
    bool gone;     /* of a stalled one: its peer has ended it, or an ended one listens no more */
    uint8_t refusals; /* flushes in a row of which it took nothing, up to a limit */
    uint32_t watched; /* what the kernel is asked to tell of it */
    struct plx_list link, dirty_link;
    uint64_t until; /* lingering: reactor time */
    void (*release)(struct plx_stream *s);
};

/* ---- for users ---- */

/* The reactor's group, made on first use; to be put back as often. @return NULL without memory or descriptors */
struct plx_stream_group *plx_stream_group_get(struct plx_reactor *r);
void plx_stream_group_put(struct plx_stream_group *g);
/* The shared receive buffer. What is in it is to be handled, or copied, before in() returns. */
uint8_t *plx_stream_group_rx(const struct plx_stream_group *g);

/* Before its first use; a stream that was closed can be opened again. */
void plx_stream_init(struct plx_stream *s, const struct plx_stream_user *user);
/*
 * Gives an opened stream (ops and fd are set) to a group, on the group's reactor: started() is called when bytes may
 * flow, in one of the next rounds; at once it is open where there is no such step. @return 0 or -errno: it is closed
 */
int plx_stream_add(struct plx_stream_group *g, struct plx_stream *s);
/* There is something to send: out() is called in this round, or the next. Nothing happens when it is closed. */
static inline void plx_stream_dirty(struct plx_stream *s);
/*
 * in() takes nothing for now, as memory is short, or takes what comes again. While it is stalled a reactor that sleeps
 * is not woken by what comes, but by the end of the stream, which is told in s->gone.
 */
void plx_stream_stall(struct plx_stream *s, bool stalled);
/* Nothing is called any more. Nothing happens when it is closed. */
void plx_stream_close(struct plx_stream *s);
/*
 * The same, when the other side is to read what was sent last: nothing more is sent, what comes is thrown away, and it
 * is closed when the other side has closed it, or after a while, or when it is closed once more.
 */
void plx_stream_linger(struct plx_stream *s);
/* A closed stream's memory: release() is called when nobody looks at it any more, perhaps at once. */
void plx_stream_free(struct plx_stream *s, void (*release)(struct plx_stream *s));

static inline ssize_t plx_stream_recv(struct plx_stream *s, const struct iovec *iov, unsigned niov)
{
    return s->ops->recv(s, iov, niov);
}

static inline ssize_t plx_stream_send(struct plx_stream *s, const struct iovec *iov, unsigned niov)
{
    return s->ops->send(s, iov, niov);
}

/* ---- sockets: socket.c ---- */

/* A socket that is connected, such as accept() gave; the stream owns it. */
void plx_stream_socket(struct plx_stream *s, int fd);
/*
 * The CPU on which the kernel handles what comes from the peer (SO_INCOMING_CPU), and the NIC's queue that it comes by
 * (SO_INCOMING_NAPI_ID). -1 and 0 where that is not known, and of a peer on this machine, as it is where that runs.
 */
void plx_stream_incoming(const struct plx_stream *s, int *cpu, unsigned *napi);
/* The address of either end; AF_UNSPEC where there is none. */
void plx_stream_addr(const struct plx_stream *s, bool peer, struct sockaddr_storage *out);

/* Who is at the other end of a local socket. @return whether that is known */
bool plx_stream_user_id(const struct plx_stream *s, uid_t *uid, pid_t *pid);

/* A network: where streams come from. There is one, of sockets; tests put one of memory in its place. */
struct plx_net {
    /* Begins to connect a stream. @return 0 with its ops and fd set, or -errno */
    int (*connect)(struct plx_stream *s, const struct sockaddr_storage *to);
};
extern const struct plx_net *plx_net;

/* ---- listening sockets: listener.c ---- */

struct plx_listener {
    struct plx_watch watch;
    struct plx_reactor *reactor;                      /* while it is accepting */
    void (*accepted)(struct plx_listener *l, int fd); /* the descriptor is the callee's; not blocking */
    int reserve_fd; /* given up for a moment when there are no descriptors left, to turn a peer away */
    char *path;     /* of a local one */
    int lock_fd;
};

/* Binds to *at, and learns the port where that is 0. Nobody can connect yet. @return 0 or -errno */
int plx_listener_bind(struct plx_listener *l, struct sockaddr_storage *at);
/* Begins to accept, on a reactor. @return 0 or -errno */
int plx_listener_accept(struct plx_listener *l, struct plx_reactor *r);
/*
 * A local socket at a path, for its owner alone, or for a group as well. PATH.lock sees to it that there is one at a
 * time, also over processes that die: what they leave behind is replaced. At a close both are removed.
 * @param group NULL for none
 * @return 0, or -errno with err filled
 */
int plx_listener_bind_path(struct plx_listener *l, const char *path, const gid_t *group, struct plx_error *err);
/* What was not accepted yet is refused, and the address is free at once. */
void plx_listener_close(struct plx_listener *l);
/* The address that this machine would be reached at from another one, or loopback. `family` is AF_INET or AF_INET6. */
void plx_net_own_addr(int family, struct sockaddr_storage *out);
/* Whether it is the broadcast address of a network that this machine is in. */
bool plx_net_is_broadcast(const struct sockaddr_storage *at);

/* ---- the group's inside, as far as it is inlined ---- */

struct plx_stream_dirty_list {
    struct plx_list list;
};

static inline void plx_stream_dirty(struct plx_stream *s)
{
    if (s->dirty || s->state == PLX_STREAM_CLOSED)
        return;
    s->dirty = true;
    plx_list_add_tail(&((struct plx_stream_dirty_list *)s->group)->list, &s->dirty_link);
}

#endif
