/* SPDX-License-Identifier: BSD-3-Clause */
/* A circular doubly linked list whose links live in its members: O(1) removal from anywhere, no allocation. */
#ifndef PLX_BASE_LIST_H
#define PLX_BASE_LIST_H

#include <pollux/base.h>

#include "base/util.h"

static inline void plx_list_init(struct plx_list *l)
{
    l->prev = l->next = l;
}

static inline bool plx_list_empty(const struct plx_list *l)
{
    return l->next == l;
}

static inline void plx_list_add_tail(struct plx_list *head, struct plx_list *n)
{
    n->prev = head->prev;
    head->prev->next = n;
    n->next = head;
    head->prev = n;
}

/* Leaves n's links as they were: what is done next with it is to list it again. */
static inline void plx_list_take(const struct plx_list *n)
{
    n->prev->next = n->next;
    n->next->prev = n->prev;
}

/* Leaves n in a list of its own, so that removing it once more is harmless. */
static inline void plx_list_del(struct plx_list *n)
{
    plx_list_take(n);
    plx_list_init(n);
}

#define plx_list_entry(ptr, type, member) plx_container_of(ptr, type, member)

#define plx_list_for_each(it, head) for (struct plx_list *it = (head)->next; it != (head); it = it->next)

/* The body may remove `it`. */
#define plx_list_for_each_safe(it, head)                                                                               \
    for (struct plx_list *it = (head)->next, *it##_next = it->next; it != (head); it = it##_next, it##_next = it->next)

#endif
