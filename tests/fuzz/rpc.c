/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Bytes for the control server: framing, parser, dispatcher, and the methods. The first byte of the input are options,
 * the second says in pieces of which size the rest comes; or the rest is a script that chooses among the methods, and
 * values for their parameters that come far. Each input has a server of its own, from its making to its
 * end; what leaves the process is wrapped: disks are of memory and nothing alone, no file is written, nobody is
 * connected to. Time passes when nothing else happens.
 */
#include "rpc/rpc.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    WAIT = 1,        /* before the initialisation */
    HALF_CLOSED = 2, /* it says no more */
    GONE = 4,        /* it has closed before it read anything */
    TWO = 8,         /* there is another client, who asks the same; and a file that the state is kept in */
    SCRIPT = 16,     /* the rest is a script */
    METHODS_MAX = 256,
    QUIET_ROUNDS = 20,
    SOON = 100, /* milliseconds in which timers end what waits for them */
    ROUNDS_MAX = 1000000,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int __wrap_clock_gettime(clockid_t id, struct timespec *t);
int __wrap_connect(int fd, const struct sockaddr *addr, socklen_t len);
int __wrap_bind(int fd, const struct sockaddr *addr, socklen_t len);
int __real_bind(int fd, const struct sockaddr *addr, socklen_t len);
int __wrap_getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **res);
int __wrap_plx_bdev_open_begin(struct plx_reactor *r, const char *url, const char *name, plx_bdev_done_fn done,
                               void *arg);
int __real_plx_bdev_open_begin(struct plx_reactor *r, const char *url, const char *name, plx_bdev_done_fn done,
                               void *arg);
long __wrap_plx_keep_read(const char *path, void *data, size_t size);
int __wrap_plx_keep_write(const char *path, const void *data, size_t len);

/* ---- the world ---- */

static uint64_t now_ns = PLX_NS_PER_S;

int __wrap_clock_gettime(clockid_t id, struct timespec *t)
{
    (void)id;
    *t = (struct timespec){.tv_sec = (time_t)(now_ns / PLX_NS_PER_S), .tv_nsec = (long)(now_ns % PLX_NS_PER_S)};
    return 0;
}

int __wrap_connect(int fd, const struct sockaddr *addr, socklen_t len)
{
    (void)fd, (void)addr, (void)len;
    errno = ECONNREFUSED;
    return -1;
}

int __wrap_bind(int fd, const struct sockaddr *addr, socklen_t len)
{
    const struct sockaddr_in *in = (const void *)addr;
    if (addr->sa_family == AF_INET && ntohl(in->sin_addr.s_addr) >> 24 == 127)
        return __real_bind(fd, addr, len);
    errno = EADDRNOTAVAIL;
    return -1;
}

int __wrap_getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **res)
{
    (void)node, (void)service, (void)hints, (void)res;
    return EAI_NONAME;
}

int __wrap_plx_bdev_open_begin(struct plx_reactor *r, const char *url, const char *name, plx_bdev_done_fn done,
                               void *arg)
{
    bool safe = !strncmp(url, "null:", 5) || !strncmp(url, "ram:", 4);
    return safe ? __real_plx_bdev_open_begin(r, url, name, done, arg) : -ENOENT;
}

long __wrap_plx_keep_read(const char *path, void *data, size_t size)
{
    (void)path, (void)data, (void)size;
    return -ENOENT;
}

int __wrap_plx_keep_write(const char *path, const void *data, size_t len)
{
    (void)path, (void)data, (void)len;
    return 0;
}

/* ---- a server ---- */

static struct plx_reactor *reactor;
static struct plx_nvmf_target *target;
static struct plx_rpc *rpc;
static bool over;

static void is_over(void *arg, int ret)
{
    (void)arg, (void)ret;
    over = true;
}

static void wait_over(void)
{
    for (int rounds = 0, idle = 0; !over; rounds++) {
        if (!plx_reactor_poll(reactor)) {
            /* Threads that open disks, and write the state, take as long as they do: limits of time are theirs, too. */
            usleep(idle++ < SOON ? 10 : 1000);
            now_ns += PLX_NS_PER_MS;
        }
        assert(rounds < ROUNDS_MAX);
    }
    over = false;
}

static void server_start(uint8_t options)
{
    const struct plx_rpc_opts opts = {
        .reactors = &reactor, .nreactors = 1, .state = options & TWO ? "state" : NULL, .wait = options & WAIT};
    const struct plx_reactor_opts plain = {.core = -1};
    struct plx_rpc_opts o = opts;
    if (!reactor && plx_reactor_create(&reactor, &plain))
        __builtin_trap();
    if (plx_nvmf_target_create(&target, &reactor, 1, NULL, NULL))
        __builtin_trap();
    plx_nvmf_target_start(target, is_over, NULL);
    wait_over();
    o.target = target;
    if (plx_rpc_create(&rpc, &o, NULL) || plx_rpc_listen(rpc, NULL))
        __builtin_trap();
}

static void server_stop(void)
{
    plx_rpc_stop(rpc, is_over, NULL);
    wait_over();
    assert(plx_list_empty(&rpc->calls) && plx_list_empty(&rpc->clients));
    plx_nvmf_target_stop(target, 0, is_over, NULL);
    wait_over();
    plx_nvmf_target_destroy(target);
    plx_rpc_destroy(rpc);
}

/* ---- its clients ---- */

static int client_new(void)
{
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) < 0)
        __builtin_trap();
    rpc_client_add(rpc, fds[0]);
    return fds[1];
}

static void check_one(const json_t *a)
{
    const json_t *id = json_object_get(a, "id"), *error = json_object_get(a, "error");
    assert(!strcmp(json_string_value(json_object_get(a, "jsonrpc")), "2.0"));
    assert(json_is_null(id) || json_is_string(id) || json_is_number(id));
    assert(!error == !!json_object_get(a, "result") && json_object_size(a) == 3);
    assert(!error || (json_integer_value(json_object_get(error, "code")) < 0 &&
                      json_string_length(json_object_get(error, "message")) > 10));
}

/* Answers are one a line. */
static void check_answer(const char *line, size_t len)
{
    size_t i;
    json_t *a = json_loadb(line, len, JSON_ALLOW_NUL, NULL), *each;
    assert(a && (!json_is_array(a) || json_array_size(a)));
    if (json_is_array(a)) {
        json_array_foreach(a, i, each)
        {
            check_one(each);
        }
    } else {
        check_one(a);
    }
    json_decref(a);
}

/* Reads what there is, and the rest of the last answer; after a stop that may be cut off. */
static void client_read(int fd, bool stopped)
{
    static char in[8 << 20];
    size_t n = 0;
    for (int vain = 0;;) {
        ssize_t got = recv(fd, in + n, sizeof in - n, 0);
        char *start = in, *end;
        if (got == 0 || (got < 0 && (errno != EAGAIN || n == 0))) {
            assert(n == 0 || stopped);
            return;
        }
        if (got < 0) {
            plx_reactor_poll(reactor);
            assert(vain++ < ROUNDS_MAX);
            continue;
        }
        n += (size_t)got;
        for (; (end = memchr(start, '\n', n - (size_t)(start - in))); start = end + 1)
            check_answer(start, (size_t)(end - start));
        n -= (size_t)(start - in);
        memmove(in, start, n);
        assert(n < sizeof in);
    }
}

static void settle(int fd, bool reads)
{
    for (int quiet = 0, rounds = 0; quiet < QUIET_ROUNDS && rounds < 3000; rounds++) {
        quiet = plx_reactor_poll(reactor) ? 0 : quiet + 1;
        now_ns += PLX_NS_PER_MS;
        if (reads)
            client_read(fd, false);
    }
}

static void client_say(int fd, const uint8_t *data, size_t size, size_t piece, bool reads)
{
    while (size) {
        size_t n = piece && piece < size ? piece : size;
        ssize_t sent = send(fd, data, n, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN)
            return;
        sent = sent < 0 ? 0 : sent;
        data += sent;
        size -= (size_t)sent;
        settle(fd, reads);
    }
}

/* ---- scripts ---- */

struct script {
    const uint8_t *at;
    size_t left;
};

static const struct rpc_method *methods[METHODS_MAX];
static unsigned nmethods;

static void list_method(void *arg, const struct rpc_method *m)
{
    (void)arg;
    assert(nmethods < METHODS_MAX);
    methods[nmethods++] = m;
}

static uint8_t script_byte(struct script *s)
{
    if (!s->left)
        return 0;
    s->left--;
    return *s->at++;
}

static json_t *script_text(struct script *s, const char *name)
{
    static const char *const nqns[] = {"nqn.2001-01.x:a", "nqn.2001-01.x:b", "nqn.2014-08.org.nvmexpress.discovery",
                                       "x"};
    static const char *const addrs[] = {"127.0.0.1", "127.0.0.2", "::1", "0.0.0.0"};
    static const char *const ports[] = {"0", "40001", "40002", "65536"};
    static const char *const urls[] = {"ram:1M", "null:1G", "ram:1M?block=4096", "file:/x"};
    static const char *const ids[] = {"00112233445566778899AABBCCDDEEFF", "0011223344556677", "", "x"};
    static const char *const names[] = {"a", "b", "Malloc0", "EE_a"};
    uint8_t b = script_byte(s);
    const char *const *pool = strstr(name, "nqn") || !strcmp(name, "host")       ? nqns
                              : !strcmp(name, "traddr")                          ? addrs
                              : !strcmp(name, "trsvcid")                         ? ports
                              : !strcmp(name, "url")                             ? urls
                              : !strcmp(name, "nguid") || !strcmp(name, "eui64") ? ids
                                                                                 : names;
    if (!strcmp(name, "trtype"))
        return json_string("TCP");
    if (!strcmp(name, "name") && b & 16)
        return json_string("nvmf"); /* a group of methods */
    return json_string(pool[b % 4]);
}

static json_t *script_number(struct script *s, const struct rpc_param *p)
{
    static const json_int_t numbers[] = {0, 1, 2, 3, 8, 64, 100, 512, 4096, 65535, 1 << 20, UINT32_MAX, INT64_MAX, -1};
    uint8_t b = script_byte(s);
    if (!strcmp(p->name, "block_size"))
        return json_integer(b & 1 ? 4096 : 512);
    return json_integer(numbers[b % PLX_ARRAY_SIZE(numbers)]);
}

static json_t *script_choice(struct script *s, const char *values)
{
    for (unsigned n = script_byte(s) % 8; n && strchr(values, '|'); n--)
        values = strchr(values, '|') + 1;
    return json_stringn(values, strcspn(values, "|"));
}

static json_t *script_params(struct script *s, const struct rpc_param *members)
{
    static const char *const uuids[] = {"11111111-2222-3333-4444-555555555555", "11111111-2222-3333-4444-555555555556"};
    json_t *out = json_object();
    for (const struct rpc_param *p = members; p && p->name; p++) {
        uint8_t b = script_byte(s);
        if (p->required ? b == 255 : b % 4 != 1)
            continue;
        json_t *v = b == 253                 ? json_null()
                    : p->type == RPC_BOOL    ? json_boolean(b & 64)
                    : p->type == RPC_UUID    ? json_string(uuids[b >> 7])
                    : p->type == RPC_STRING  ? script_text(s, p->name)
                    : p->type == RPC_ENUM    ? script_choice(s, p->values)
                    : p->type == RPC_FLAGS   ? json_pack("[o]", script_choice(s, p->values))
                    : p->type == RPC_STRINGS ? json_pack("[o]", script_text(s, p->name))
                    : p->type == RPC_UINTS   ? json_pack("[i, i]", script_byte(s), script_byte(s))
                    : p->type == RPC_OBJECT  ? script_params(s, p->members)
                    : p->type == RPC_OBJECTS ? json_pack("[o]", script_params(s, p->members))
                    : p->type == RPC_MAP     ? json_pack("{s:o}", "key", script_text(s, p->name))
                                             : script_number(s, p);
        json_object_set_new(out, p->name, v);
    }
    return out;
}

/* @return requests, one after the other; in a batch now and then */
static char *script_requests(const uint8_t *data, size_t size, size_t *len)
{
    struct script s = {data, size};
    json_t *all = json_array();
    if (!nmethods)
        rpc_methods_each(list_method, NULL);
    while (s.left) {
        const struct rpc_method *m = methods[script_byte(&s) % nmethods];
        json_array_append_new(all, json_pack("{s:i, s:s, s:o}", "id", (int)s.left, "method", m->name, "params",
                                             script_params(&s, m->params)));
    }
    char *text = json_dumps(all, JSON_COMPACT);
    *len = strlen(text);
    if (size % 8) { /* the array's brackets, and what is between its values, are blanks then */
        text[0] = text[*len - 1] = ' ';
        for (size_t i = 0, depth = 0; i < *len; i++) {
            depth += (text[i] == '{' || text[i] == '[') - (text[i] == '}' || text[i] == ']');
            if (!depth && text[i] == ',')
                text[i] = ' ';
        }
    }
    json_decref(all);
    return text;
}

static void run(const uint8_t *data, size_t size, uint8_t options, uint8_t piece)
{
    bool reads = !(options & GONE);
    server_start(options);
    int first = client_new(), second = options & TWO ? client_new() : -1;
    if (second >= 0)
        client_say(second, data, size, 0, true);
    client_say(first, data, size, piece, reads);
    if (options & HALF_CLOSED)
        shutdown(first, SHUT_WR);
    if (reads)
        settle(first, true);
    if (second >= 0)
        close(second);
    if (options & GONE)
        close(first);
    server_stop();
    if (!(options & GONE)) {
        client_read(first, true);
        close(first);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    if (data[0] & SCRIPT) {
        size_t len;
        char *text = script_requests(data + 2, size - 2, &len);
        run((const uint8_t *)text, len, data[0], data[1] < 8 ? 0 : data[1]);
        free(text);
    } else {
        run(data + 2, size - 2, data[0], data[1]);
    }
    return 0;
}
