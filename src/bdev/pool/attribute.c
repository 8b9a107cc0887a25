/* SPDX-License-Identifier: BSD-3-Clause */
/* What a volume is told to remember: attributes, which mean nothing here, and a checksum. */
#include "disk.h"
#include "op.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

_Static_assert((int)PLX_VOLUME_ATTRIBUTES == (int)POOL_ATTRIBUTES, "what is promised fits");

/* @return bytes of a text with its zero; 0 when it is not printable */
static size_t text_bytes(const char *text)
{
    size_t len = 0;
    for (size_t n; (n = plx_text_printable(text + len));)
        len += n;
    return text[len] ? 0 : len + 1;
}

bool pool_attributes_ok(const char attributes[POOL_ATTRIBUTES])
{
    size_t at = 0, n = 1;
    unsigned texts = 0;
    while (n && at < POOL_ATTRIBUTES && (texts % 2 || attributes[at])) {
        n = memchr(attributes + at, 0, POOL_ATTRIBUTES - at) ? text_bytes(attributes + at) : 0;
        at += n;
        texts++;
    }
    return n && texts % 2 == 0;
}

/* @return where its value is, or NULL; *end is where the last one ends */
static const char *attribute_find(const char attributes[POOL_ATTRIBUTES], const char *name, size_t *end)
{
    const char *found = NULL;
    size_t at = 0;
    while (at < POOL_ATTRIBUTES && attributes[at]) {
        const char *value = attributes + at + strlen(attributes + at) + 1;
        if (strcmp(attributes + at, name) == 0)
            found = value;
        at = (size_t)(value - attributes) + strlen(value) + 1;
    }
    *end = at;
    return found;
}

static void attribute_remove(char attributes[POOL_ATTRIBUTES], const char *name)
{
    size_t end;
    const char *value = attribute_find(attributes, name, &end);
    if (!value)
        return;
    char *at = attributes + (value - attributes) - strlen(name) - 1;
    const size_t n = strlen(name) + 1 + strlen(value) + 1;
    memmove(at, at + n, end - n - (size_t)(at - attributes));
    memset(attributes + end - n, 0, n);
}

int pool_attributes_set(struct pool_volume *v, struct plx_pool_op *op)
{
    char all[POOL_ATTRIBUTES];
    memcpy(all, v->attributes, sizeof all);
    for (uint32_t i = 0; i < op->n_attributes; i++) {
        const struct plx_volume_attribute *a = &op->attributes[i];
        const size_t name = text_bytes(a->name), value = a->value ? text_bytes(a->value) : 1;
        size_t end;
        if (name < 2 || !value)
            return plx_fail(&op->err, -EINVAL, "an attribute has a name, and that and its value are printable");
        attribute_remove(all, a->name);
        attribute_find(all, a->name, &end);
        if (a->value && name + value > sizeof all - end)
            return plx_fail(
                &op->err, -ENOSPC,
                "the names and values of the attributes of a volume have at most %d bytes, each counted with "
                "one more",
                POOL_ATTRIBUTES);
        if (a->value) {
            memcpy(all + end, a->name, name);
            memcpy(all + end + name, a->value, value);
        }
    }
    memcpy(v->attributes, all, sizeof all);
    v->changed = true;
    return 0;
}

void pool_volume_altered(struct pool_volume *v)
{
    v->altered++;
    v->changed |= v->has_checksum;
    v->has_checksum = false;
    v->checksum = 0;
}

int plx_volume_get_attribute(struct plx_bdev *volume, const char *name, char *out, size_t size)
{
    struct plx_pool *p = plx_volume_pool(volume);
    size_t end;
    pool_lock(p);
    const char *value = attribute_find(pool_volume_of(volume)->attributes, name, &end);
    const int ret = value ? snprintf(out, size, "%s", value) : -ENOENT;
    pool_unlock(p);
    return ret;
}

bool plx_volume_get_checksum(struct plx_bdev *snapshot, uint64_t *checksum)
{
    struct plx_pool *p = plx_volume_pool(snapshot);
    pool_lock(p);
    const struct pool_volume *v = pool_volume_of(snapshot);
    const bool there = v->has_checksum;
    *checksum = v->checksum;
    pool_unlock(p);
    return there;
}

int pool_attributes_attempt(struct plx_pool_work *w, struct pool_try *t)
{
    (void)t;
    w->v = w->op->volume ? pool_volume_find(w->pool, w->op->volume) : NULL;
    return w->v ? pool_attributes_set(w->v, w->op) : pool_work_no_volume(w->op, w->op->volume);
}
