/* SPDX-License-Identifier: BSD-3-Clause */
/* Devices: one thread each, from the first who needs it until it has been shut down for the last. */
#include "nvme/pcie_dev.h"

#include "reactor/aside.h"
#include "reactor/thread.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

enum { CLASS_NVME = 0x010802 };

static pthread_mutex_t devs_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t devs_changed = PTHREAD_COND_INITIALIZER;
static struct plx_list devs = {&devs, &devs};

/* ---- the thread ---- */

static void *dev_run(void *arg)
{
    struct pcie_dev *d = arg;
    plx_reactor_run(d->reactor);
    plx_timer_cancel(d->reactor, &d->tick);
    plx_timer_cancel(d->reactor, &d->poll);
    plx_timer_cancel(d->reactor, &d->look);
    pthread_mutex_lock(&d->lock);
    d->over = true;
    pthread_mutex_unlock(&d->lock);
    plx_reactor_destroy(d->reactor);
    pthread_mutex_lock(&devs_lock);
    plx_list_del(&d->link);
    pthread_cond_broadcast(&devs_changed);
    pthread_mutex_unlock(&devs_lock);
    pcie_dev_forget(d);
    return NULL;
}

/* When nobody needs it any more: shuts it down, step by step, and ends. */
void pcie_dev_ended(struct pcie_dev *d)
{
    pthread_mutex_lock(&devs_lock);
    const bool needed = d->refs;
    d->ended = !needed && d->state == PCIE_CLOSED;
    pthread_mutex_unlock(&devs_lock);
    if (d->ended) {
        plx_reactor_stop(d->reactor);
    } else if (!needed) {
        pcie_ctrl_end(d);
        if (d->state == PCIE_CLOSED)
            pcie_dev_ended(d);
    }
}

static void dev_check(struct plx_msg *msg)
{
    struct pcie_dev *d = plx_container_of(msg, struct pcie_dev, check);
    pthread_mutex_lock(&devs_lock);
    d->checking = false;
    pthread_mutex_unlock(&devs_lock);
    pcie_dev_ended(d);
}

static void dev_reset(struct plx_msg *msg)
{
    struct pcie_dev *d = plx_container_of(msg, struct pcie_dev, reset);
    pthread_mutex_lock(&devs_lock);
    d->resetting = false;
    pthread_mutex_unlock(&devs_lock);
    pcie_ctrl_reset(d, false, "that was asked for");
}

static int dev_new(const char *addr, struct pcie_dev **out)
{
    struct pcie_dev *d = calloc(1, sizeof *d);
    if (!d)
        return -ENOMEM;
    snprintf(d->addr, sizeof d->addr, "%s", addr);
    plx_list_init(&d->link);
    plx_list_init(&d->line);
    plx_list_init(&d->members);
    plx_list_init(&d->opening);
    plx_list_init(&d->events);
    plx_list_init(&d->quiet);
    d->check.fn = dev_check;
    d->kept = 1;
    d->reset.fn = dev_reset;
    int ret = plx_reactor_create_aside(&d->reactor);
    if (ret) {
        free(d);
        return ret;
    }
    pthread_mutex_init(&d->lock, NULL);
    pcie_ctrl_init(d);
    ret = plx_thread_start(NULL, NULL, dev_run, d, "pollux-nvme");
    if (ret) {
        plx_timer_cancel(d->reactor, &d->tick);
        plx_reactor_destroy(d->reactor);
        pthread_mutex_destroy(&d->lock);
        free(d);
        return ret;
    }
    *out = d;
    return 0;
}

/* ---- who needs it ---- */

static struct pcie_dev *dev_at(const char *addr)
{
    plx_list_for_each(it, &devs) {
        struct pcie_dev *d = plx_list_entry(it, struct pcie_dev, link);
        if (strcmp(d->addr, addr) == 0)
            return d;
    }
    return NULL;
}

/* Under the lock, which it leaves for a moment when one is just ending. */
static int dev_find(const char *addr, struct pcie_dev **out)
{
    while ((*out = dev_at(addr)) && (*out)->ended)
        pthread_cond_wait(&devs_changed, &devs_lock);
    int ret = *out ? 0 : dev_new(addr, out);
    if (ret)
        return ret;
    if (!(*out)->refs++ && plx_list_empty(&(*out)->link))
        plx_list_add_tail(&devs, &(*out)->link);
    return 0;
}

/* Under the lock. */
static void dev_unref(struct pcie_dev *d)
{
    if (--d->refs || d->checking)
        return;
    d->checking = true;
    plx_reactor_send(d->reactor, &d->check);
}

int pcie_dev_get(const char *addr, struct pcie_dev **out)
{
    pthread_mutex_lock(&devs_lock);
    int ret = dev_find(addr, out);
    if (!ret)
        (*out)->kept++;
    pthread_mutex_unlock(&devs_lock);
    return ret;
}

void pcie_dev_put(struct pcie_dev *d)
{
    pthread_mutex_lock(&devs_lock);
    dev_unref(d);
    pthread_mutex_unlock(&devs_lock);
}

void pcie_dev_forget(struct pcie_dev *d)
{
    pthread_mutex_lock(&devs_lock);
    const bool last = !--d->kept;
    pthread_mutex_unlock(&devs_lock);
    if (!last)
        return;
    pthread_mutex_destroy(&d->lock);
    free(d);
}

int nvme_pcie_hold(const char *addr)
{
    struct pcie_dev *d;
    pthread_mutex_lock(&devs_lock);
    int ret = dev_find(addr, &d);
    if (!ret)
        d->holders++;
    pthread_mutex_unlock(&devs_lock);
    return ret;
}

void nvme_pcie_release(const char *addr)
{
    pthread_mutex_lock(&devs_lock);
    struct pcie_dev *d = dev_at(addr);
    d->holders--;
    dev_unref(d);
    while ((d = dev_at(addr)) && !d->holders)
        pthread_cond_wait(&devs_changed, &devs_lock);
    pthread_mutex_unlock(&devs_lock);
}

int nvme_pcie_reset(const char *addr)
{
    pthread_mutex_lock(&devs_lock);
    struct pcie_dev *d = dev_at(addr);
    const bool there = d && !d->ended;
    if (there && !d->resetting) {
        d->resetting = true;
        plx_reactor_send(d->reactor, &d->reset);
    }
    pthread_mutex_unlock(&devs_lock);
    return there ? 0 : -ENODEV;
}

unsigned nvme_pcie_list(char (*addrs)[PLX_ADDR_TEXT], unsigned max)
{
    unsigned n = 0;
    char(*found)[PCI_ADDR_TEXT] = calloc(max, sizeof *found);
    if (found)
        n = pci_list(CLASS_NVME, found, max);
    for (unsigned i = 0; i < n; i++)
        snprintf(addrs[i], sizeof addrs[i], "%s", found[i]);
    free(found);
    return n;
}
