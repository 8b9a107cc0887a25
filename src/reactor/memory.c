/* SPDX-License-Identifier: BSD-3-Clause */
#include "reactor/memory.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

struct piece {
    struct plx_list link;
    void *at;
    size_t bytes;
};

static pthread_mutex_t memory_lock = PTHREAD_MUTEX_INITIALIZER;
static struct plx_list pieces = {&pieces, &pieces}, users = {&users, &users};
static _Atomic unsigned nusers;

void plx_memory_add(void *at, size_t bytes)
{
    struct piece *p = malloc(sizeof *p);
    if (!p)
        return; /* it is copied then */
    *p = (struct piece){.at = at, .bytes = bytes};
    pthread_mutex_lock(&memory_lock);
    plx_list_add_tail(&pieces, &p->link);
    plx_list_for_each(it, &users) {
        struct plx_memory_user *u = plx_list_entry(it, struct plx_memory_user, link);
        u->added(u, at, bytes);
    }
    pthread_mutex_unlock(&memory_lock);
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
    atomic_fetch_add(&nusers, 1);
    plx_list_add_tail(&users, &u->link);
    plx_list_for_each(it, &pieces) {
        const struct piece *p = plx_list_entry(it, struct piece, link);
        u->added(u, p->at, p->bytes);
    }
    pthread_mutex_unlock(&memory_lock);
}

bool plx_memory_is_watched(void)
{
    return atomic_load(&nusers);
}

void plx_memory_unwatch(struct plx_memory_user *u)
{
    pthread_mutex_lock(&memory_lock);
    plx_list_del(&u->link);
    atomic_fetch_sub(&nusers, 1);
    pthread_mutex_unlock(&memory_lock);
}
