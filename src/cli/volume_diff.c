/* SPDX-License-Identifier: BSD-3-Clause */
/* `pollux volume diff`: where two snapshots are different. */
#include "pool.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

enum { EXTENTS_AT_ONCE = 4096 };

struct differences {
    bool json, any;
    uint64_t n, bytes, holes;
};

/* A line each as it comes: there may be millions. */
static void show_extents(struct differences *s, const struct plx_pool_extent *e, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        if (s->json)
            printf("%s    {\"offset\": %" PRIu64 ", \"length\": %" PRIu64 ", \"data\": %s}", s->any ? ",\n" : "\n",
                   e[i].offset, e[i].length, e[i].data ? "true" : "false");
        else
            printf("%15" PRIu64 " %15" PRIu64 "  %s\n", e[i].offset, e[i].length, e[i].data ? "data" : "zeroes");
        s->any = true;
        s->n++;
        *(e[i].data ? &s->bytes : &s->holes) += e[i].length;
    }
}

static void show_differences_head(const struct pool_command *o, const struct plx_pool_diff *d)
{
    if (!o->json) {
        printf("%15s %15s  NOW\n", "OFFSET", "LENGTH");
        return;
    }
    json_t *from = d->from ? pool_json_text(d->from) : json_null(), *to = pool_json_text(d->to);
    char *a = json_dumps(from, JSON_ENCODE_ANY), *b = json_dumps(to, JSON_ENCODE_ANY);
    printf("{\n  \"from\": %s,\n  \"to\": %s,\n  \"extents\": [", a ? a : "null", b ? b : "null");
    free(a);
    free(b);
    json_decref(from);
    json_decref(to);
}

static void show_differences_end(const struct differences *s, const struct plx_pool_diff *d)
{
    char data[32], zeroes[32], size[32];
    if (s->json) {
        printf("%s],\n  \"size\": %" PRIu64 ",\n  \"data\": %" PRIu64 ",\n  \"zeroes\": %" PRIu64 "\n}\n",
               s->any ? "\n  " : "", d->size, s->bytes, s->holes);
        return;
    }
    ctl_size((double)s->bytes, data, sizeof data);
    ctl_size((double)s->holes, zeroes, sizeof zeroes);
    ctl_size((double)d->size, size, sizeof size);
    printf("%" PRIu64 " place%s of %s: %s of data, %s that became zeroes\n", s->n, s->n == 1 ? "" : "s", size, data,
           zeroes);
}

static int diff_pool(const struct pool_command *o, struct pool_at *at, struct plx_pool_diff *d)
{
    struct differences s = {.json = o->json};
    int ret = pool_diff(at, d);
    if (!ret)
        show_differences_head(o, d);
    while (!ret) {
        show_extents(&s, d->extents, d->n);
        if (d->offset >= d->size)
            break;
        ret = pool_diff(at, d);
    }
    if (ret)
        return cli_fail(pool_status(ret), "%s: %s", at->name, cli_clean(d->err.text));
    show_differences_end(&s, d);
    return EXIT_OK;
}

int volume_diff(const struct pool_command *o, const struct pool_verb *v)
{
    const bool both = o->nwords == 3;
    struct plx_pool_diff d = {.from = both ? o->words[1] : NULL, .to = o->words[both ? 2 : 1], .room = EXTENTS_AT_ONCE};
    struct pool_at at;
    int ret = pool_open_pool(&at, o->words[0], v);
    if (ret)
        return ret;
    d.extents = calloc(EXTENTS_AT_ONCE, sizeof *d.extents);
    ret = d.extents ? diff_pool(o, &at, &d) : cli_fail(EXIT_RUNTIME, "out of memory");
    free(d.extents);
    return pool_put(&at, ret);
}
