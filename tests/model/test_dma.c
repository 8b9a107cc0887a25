/* SPDX-License-Identifier: BSD-3-Clause */
/* Tables of the memory that functions reach: who was given memory finds it, and no table is freed under its reader. */
#include "model.h"

#include <pthread.h>
#include <stdlib.h>

/* A table of each version, which is there till it is freed. */
#define malloc(bytes) table_made(bytes)
#define free(at) table_gone(at)
#define qsort(base, n, size, compare) ((void)(compare)) /* they are in order */
#define pthread_mutex_lock(mutex) ((void)(mutex), model_lock(&exclusion))
#define pthread_mutex_unlock(mutex) ((void)(mutex), model_unlock(&exclusion))

static uint32_t exclusion;
static void *table_made(size_t bytes);
static void table_gone(void *at);

#include "pci/dma.c"

#include <stdarg.h>

#include <setjmp.h>

#include <cmocka.h>

enum { OLD = 0x10000, NEW = 0x20000, SIZE = 0x1000, IOVA = 0x700000, VERSIONS = 3 };

static struct pci_dma dma;
static struct span old_span, new_span;
static _Atomic uint32_t given; /* a message: the memory is there to be used */
static struct {
    struct pci_table is;
    struct pci_span spans[2];
    uint32_t there;
} tables[VERSIONS];

static void *table_made(size_t bytes)
{
    const uint64_t version = atomic_load_explicit(&dma.version, memory_order_relaxed);
    (void)bytes;
    tables[version].there = 1;
    return &tables[version];
}

static void table_gone(void *at)
{
    for (unsigned i = 0; i < VERSIONS; i++)
        if (at == &tables[i]) {
            MODEL_HOLD(tables[i].there);
            tables[i].there = 0;
            tables[i].is.n = 0; /* which nobody reads any more */
        }
}

static void add(struct span *s, uintptr_t at)
{
    s->is = (struct pci_span){at, SIZE, at + IOVA};
    s->data = true;
    plx_list_add_tail(&dma.spans, &s->link);
}

static void begin(void)
{
    memset(&dma, 0, sizeof dma);
    memset(tables, 0, sizeof tables);
    plx_list_init(&dma.spans);
    exclusion = 0;
    given = 0;
    model_name(&dma.version, sizeof dma.version, "version");
    model_name(tables, sizeof tables, "table");
    for (unsigned i = 0; i < VERSIONS; i++) /* spans are copied as a whole, and read by their parts */
        model_cells(tables[i].spans, sizeof tables[i].spans, 8);
    model_cells(&new_span.is, sizeof new_span.is, 8);
    model_cells(&old_span.is, sizeof old_span.is, 8);
}

static void begin_with_some(void)
{
    begin();
    add(&old_span, OLD);
}

static void look_up(const struct pci_table *t, uintptr_t at)
{
    const struct pci_span *s = pci_table_find(t, (void *)at, SIZE);
    MODEL_HOLD(s && s->iova == at + IOVA);
}

/* memory_added() */
static void adds(void)
{
    pthread_mutex_lock(&dma.lock);
    add(&new_span, NEW);
    tables_changed(&dma);
    pthread_mutex_unlock(&dma.lock);
    atomic_store_explicit(&given, 1, memory_order_release);
}

/* A queue pair that had a table before. */
static void uses(void)
{
    struct pci_table *t = pci_table_renew(&dma, NULL);
    while (!atomic_load_explicit(&given, memory_order_acquire))
        model_spin();
    t = pci_table_renew(&dma, t);
    look_up(t, NEW);
    pci_table_put(t);
}

/* Others' memory comes and goes. */
static void changes(void)
{
    pthread_mutex_lock(&dma.lock);
    tables_changed(&dma);
    pthread_mutex_unlock(&dma.lock);
}

/* One that ends. */
static void leaves(void)
{
    struct pci_table *t = pci_table_renew(&dma, NULL);
    look_up(t, OLD);
    pci_table_put(t);
}

/* One table is left, dma's own, of the last version that was looked up. */
static void all_but_the_last_are_gone(void)
{
    unsigned left = 0;
    for (unsigned i = 0; i < VERSIONS; i++)
        left += tables[i].there;
    MODEL_HOLD(left == (dma.table != NULL));
}

static const struct model_program one = {
    .name = "memory is added", .begin = begin, .thread = {adds, uses}, .end = all_but_the_last_are_gone};
static const struct model_program two = {.name = "a table of two",
                                         .begin = begin_with_some,
                                         .thread = {changes, leaves, leaves},
                                         .end = all_but_the_last_are_gone};

static void test_who_was_given_memory_finds_it(void **state)
{
    (void)state;
    const struct model_program *const programs[] = {&one, &two, NULL};
    assert_int_equal(model_suite("tables of memory", programs, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_who_was_given_memory_finds_it)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
