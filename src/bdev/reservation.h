/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The rules of reservations: who may read and write a disk that several have. They are those of NVMe (Base 8.1.22) and
 * of SCSI (SPC-5, 5.14), which differ in how commands look, and in what follows from a key that a registrant already
 * has. Pure functions of who has registered and what is held.
 *
 * Who registers has a name of 128 bits: the Host Identifier of an NVMe host, or what a SCSI initiator's name makes.
 */
#ifndef PLX_BDEV_RESERVATION_H
#define PLX_BDEV_RESERVATION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    PLX_RESV_NAME = 16,
    PLX_RESV_REGISTRANTS = 64, /* of a disk */
    PLX_RESV_TEXT = 5120,      /* holds plx_resv_format()'s */
};

/* The numbers are those of NVMe. */
enum plx_resv_type {
    PLX_RESV_NONE,
    PLX_RESV_WRITE_EXCLUSIVE,
    PLX_RESV_EXCLUSIVE_ACCESS,
    PLX_RESV_WRITE_EXCLUSIVE_REGISTRANTS,
    PLX_RESV_EXCLUSIVE_ACCESS_REGISTRANTS,
    PLX_RESV_WRITE_EXCLUSIVE_ALL,
    PLX_RESV_EXCLUSIVE_ACCESS_ALL,
};

struct plx_registrant {
    uint8_t name[PLX_RESV_NAME];
    uint64_t key;
};

/* Registrations with a disk, and its reservation. */
struct plx_resv {
    uint32_t generation;
    uint8_t type;   /* enum plx_resv_type */
    uint8_t holder; /* which registrant, of types that are held by one */
    uint8_t n;
    bool persist; /* through power loss */
    struct plx_registrant who[PLX_RESV_REGISTRANTS];
};

enum plx_resv_access {
    PLX_MAY_READ = 1,
    PLX_MAY_WRITE = 2,
};

/* What somebody may do; r may be NULL, and so may the name of those who never register. @return bits */
unsigned plx_resv_access(const struct plx_resv *r, const uint8_t *name);
/* @return which registrant it is, or -1 */
int plx_resv_registrant(const struct plx_resv *r, const uint8_t name[PLX_RESV_NAME]);
/* Whether all registrants hold what is reserved. */
bool plx_resv_by_all(const struct plx_resv *r);
/* Whether a registrant, or -1, holds the reservation; with others, where all do. */
bool plx_resv_holds(const struct plx_resv *r, int who);

/* What somebody wants; who is a registrant says its key, `current`. */
enum plx_resv_kind {
    PLX_RESV_REGISTER, /* with the key `other` */
    PLX_RESV_UNREGISTER,
    PLX_RESV_REPLACE, /* its key by `other` */
    PLX_RESV_SET_KEY, /* SCSI's REGISTER: one of these three, by what there is */
    PLX_RESV_ACQUIRE,
    PLX_RESV_PREEMPT, /* those with the key `other` */
    PLX_RESV_PREEMPT_AND_ABORT,
    PLX_RESV_RELEASE,
    PLX_RESV_CLEAR,
    PLX_RESV_SET_PERSIST, /* whoever asks */
    PLX_RESV_LOOK,        /* changes nothing */
};

enum plx_resv_persist { PLX_RESV_KEEP, PLX_RESV_TRANSIENT, PLX_RESV_PERSISTENT };

/* A command, checked and taken apart. */
struct plx_resv_cmd {
    uint8_t kind;    /* enum plx_resv_kind */
    uint8_t type;    /* enum plx_resv_type */
    uint8_t persist; /* enum plx_resv_persist, of registrations and PLX_RESV_SET_PERSIST */
    bool ignore_key; /* of registrations: `current` means nothing */
    bool can_persist;
    uint8_t name[PLX_RESV_NAME];
    uint64_t current, other;
};

enum plx_resv_answer {
    PLX_RESV_DONE,
    PLX_RESV_CONFLICT,
    PLX_RESV_INVALID,
    PLX_RESV_WRONG_TYPE, /* of a release */
    PLX_RESV_FULL,       /* there are as many registrants as can be */
    PLX_RESV_NOT_KEPT,   /* the file could not be written: never of plx_resv_execute() */
    PLX_RESV_NO_MEMORY,  /* nor this */
};

/* What is told to a registrant, or to one that was. The numbers are those of NVMe. */
enum plx_resv_news { PLX_RESV_EXPELLED = 1, PLX_RESV_RELEASED, PLX_RESV_PREEMPTED };

/* Whom to tell of what. */
struct plx_resv_notices {
    unsigned n;
    struct plx_resv_notice {
        uint8_t name[PLX_RESV_NAME];
        uint8_t news; /* enum plx_resv_news */
    } of[PLX_RESV_REGISTRANTS];
};

/* Executes a command on r, which is of no use any more when that fails. */
enum plx_resv_answer plx_resv_execute(struct plx_resv *r, const struct plx_resv_cmd *cmd, struct plx_resv_notices *out);
/* Whether nothing is different. */
bool plx_resv_same(const struct plx_resv *a, const struct plx_resv *b);
/* Whether somebody was one of those that lost their registration to another. */
bool plx_resv_expelled(const struct plx_resv_notices *notices, const uint8_t name[PLX_RESV_NAME]);

/* As text, for a file: of a disk, which a UUID names. What does not persist is not in it. @return its length */
size_t plx_resv_format(const struct plx_resv *r, const uint8_t uuid[16], char text[PLX_RESV_TEXT]);
/* Takes in such a text. @return 0, -EINVAL for one that is damaged, -EXDEV for that of another disk */
int plx_resv_parse(const char *text, size_t len, const uint8_t uuid[16], struct plx_resv *r);

#endif
