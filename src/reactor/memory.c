/* SPDX-License-Identifier: BSD-3-Clause */
#include "reactor/memory.h"

#include <pthread.h>
#include <stdlib.h>

struct piece {
    struct plx_list link;
    void *at;
    size_t bytes;
};

static pthread_mutex_t memory_lock = PTHREAD_MUTEX_INITIALIZER;
static struct plx_list pieces = {&pieces, &pieces}, users = {&users, &users};

static struct piece *piece_new(void *at, size_t bytes)
{
    struct piece *p = malloc(sizeof *p);
    if (p)
        *p = (struct piece){.at = at, .bytes = bytes};
    return p;
}

void plx_memory_add(void *at, size_t bytes)
{
    struct piece *p = piece_new(at, bytes);
    if (!p)
        return; /* it is copied then */
    pthread_mutex_lock(&memory_lock);
    plx_list_add_tail(&pieces, &p->link);
    plx_list_for_each(it, &users) {
        struct plx_memory_user *u = plx_list_entry(it, struct plx_memory_user, link);
        u->added(u, at, bytes);
    }
    pthread_mutex_unlock(&memory_lock);
}

bool plx_memory_add_unheard(void *at, size_t bytes)
{
    if (pthread_mutex_trylock(&memory_lock))
        return false;
    const bool unheard = plx_list_empty(&users);
    struct piece *p = unheard ? piece_new(at, bytes) : NULL;
    if (p)
        plx_list_add_tail(&pieces, &p->link);
    pthread_mutex_unlock(&memory_lock);
    return unheard;
}

static struct piece *piece_at(const void *at)
{
    plx_list_for_each(it, &pieces) {
        struct piece *p = plx_list_entry(it, struct piece, link);
        if (p->at == at)
            return p;
    }
    return NULL;
}

void plx_memory_remove(void *at)
{
    pthread_mutex_lock(&memory_lock);
    struct piece *p = piece_at(at);
    if (p) {
        plx_list_del(&p->link);
        plx_list_for_each(it, &users) {
            struct plx_memory_user *u = plx_list_entry(it, struct plx_memory_user, link);
            u->removed(u, at, p->bytes);
        }
    }
    pthread_mutex_unlock(&memory_lock);
    free(p);
}

void plx_memory_watch(struct plx_memory_user *u)
{
    pthread_mutex_lock(&memory_lock);
    plx_list_add_tail(&users, &u->link);
    plx_list_for_each(it, &pieces) {
        const struct piece *p = plx_list_entry(it, struct piece, link);
        u->added(u, p->at, p->bytes);
    }
    pthread_mutex_unlock(&memory_lock);
}

void plx_memory_unwatch(struct plx_memory_user *u)
{
    pthread_mutex_lock(&memory_lock);
    plx_list_del(&u->link);
    pthread_mutex_unlock(&memory_lock);
}
