/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/log.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

enum { LINE = 512 };
#define GRAIN_NS UINT64_C(50000000) /* how exactly intervals are kept: cores mostly read the time, and rarely set it */

/*
 * Orders, of which tests/model/test_log.c finds that they are needed and enough. A call is released when it is listed,
 * and a sample when it is written; who tells acquires both. Whoever counts a line acquires the count: of who listed the
 * call, and of who told, with which the sample's memory goes back. That there is something to tell is released,
 * and whoever tells acquires it when it takes it back; always by an exchange, so that what all have done who said so is
 * there, not the last one's alone. One tells at a time. All else is relaxed: who a peer is, the level, and the time,
 * which may as well be late.
 */
static plx_log_fn log_fn;
static void *log_arg;
static _Atomic enum plx_log_level log_level;

static struct plx_log_site *_Atomic sites; /* those that have logged */
static _Atomic uint64_t log_now, interval_end;
static atomic_bool left_out; /* there is something to tell at the end of the interval */
static atomic_bool telling;  /* and somebody is at it */

const char *plx_version(void)
{
    return PLX_VERSION;
}

/* ---- whom a line is about ---- */

static uint64_t hash(const void *bytes, size_t len) /* FNV-1a, and never 0 */
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < len; i++)
        h = (h ^ ((const unsigned char *)bytes)[i]) * UINT64_C(0x100000001b3);
    return h | !h;
}

/* Of an address neither the port counts, nor the half of an IPv6 address that is the host's: peers choose both. */
static uint64_t peer_hash(const char *fmt, va_list ap)
{
    const char *name = strncmp(fmt, "%s: ", 4) == 0 ? va_arg(ap, const char *) : "";
    size_t len = strlen(name);
    if (*name == '[') {
        char text[INET6_ADDRSTRLEN];
        struct in6_addr v6;
        len = strcspn(name, "]%"); /* nor does the zone of a link-local one */
        snprintf(text, sizeof text, "%.*s", (int)len - 1, name + 1);
        if (inet_pton(AF_INET6, text, &v6) == 1)
            return hash(&v6, sizeof v6 / 2);
    } else if (*name >= '0' && *name <= '9') {
        len = strcspn(name, ":");
    }
    return hash(name, len);
}

static struct plx_log_peer *find_peer(struct plx_log_site *site, uint64_t who)
{
    for (int i = 0; i < PLX_LOG_PEERS; i++)
        if (atomic_load_explicit(&site->peers[i].who, memory_order_relaxed) == who)
            return &site->peers[i];
    for (int i = 0; i < PLX_LOG_PEERS; i++) {
        uint64_t nobody = 0;
        if (atomic_compare_exchange_strong_explicit(&site->peers[i].who, &nobody, who, memory_order_relaxed,
                                                    memory_order_relaxed))
            return &site->peers[i];
    }
    return &site->peers[PLX_LOG_PEERS];
}

/* ---- intervals ---- */

static void something_to_tell(void)
{
    atomic_exchange_explicit(&left_out, true, memory_order_release);
}

/*
 * An interval is over for one peer of one call. Who was over the limit is left there, and has no more than its count
 * told, until an interval passes in which it said nothing.
 */
static void tell_peer(struct plx_log_peer *p)
{
    unsigned lines = atomic_load_explicit(&p->lines, memory_order_relaxed);
    while (lines <= PLX_LOG_LINES)
        if (atomic_compare_exchange_weak_explicit(&p->lines, &lines, 0, memory_order_relaxed, memory_order_relaxed)) {
            atomic_store_explicit(&p->who, 0, memory_order_relaxed);
            return;
        }
    if (!atomic_load_explicit(&p->sampled, memory_order_acquire)) { /* the sample is being written just now */
        something_to_tell();
        return;
    }
    char line[LINE], sample[PLX_LOG_SAMPLE];
    enum plx_log_level level = p->level;
    memcpy(sample, p->sample, sizeof sample);
    atomic_store_explicit(&p->sampled, false, memory_order_relaxed);
    /* And the next one writes a sample. */
    lines = atomic_exchange_explicit(&p->lines, PLX_LOG_LINES, memory_order_release) - PLX_LOG_LINES;
    snprintf(line, sizeof line, "%u more like this were left out: %s", lines, sample);
    log_fn(log_arg, level, line);
}

static void log_tell(uint64_t now)
{
    if (atomic_exchange_explicit(&telling, true, memory_order_acquire))
        return;
    if (now >= atomic_load_explicit(&interval_end, memory_order_relaxed)) {
        atomic_store_explicit(&interval_end, now + PLX_LOG_INTERVAL_NS, memory_order_relaxed);
        atomic_exchange_explicit(&left_out, false, memory_order_acquire);
        for (struct plx_log_site *s = atomic_load_explicit(&sites, memory_order_acquire); s; s = s->next)
            for (int i = 0; i <= PLX_LOG_PEERS; i++)
                tell_peer(&s->peers[i]);
    }
    atomic_store_explicit(&telling, false, memory_order_release);
}

void plx_log_tick(uint64_t now)
{
    if (now > atomic_load_explicit(&log_now, memory_order_relaxed) + GRAIN_NS)
        atomic_store_explicit(&log_now, now, memory_order_relaxed);
    if (atomic_load_explicit(&left_out, memory_order_relaxed))
        log_tell(now);
}

uint64_t plx_log_due(void)
{
    return atomic_load_explicit(&left_out, memory_order_relaxed)
               ? atomic_load_explicit(&interval_end, memory_order_relaxed)
               : 0;
}

void plx_log_set(plx_log_fn fn, void *arg, enum plx_log_level level)
{
    atomic_store_explicit(&log_now, 0, memory_order_relaxed);
    atomic_store_explicit(&interval_end, 0, memory_order_relaxed);
    if (log_fn)
        log_tell(0);
    log_fn = fn;
    log_arg = arg;
    log_level = level;
}

void plx_log_set_level(enum plx_log_level level)
{
    log_level = level;
}

enum plx_log_level plx_log_get_level(void)
{
    return log_level;
}

/* ---- lines ---- */

static void list_site(struct plx_log_site *site)
{
    if (atomic_load_explicit(&site->listed, memory_order_relaxed) ||
        atomic_exchange_explicit(&site->listed, true, memory_order_relaxed))
        return;
    struct plx_log_site *first = atomic_load_explicit(&sites, memory_order_relaxed);
    do
        site->next = first;
    while (!atomic_compare_exchange_weak_explicit(&sites, &first, site, memory_order_release, memory_order_relaxed));
    /* Others may have left some out here, which whoever told then did not find; else they know that it is there. */
    for (int i = 0; i <= PLX_LOG_PEERS; i++)
        if (atomic_fetch_add_explicit(&site->peers[i].lines, 0, memory_order_release) > PLX_LOG_LINES)
            something_to_tell();
}

/* Names that come from peers must not steer a terminal. */
static void make_harmless(char *text)
{
    for (char *c = text; *c; c++)
        if ((unsigned char)*c < ' ' || (unsigned char)*c >= 0x7f)
            *c = '?';
}

void plx_log_each(enum plx_log_level level, const char *fmt, ...)
{
    char line[LINE];
    va_list ap;
    if (!log_fn || level > atomic_load_explicit(&log_level, memory_order_relaxed))
        return;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    make_harmless(line);
    log_fn(log_arg, level, line);
}

void plx_log(struct plx_log_site *site, enum plx_log_level level, const char *fmt, ...)
{
    if (!log_fn || level > atomic_load_explicit(&log_level, memory_order_relaxed))
        return;
    log_tell(atomic_load_explicit(&log_now, memory_order_relaxed));
    list_site(site);
    va_list ap;
    va_start(ap, fmt);
    struct plx_log_peer *p = find_peer(site, peer_hash(fmt, ap));
    va_end(ap);
    unsigned before = atomic_fetch_add_explicit(&p->lines, 1, memory_order_acquire);
    if (before > PLX_LOG_LINES)
        return;
    bool over = before == PLX_LOG_LINES;
    char line[LINE], *text = over ? p->sample : line;
    va_start(ap, fmt);
    vsnprintf(text, over ? sizeof p->sample : sizeof line, fmt, ap);
    va_end(ap);
    make_harmless(text);
    if (!over) {
        log_fn(log_arg, level, text);
        return;
    }
    p->level = level;
    atomic_store_explicit(&p->sampled, true, memory_order_release);
    something_to_tell();
}

int plx_fail(struct plx_error *err, int ret, const char *fmt, ...)
{
    if (err) {
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(err->text, sizeof err->text, fmt, ap);
        va_end(ap);
    }
    return ret;
}
