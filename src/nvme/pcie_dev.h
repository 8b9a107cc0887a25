/* SPDX-License-Identifier: BSD-3-Clause */
/* A device and its thread: what pcie_dev.c (its life), pcie_ctrl.c (the controller) and pcie_serve.c (calls) share. */
#ifndef PLX_NVME_PCIE_DEV_H
#define PLX_NVME_PCIE_DEV_H

#include "nvme/pcie.h"
#include "reactor/guard.h"

/* pcie_quirks.c */
struct pcie_quirks {
    uint16_t open_ms;     /* after its function was reset, as opening it does, until a register is touched */
    uint16_t rest_ms;     /* after EN was changed, until CSTS is looked at */
    uint16_t min_entries; /* of I/O queues, if it takes as many */
    bool no_sgl;
    bool stripes; /* and they say in a field of their own what NOIOB is for */
};
struct pcie_quirks pcie_quirks_of(uint16_t vendor, uint16_t device);

enum pcie_state {
    PCIE_CLOSED,   /* nothing has been opened */
    PCIE_OPENED,   /* it has been reset by that, and is left alone for a while */
    PCIE_OFF,      /* open, and disabled */
    PCIE_STARTING, /* being enabled, and asked what it is */
    PCIE_READY,
    PCIE_STOPPING,  /* associations are leaving, for a reset */
    PCIE_DISABLING, /* EN is 0, RDY not yet */
    PCIE_SHUTTING,  /* nobody is left: SHN is set, SHST not yet */
};

enum { PCIE_CMB_PAGES = 2048 }; /* of the controller's memory that are used */

struct pcie_cmb {
    bool tried, reserved;
    volatile uint8_t *at;
    uint64_t iova;
    unsigned pages;      /* 0: there is none */
    uint32_t generation; /* of the controller when it was told of it */
    struct plx_guard *guard;
    uint64_t used[PCIE_CMB_PAGES / 64];
};

/* A place of the admin queue. */
struct pcie_place {
    struct pcie_op *op;
    uint16_t cid;  /* the place in the lower bits */
    uint16_t tick; /* when it was sent */
};

struct pcie_dev {
    struct plx_list link; /* in all devices, under their lock, as are the next three */
    char addr[PCI_ADDR_TEXT];
    unsigned refs, holders; /* who needs it: when there is nobody it is shut down */
    unsigned kept;          /* its thread, and associations that have messages on their way still */
    bool ended;
    pthread_mutex_t lock; /* of what associations have under it, and of the next one */
    bool over;            /* its reactor takes no messages any more */
    struct plx_reactor *reactor;

    /* The thread's. */
    struct pci_function *f;
    struct plx_guard *guard; /* of its registers, */
    atomic_bool fault;       /* which were touched, and were not there */
    struct pci_dma *dma;
    uint8_t state, step;
    bool lost;           /* it is to be closed rather than disabled */
    bool anew;           /* it is to be closed when it is disabled */
    bool reset_tried;    /* a function level reset, because RDY did not become 0 */
    uint32_t generation; /* how often it was enabled */
    uint64_t cap, deadline;
    uint32_t arbitration; /* Set Features, Arbitration; 0: as it is */
    struct pcie_quirks quirks;
    uint32_t vs;
    struct nvme_id_ctrl id;
    uint8_t behavior[512]; /* what is told of us: Base 5.1.25.1.14 */
    struct plx_timer poll, tick;
    struct plx_timer look; /* of a device that cannot interrupt: at its admin queue */
    struct plx_msg check;  /* whether anybody is left */
    bool checking;         /* it is on its way; under the devices' lock */
    struct plx_msg reset;  /* somebody wants that, */
    bool resetting;        /* and it is on its way; likewise */
    struct plx_watch lost_watch;
    struct plx_error err;

    struct pci_memory memory; /* of the admin queue, and a page of data a place */
    struct pcie_ring ring;
    struct plx_source source;
    bool polled;
    struct pcie_place places[PCIE_ADMIN_DEPTH];
    unsigned nplaces; /* in use */
    uint16_t ticks;
    struct plx_list line; /* ops that wait for a place */
    struct pcie_op own, aer;

    struct pcie_cmb cmb;
    struct pci_memory shadow;                   /* two pages, when there are doorbells in memory */
    int fds[PCIE_QUEUES_MAX + 1];               /* of vectors, by queue */
    unsigned nvectors, nqueues;                 /* that may be had */
    uint64_t used[(PCIE_QUEUES_MAX + 64) / 64]; /* by identifier */

    struct plx_list members; /* associations that may touch their queues */
    struct plx_list opening; /* calls that wait for a controller */
    struct plx_list events;  /* calls that wait for an event */
    struct plx_list quiet;   /* hw that is given up, until the controller is disabled */
};

/* ---- pcie_ctrl.c: the controller ---- */

/* Begins to open and to enable it; what waits is answered when that has succeeded, or failed. */
void pcie_ctrl_start(struct pcie_dev *d);
/* Everybody is to leave, then it is disabled. `lost`: it is not there any more, and is closed. */
void pcie_ctrl_reset(struct pcie_dev *d, bool lost, const char *why);
/* Somebody has left. */
void pcie_ctrl_left(struct pcie_dev *d);
/* Nobody needs it: shuts it down, and closes it. */
void pcie_ctrl_end(struct pcie_dev *d);
/* Sends an admin command, or has it wait for a place. */
void pcie_ctrl_send(struct pcie_dev *d, struct pcie_op *op);
/* The identifier that a command has which was sent. */
uint16_t pcie_ctrl_cid(const struct pcie_dev *d, const struct pcie_op *op);
void pcie_ctrl_init(struct pcie_dev *d);

/* ---- pcie_serve.c: calls ---- */

/* There is a controller: who waits for it has it. */
void pcie_serve_ready(struct pcie_dev *d);
/* There is none, as d->err says. */
void pcie_serve_failed(struct pcie_dev *d, int ret);
/* It is disabled: what was given up is freed, and who had commands in flight is told. */
void pcie_serve_quiet(struct pcie_dev *d);
/* Has a member leave. */
void pcie_serve_stop(struct pcie_dev *d, struct pcie_admin *a, const char *why);
void pcie_serve_event(struct pcie_dev *d, uint32_t dw0);

/* ---- pcie_cmb.c ---- */

/* A submission queue is to be in the controller's memory: it is, if there is room. */
void pcie_cmb_take(struct pcie_dev *d, struct pcie_hw *hw);
/* Of the present generation. */
void pcie_cmb_give(struct pcie_dev *d, const struct pcie_hw *hw);
/* The function is about to be closed. */
void pcie_cmb_end(struct pcie_dev *d);

/* ---- pcie_dev.c ---- */

/* It is disabled: when nobody needs it any more that goes on to its end. */
void pcie_dev_ended(struct pcie_dev *d);

#endif
