/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The bare-socket ceiling: what this kernel's TCP over loopback leaves to any NVMe/TCP target and host.
 *
 * A server process and a client process, each pinned to a core, exchange messages of the sizes that NVMe/TCP has and do
 * nothing else: no header is read or written, no command is looked at. Reads are 72 byte requests and answers of 24 +
 * SIZE bytes, which the server sends from random places of its data. Writes are requests of 72 + SIZE bytes, which end
 * where they were received, and answers of 24 bytes. Both sides spin, and move as much as there is with each system
 * call, but receive at most CHUNK at once: as much as stays in a cache may be faster than all. With more than a few
 * connections both use epoll.
 *
 *     ceiling [-w read|write] [-o SIZE] [-q DEPTH] [-P CONNECTIONS] [-d DATA_MIB] [-r CHUNK_KIB] [-t SECONDS]
 *             [-s SERVER_CORE] [-c CLIENT_CORE]
 *
 * DEPTH is over all connections. Prints one line of JSON.
 *
 *     ceiling -m ...
 *
 * is what shared memory leaves to any vhost-user back-end and its client: the client asks by one counter, the server
 * copies SIZE bytes from random places of its data to the client's buffers (with -w write the other way), and answers
 * by another counter. With -R RATE the client asks so many times a second, one at a time, and wakes the server by an
 * eventfd on which that sleeps; the client spins. The answer then has percentiles in the place of the average.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    REQUEST = 72,   /* the capsule of a command */
    ANSWER = 24,    /* the header of C2HData, or of a CapsuleResp */
    MESSAGES = 500, /* that one system call moves at most: two iovecs each, and the kernel takes 1,024 */
    MAX_CONNECTIONS = 1024,
    SPIN_CONNECTIONS = 4, /* up to this many are tried in turn; beyond, epoll says which */
};

#define WARM_UP 0.2 /* seconds before measuring begins: TCP's windows open */

static struct {
    bool write, memory;
    size_t bytes, data_bytes, chunk;
    unsigned depth, connections;
    double seconds, rate;
    int server_core, client_core;
} o = {.bytes = 4096,
       .data_bytes = 1 << 20,
       .chunk = 4 << 20,
       .depth = 128,
       .connections = 1,
       .seconds = 2,
       .client_core = 1};

/*
 * Messages that one side of a connection is to send, or to receive: all of the same length, the first perhaps in part
 * done.
 */
struct flow {
    size_t length;  /* of a message */
    uint64_t count; /* messages still to be moved; for receiving, there is no end */
    size_t part;    /* bytes of the first that have been moved */
};

struct connection {
    int fd;
    struct flow in, out;
};

static struct connection connections[MAX_CONNECTIONS];
static char *data;        /* the server's disk: SIZE bytes longer than it says, so that a transfer may begin anywhere */
static char *client_data; /* the client's buffers, one for each request in flight */
static char headers[MESSAGES * REQUEST];

static void die(const char *what)
{
    fprintf(stderr, "ceiling: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double seconds_of(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double now(void)
{
    return seconds_of(CLOCK_MONOTONIC);
}

static void pin(int core)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(core, &set);
    if (sched_setaffinity(0, sizeof set, &set) < 0)
        die("cannot run on that core");
}

static char *memory(size_t bytes)
{
    char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        die("no memory");
    madvise(p, bytes, MADV_HUGEPAGE);
    memset(p, 1, bytes);
    return p;
}

/* A place of the server's data, at 4 KiB. */
static char *somewhere(void)
{
    static uint32_t seed = 1;
    seed = seed * 1664525u + 1013904223u;
    return data + ((uint64_t)(seed >> 4) * 4096) % o.data_bytes;
}

/* ---- moving messages ---- */

static struct iovec iov[2 * MESSAGES]; /* of the message at hand, of either side */

typedef char *(*place_fn)(void);

static char *client_place(void)
{
    static unsigned slot;
    slot = slot + 1 < o.depth ? slot + 1 : 0;
    return client_data + slot * o.bytes;
}

/* Messages with a payload are a header and a place for the rest of it each, and count separately from those without. */
static unsigned lay_out(const struct flow *f, size_t header, uint64_t messages, place_fn place)
{
    unsigned n = 0;
    for (uint64_t i = 0; i < messages; i++) {
        iov[n++] = (struct iovec){headers, header};
        if (f->length > header)
            iov[n++] = (struct iovec){place(), f->length - header};
    }
    return n;
}

/* Steps over what has been moved of the first message. */
static struct iovec *skip(unsigned *n, size_t bytes)
{
    struct iovec *at = iov;
    while (bytes >= at->iov_len) {
        bytes -= at->iov_len;
        at++;
        --*n;
    }
    at->iov_base = (char *)at->iov_base + bytes;
    at->iov_len -= bytes;
    return at;
}

/* @return messages that were completed */
static uint64_t advance(struct flow *f, size_t bytes)
{
    f->part += bytes;
    uint64_t whole = f->part / f->length;
    f->part %= f->length;
    return whole;
}

static void send_some(struct connection *c, size_t header, place_fn place)
{
    struct iovec *from;
    uint64_t messages = c->out.count < MESSAGES ? c->out.count : MESSAGES;
    if (!messages)
        return;
    unsigned n;
    if (c->out.length == header) { /* no payload: the headers lie side by side */
        iov[0] = (struct iovec){headers, messages * header};
        n = 1;
    } else {
        n = lay_out(&c->out, header, messages, place);
    }
    from = skip(&n, c->out.part);
    struct msghdr m = {.msg_iov = from, .msg_iovlen = n};
    ssize_t sent = sendmsg(c->fd, &m, MSG_NOSIGNAL);
    if (sent > 0)
        c->out.count -= advance(&c->out, (size_t)sent);
}

/* Receives what there is into one warm buffer. @return messages that were completed */
static uint64_t receive_some(struct connection *c)
{
    static char *bulk;
    if (!bulk)
        bulk = memory(o.chunk);
    ssize_t got = recv(c->fd, bulk, o.chunk, 0);
    if (got == 0)
        exit(0); /* the other side has ended */
    return got > 0 ? advance(&c->in, (size_t)got) : 0;
}

/* ---- the two sides ---- */

static void serve_one(struct connection *c)
{
    c->out.count += receive_some(c);
    while (c->out.count) {
        uint64_t before = c->out.count;
        size_t part = c->out.part;
        send_some(c, ANSWER, somewhere);
        if (c->out.count == before && c->out.part == part)
            return; /* the socket is full */
        c->out.count += receive_some(c);
    }
}

static int watch(unsigned n)
{
    int ep = epoll_create1(EPOLL_CLOEXEC);
    for (unsigned i = 0; i < n; i++) {
        struct epoll_event ev = {.events = EPOLLIN, .data.u32 = i};
        if (epoll_ctl(ep, EPOLL_CTL_ADD, connections[i].fd, &ev) < 0)
            die("epoll");
    }
    return ep;
}

/* Which connections may have something: all of a few, or those that epoll names. @return how many, in events */
static int ready(int ep, struct epoll_event *events)
{
    if (o.connections > SPIN_CONNECTIONS)
        return epoll_wait(ep, events, MAX_CONNECTIONS, 0);
    for (unsigned i = 0; i < o.connections; i++)
        events[i].data.u32 = i;
    return (int)o.connections;
}

static void tune(int fd)
{
    int one = 1;
    fcntl(fd, F_SETFL, O_NONBLOCK);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

_Noreturn static void serve(int listener, int ready_fd)
{
    static struct epoll_event events[MAX_CONNECTIONS];
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    pin(o.server_core);
    data = memory(o.data_bytes + o.bytes);
    if (write(ready_fd, "", 1) != 1)
        die("pipe");
    for (unsigned i = 0; i < o.connections; i++) {
        struct connection *c = &connections[i];
        c->fd = accept(listener, NULL, NULL);
        if (c->fd < 0)
            die("accept");
        tune(c->fd);
        c->in.length = REQUEST + (o.write ? o.bytes : 0);
        c->out.length = ANSWER + (o.write ? 0 : o.bytes);
    }
    int ep = watch(o.connections);
    for (;;) {
        int n = ready(ep, events);
        for (int i = 0; i < n; i++)
            serve_one(&connections[events[i].data.u32]);
        for (unsigned i = 0; i < o.connections && o.connections > SPIN_CONNECTIONS; i++)
            if (connections[i].out.count)
                serve_one(&connections[i]);
    }
}

static void connect_all(const struct sockaddr_in *sa)
{
    for (unsigned i = 0; i < o.connections; i++) {
        struct connection *c = &connections[i];
        c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (c->fd < 0 || connect(c->fd, (const struct sockaddr *)sa, sizeof *sa) < 0)
            die("connect");
        tune(c->fd);
        c->in.length = ANSWER + (o.write ? 0 : o.bytes);
        c->out.length = REQUEST + (o.write ? o.bytes : 0);
        c->out.count = o.depth / o.connections + (i < o.depth % o.connections);
    }
}

/* @return requests a second */
static double load(void)
{
    static struct epoll_event events[MAX_CONNECTIONS];
    uint64_t done = 0, before = 0;
    bool warm = false;
    int ep = watch(o.connections);
    for (unsigned i = 0; i < o.connections; i++)
        send_some(&connections[i], REQUEST, client_place);
    double start = now(), end = start;
    for (unsigned rounds = 1;; rounds++) {
        if ((rounds & 255) == 0) {
            end = now();
            if (!warm && end - start > WARM_UP) {
                start = end;
                before = done;
                warm = true;
            } else if (warm && end - start > o.seconds) {
                break;
            }
        }
        int n = ready(ep, events);
        for (int i = 0; i < n; i++) {
            struct connection *c = &connections[events[i].data.u32];
            uint64_t got = receive_some(c);
            done += got;
            c->out.count += got;
            send_some(c, REQUEST, client_place);
        }
        for (unsigned i = 0; i < o.connections && o.connections > SPIN_CONNECTIONS; i++)
            if (connections[i].out.count)
                send_some(&connections[i], REQUEST, client_place);
    }
    return (double)(done - before) / (end - start);
}

/* ---- shared memory ---- */

/* Each counter is written by one side alone, and lies two cache lines from the other. */
static struct shared {
    alignas(128) _Atomic uint64_t asked;
    alignas(128) _Atomic uint64_t done;
    alignas(128) char first[];
} * shared;

static int bell; /* eventfd that the server sleeps on, with -R */

static struct {
    double p50, p99;
} paced; /* us, with -R */

static void copy_one(uint64_t n)
{
    char *buffer = client_data + n % o.depth * o.bytes, *place = somewhere();
    memcpy(o.write ? place : buffer, o.write ? buffer : place, o.bytes);
}

_Noreturn static void serve_memory(int ready_fd)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    pin(o.server_core);
    data = memory(o.data_bytes + o.bytes);
    if (write(ready_fd, "", 1) != 1)
        die("pipe");
    for (uint64_t done = 0;;) {
        eventfd_t ignored;
        if (o.rate > 0 && eventfd_read(bell, &ignored))
            die("eventfd");
        uint64_t asked = atomic_load_explicit(&shared->asked, memory_order_acquire);
        while (done < asked) {
            copy_one(done++);
            atomic_store_explicit(&shared->done, done, memory_order_release);
        }
    }
}

/* @return requests a second */
static double load_memory(void)
{
    double start = now(), end = start, warm = 0;
    uint64_t before = 0, done = 0;
    for (unsigned rounds = 1; !warm || end - warm < o.seconds; rounds++) {
        atomic_store_explicit(&shared->asked, done + o.depth, memory_order_release);
        uint64_t was = done;
        while ((done = atomic_load_explicit(&shared->done, memory_order_acquire)) == was)
            ;
        if (rounds & 255)
            continue;
        end = now();
        if (!warm && end - start > WARM_UP) {
            warm = end;
            before = done;
        }
    }
    return (double)(done - before) / (end - warm);
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* One request at a time, by schedule, to a server that sleeps meanwhile. @return requests a second */
static double load_paced(void)
{
    unsigned count = (unsigned)(o.rate * o.seconds) + 1;
    double *took = calloc(count, sizeof *took);
    if (!took)
        die("no memory");
    double start = now();
    for (unsigned i = 0; i < count; i++) {
        while (now() < start + i / o.rate)
            ;
        double begin = now();
        atomic_store_explicit(&shared->asked, i + 1, memory_order_release);
        if (eventfd_write(bell, 1))
            die("eventfd");
        while (atomic_load_explicit(&shared->done, memory_order_acquire) <= i)
            ;
        took[i] = (now() - begin) * 1e6;
    }
    qsort(took, count, sizeof *took, by_size);
    paced.p50 = took[count / 2];
    paced.p99 = took[(unsigned)(count * 0.99)];
    free(took);
    return count / (now() - start);
}

/* ---- options ---- */

static double number(const char *text, double min, double max)
{
    char *rest;
    double v = strtod(text, &rest);
    if (!*text || *rest || !(v >= min) || v > max) {
        fprintf(stderr, "ceiling: \"%s\" is not a number from %g to %g\n", text, min, max);
        exit(2);
    }
    return v;
}

_Noreturn static void usage(const char *what)
{
    fprintf(stderr, "ceiling: %s\n", what);
    exit(2);
}

static void parse(int argc, char **argv)
{
    for (int opt; (opt = getopt(argc, argv, "w:o:q:P:d:r:t:s:c:mR:")) >= 0;) {
        switch (opt) {
        case 'w':
            o.write = strcmp(optarg, "write") == 0;
            if (!o.write && strcmp(optarg, "read"))
                usage("-w takes read or write");
            break;
        case 'o':
            o.bytes = (size_t)number(optarg, 1, 16 << 20);
            break;
        case 'q':
            o.depth = (unsigned)number(optarg, 1, 1 << 16);
            break;
        case 'P':
            o.connections = (unsigned)number(optarg, 1, MAX_CONNECTIONS);
            break;
        case 'd':
            o.data_bytes = (size_t)number(optarg, 1, 1 << 20) << 20;
            break;
        case 'r':
            o.chunk = (size_t)number(optarg, 1, 1 << 20) << 10;
            break;
        case 't':
            o.seconds = number(optarg, 0.01, 86400);
            break;
        case 's':
            o.server_core = (int)number(optarg, 0, CPU_SETSIZE - 1);
            break;
        case 'c':
            o.client_core = (int)number(optarg, 0, CPU_SETSIZE - 1);
            break;
        case 'm':
            o.memory = true;
            break;
        case 'R':
            o.rate = number(optarg, 1, 1e6);
            break;
        default:
            exit(2);
        }
    }
    if (optind < argc)
        usage("takes options only");
    if (o.depth < o.connections)
        usage("the depth is over all connections, so it must not be below their number");
}

/* ---- both ---- */

static int listen_somewhere(struct sockaddr_in *sa)
{
    *sa = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof *sa;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)sa, sizeof *sa) < 0 ||
        listen(listener, MAX_CONNECTIONS) < 0 || getsockname(listener, (struct sockaddr *)sa, &len) < 0)
        die("cannot listen");
    return listener;
}

static void share_memory(void)
{
    size_t bytes = sizeof *shared + o.depth * o.bytes;
    shared = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    bell = eventfd(0, EFD_CLOEXEC);
    if (shared == MAP_FAILED || bell < 0)
        die("no memory");
    memset(shared->first, 1, o.depth * o.bytes);
    client_data = shared->first;
}

/* @return requests a second */
static double run(const struct sockaddr_in *sa)
{
    if (o.memory)
        return o.rate > 0 ? load_paced() : load_memory();
    client_data = memory(o.depth * o.bytes);
    connect_all(sa);
    return load();
}

int main(int argc, char **argv)
{
    parse(argc, argv);
    struct sockaddr_in sa;
    int listener = -1, ready_pipe[2];
    if (o.memory)
        share_memory();
    else
        listener = listen_somewhere(&sa);
    char go;
    if (pipe2(ready_pipe, O_CLOEXEC) < 0)
        die("pipe");
    pid_t pid = fork();
    if (pid == 0 && o.memory)
        serve_memory(ready_pipe[1]);
    if (pid == 0)
        serve(listener, ready_pipe[1]);
    close(ready_pipe[1]);
    if (pid < 0 || read(ready_pipe[0], &go, 1) != 1)
        die("no server");
    pin(o.client_core);
    clockid_t server_clock;
    if (clock_getcpuclockid(pid, &server_clock))
        die("no clock of the server");
    double start = now(), client = seconds_of(CLOCK_PROCESS_CPUTIME_ID), server = seconds_of(server_clock),
           iops = run(&sa);
    double wall = now() - start;
    client = seconds_of(CLOCK_PROCESS_CPUTIME_ID) - client;
    server = seconds_of(server_clock) - server;
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    printf("{\"iops\": %.1f, \"mib_s\": %.1f, ", iops, iops * (double)o.bytes / 1048576);
    if (o.rate > 0)
        printf("\"latency_us\": {\"p50\": %.3f, \"p99\": %.3f}, ", paced.p50, paced.p99);
    else
        printf("\"latency_us\": {\"avg\": %.3f}, ", o.depth / iops * 1e6);
    /* The shares of their cores that both got tell a measurement that was disturbed. */
    printf("\"client_cpu\": %.3f, \"server_cpu\": %.3f}\n", client / wall, server / wall);
    return 0;
}
