/* SPDX-License-Identifier: BSD-3-Clause */
/* Reservations that several servers of a disk share: who is asked, in which order, and who may leave when. */
#include "bdev/reserve.h"
#include "failalloc.h"
#include "test_disk.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { PENDING = 99 };

struct party {
    struct plx_resv_party party;
    struct plx_fan_leg *waits; /* an answer that the test gives */
    bool slow, left;
    char log[64]; /* what it was asked: s, e, t */
};

struct table {
    struct plx_reactor *reactor;
    struct test_disk *disk;
    struct party one, two;
    char file[64];
};

struct command {
    struct plx_resv_op op;
    enum plx_resv_answer answer;
    unsigned n; /* registrants, of a look */
};

static void asked(struct plx_fan_leg *leg, char what)
{
    struct party *p = plx_container_of(plx_resv_party_of(leg), struct party, party);
    p->log[strlen(p->log)] = what;
    if (p->slow)
        p->waits = leg;
    else
        plx_fan_answer(leg, 0);
}

static void show(struct plx_fan_leg *leg)
{
    asked(leg, plx_resv_shown(plx_resv_party_of(leg)) ? 'S' : 's');
}

static void expel(struct plx_fan_leg *leg)
{
    asked(leg, 'e');
}

static void tell(struct plx_fan_leg *leg)
{
    asked(leg, 't');
}

static const struct plx_resv_party_ops ops = {.show = show, .expel = expel, .tell = tell};
static const uint8_t uuid[16] = {1};

static int begin(struct table *t, struct party *p, const char *file, struct plx_error *err)
{
    return plx_resv_party_init(&p->party, &t->disk->bdev, file, uuid, t->reactor, &t->reactor, 1, &ops, err);
}

static void run(struct table *t)
{
    for (int quiet = 0; quiet < 4;)
        quiet = plx_reactor_poll(t->reactor) ? 0 : quiet + 1;
}

static void set_table(struct table *t, bool kept)
{
    struct plx_reactor_opts o = {.core = -1};
    struct plx_error err;
    memset(t, 0, sizeof *t);
    assert_int_equal(plx_reactor_create(&t->reactor, &o), 0);
    t->disk = test_disk_new();
    snprintf(t->file, sizeof t->file, "/tmp/pollux-test-reserve.%d", getpid());
    unlink(t->file);
    assert_int_equal(begin(t, &t->one, kept ? t->file : NULL, &err), 0);
    assert_int_equal(begin(t, &t->two, kept ? t->file : NULL, &err), 0);
    plx_resv_join(&t->one.party);
    plx_resv_join(&t->two.party);
}

static void gone(struct plx_resv_party *p)
{
    plx_container_of(p, struct party, party)->left = true;
    plx_resv_party_destroy(p);
}

static void clear_table(struct table *t)
{
    struct party *all[] = {&t->one, &t->two};
    for (unsigned i = 0; i < 2; i++)
        if (all[i]->party.of && !all[i]->left)
            plx_resv_leave(&all[i]->party, gone);
    plx_bdev_close(&t->disk->bdev);
    plx_reactor_destroy(t->reactor);
    unlink(t->file);
}

static void done(struct plx_resv_op *op)
{
    struct command *c = plx_container_of(op, struct command, op);
    c->answer = op->answer;
}

static void count(struct plx_resv_op *op, const struct plx_resv *r)
{
    plx_container_of(op, struct command, op)->n = r->n;
}

static void send(struct table *t, const struct party *p, struct command *c, enum plx_resv_kind kind, int who, int type,
                 uint64_t other)
{
    *c = (struct command){.answer = (enum plx_resv_answer)PENDING};
    c->op.reactor = t->reactor;
    c->op.done = done;
    c->op.look = count;
    c->op.cmd =
        (struct plx_resv_cmd){.kind = (uint8_t)kind, .type = (uint8_t)type, .current = (uint64_t)who, .other = other};
    memset(c->op.cmd.name, who, sizeof c->op.cmd.name);
    plx_resv_submit(&p->party, &c->op);
    run(t);
}

static void must(struct table *t, const struct party *p, enum plx_resv_kind kind, int who, int type, uint64_t other)
{
    struct command c;
    send(t, p, &c, kind, who, type, other);
    assert_int_equal(c.answer, PLX_RESV_DONE);
}

static void answer(struct table *t, struct party *p)
{
    struct plx_fan_leg *leg = p->waits;
    assert_non_null(leg);
    p->waits = NULL;
    plx_fan_answer(leg, 0);
    run(t);
}

/* ---- */

static void what_one_reserves_all_go_over_to(void **arg)
{
    struct table t;
    struct command c;
    (void)arg;
    set_table(&t, false);
    must(&t, &t.one, PLX_RESV_REGISTER, 1, 0, 1);
    must(&t, &t.two, PLX_RESV_REGISTER, 2, 0, 2);
    assert_string_equal(t.one.log, ""); /* registrations alone forbid nothing */
    must(&t, &t.one, PLX_RESV_ACQUIRE, 1, PLX_RESV_WRITE_EXCLUSIVE, 0);
    assert_string_equal(t.one.log, "S");
    assert_string_equal(t.two.log, "S");
    const uint8_t two[PLX_RESV_NAME] = {2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2};
    assert_int_equal(plx_resv_access(plx_resv_shown(&t.two.party), two), PLX_MAY_READ);
    send(&t, &t.two, &c, PLX_RESV_ACQUIRE, 2, PLX_RESV_WRITE_EXCLUSIVE, 0);
    assert_int_equal(c.answer, PLX_RESV_CONFLICT);
    must(&t, &t.two, PLX_RESV_PREEMPT_AND_ABORT, 2, PLX_RESV_WRITE_EXCLUSIVE, 1);
    assert_string_equal(t.one.log, "SSet");
    assert_string_equal(t.two.log, "SSet");
    must(&t, &t.two, PLX_RESV_RELEASE, 2, PLX_RESV_WRITE_EXCLUSIVE, 0);
    assert_string_equal(t.one.log, "SSets");
    assert_null(plx_resv_shown(&t.one.party));
    clear_table(&t);
}

/* An answer says that the last reactor of the last party has gone over; others see what holds meanwhile. */
static void the_answer_waits_for_all(void **arg)
{
    struct table t;
    struct command c, look;
    (void)arg;
    set_table(&t, false);
    must(&t, &t.one, PLX_RESV_REGISTER, 1, 0, 1);
    t.one.slow = t.two.slow = true;
    send(&t, &t.one, &c, PLX_RESV_ACQUIRE, 1, PLX_RESV_WRITE_EXCLUSIVE, 0);
    send(&t, &t.two, &look, PLX_RESV_LOOK, 2, 0, 0);
    assert_string_equal(t.two.log, "");
    assert_non_null(plx_resv_shown(&t.two.party)); /* who joins now begins with it */
    answer(&t, &t.one);
    assert_string_equal(t.two.log, "S");
    assert_int_equal(c.answer, PENDING);
    answer(&t, &t.two);
    assert_int_equal(c.answer, PLX_RESV_DONE);
    assert_int_equal(look.answer, PLX_RESV_DONE);
    assert_int_equal(look.n, 1);
    clear_table(&t);
}

static void who_is_asked_leaves_when_it_has_answered(void **arg)
{
    struct table t;
    struct command c;
    (void)arg;
    for (int first = 0; first < 2; first++) {
        set_table(&t, false);
        struct party *asks = first ? &t.two : &t.one, *leaves = first ? &t.one : &t.two;
        must(&t, asks, PLX_RESV_REGISTER, 1, 0, 1);
        leaves->slow = true;
        send(&t, asks, &c, PLX_RESV_ACQUIRE, 1, PLX_RESV_WRITE_EXCLUSIVE, 0);
        plx_resv_leave(&leaves->party, gone);
        run(&t);
        assert_false(leaves->left);
        assert_int_equal(c.answer, PENDING);
        answer(&t, leaves);
        assert_true(leaves->left);
        assert_int_equal(c.answer, PLX_RESV_DONE);
        assert_string_equal(asks->log, "S");
        must(&t, asks, PLX_RESV_RELEASE, 1, PLX_RESV_WRITE_EXCLUSIVE, 0);
        assert_string_equal(leaves->log, "S");
        clear_table(&t);
    }
}

static void who_is_not_asked_leaves_at_once(void **arg)
{
    struct table t;
    struct command c;
    (void)arg;
    set_table(&t, false);
    must(&t, &t.one, PLX_RESV_REGISTER, 1, 0, 1);
    t.one.slow = true;
    send(&t, &t.one, &c, PLX_RESV_ACQUIRE, 1, PLX_RESV_WRITE_EXCLUSIVE, 0);
    plx_resv_leave(&t.two.party, gone);
    assert_true(t.two.left);
    answer(&t, &t.one);
    assert_int_equal(c.answer, PLX_RESV_DONE);
    assert_string_equal(t.two.log, "");
    clear_table(&t);
}

static void they_end_with_the_last_party(void **arg)
{
    struct table t;
    struct command c;
    struct plx_error err;
    (void)arg;
    set_table(&t, false);
    must(&t, &t.one, PLX_RESV_REGISTER, 1, 0, 1);
    plx_resv_leave(&t.one.party, gone);
    send(&t, &t.two, &c, PLX_RESV_LOOK, 2, 0, 0);
    assert_int_equal(c.n, 1);
    plx_resv_leave(&t.two.party, gone);
    t.one.left = false;
    assert_int_equal(begin(&t, &t.one, NULL, &err), 0);
    plx_resv_join(&t.one.party);
    send(&t, &t.one, &c, PLX_RESV_LOOK, 2, 0, 0);
    assert_int_equal(c.n, 0);
    clear_table(&t);
}

static void persist(struct table *t, struct party *p, struct command *c)
{
    *c = (struct command){.answer = (enum plx_resv_answer)PENDING};
    c->op.reactor = t->reactor;
    c->op.done = done;
    c->op.cmd = (struct plx_resv_cmd){.kind = PLX_RESV_REGISTER, .persist = PLX_RESV_PERSISTENT, .other = 1};
    plx_resv_submit(&p->party, &c->op);
    while ((int)c->answer == PENDING) /* a thread writes */
        run(t);
}

/* One file a disk, which all parties name; with it they come back. */
static void a_file_is_the_disks(void **arg)
{
    static const uint8_t other[16] = {2};
    struct table t;
    struct command c;
    struct party three = {0};
    struct plx_error err;
    (void)arg;
    set_table(&t, true);
    persist(&t, &t.two, &c);
    assert_int_equal(c.answer, PLX_RESV_DONE);
    assert_string_equal(plx_resv_file(&t.two.party), t.file);
    assert_int_equal(begin(&t, &three, "/tmp/another", &err), -EEXIST);
    assert_non_null(strstr(err.text, "are kept in"));
    assert_int_equal(begin(&t, &three, NULL, &err), -EEXIST);
    assert_non_null(strstr(err.text, "are kept in"));
    assert_int_equal(
        plx_resv_party_init(&three.party, &t.disk->bdev, t.file, other, t.reactor, &t.reactor, 1, &ops, &err), -EEXIST);
    assert_int_equal(begin(&t, &three, t.file, &err), 0);
    plx_resv_party_destroy(&three.party);
    plx_resv_leave(&t.one.party, gone);
    plx_resv_leave(&t.two.party, gone);
    t.two.left = false;
    assert_int_equal(begin(&t, &t.two, t.file, &err), 0);
    plx_resv_join(&t.two.party);
    send(&t, &t.two, &c, PLX_RESV_LOOK, 2, 0, 0);
    assert_int_equal(c.n, 1);
    clear_table(&t);
}

static void a_file_is_not_read_when_somebody_has_the_disk_already(void **arg)
{
    struct table t;
    struct command c;
    struct party three = {0};
    struct plx_error err;
    (void)arg;
    set_table(&t, false);
    persist(&t, &t.one, &c);
    assert_int_equal(c.answer, PLX_RESV_INVALID); /* nowhere to */
    must(&t, &t.one, PLX_RESV_REGISTER, 1, 0, 1);
    assert_int_equal(begin(&t, &three, t.file, &err), -EEXIST);
    assert_non_null(strstr(err.text, "is served already"));
    clear_table(&t);
}

static void servers_have_one_control_reactor(void **arg)
{
    struct plx_reactor_opts o = {.core = -1};
    struct plx_reactor *r;
    struct table t;
    struct party three = {0};
    struct plx_error err;
    (void)arg;
    set_table(&t, false);
    assert_int_equal(plx_reactor_create(&r, &o), 0);
    assert_int_equal(plx_resv_party_init(&three.party, &t.disk->bdev, NULL, uuid, r, &r, 1, &ops, &err), -EXDEV);
    plx_reactor_destroy(r);
    clear_table(&t);
}

static void without_memory_a_command_fails(void **arg)
{
    struct table t;
    struct command c;
    unsigned n = 0;
    (void)arg;
    set_table(&t, false);
    do {
        failalloc_at(++n);
        send(&t, &t.one, &c, PLX_RESV_REGISTER, 1, 0, 1);
        assert_int_equal(c.answer, failalloc_failed() ? PLX_RESV_NO_MEMORY : PLX_RESV_DONE);
    } while (failalloc_failed());
    failalloc_at(0);
    assert_int_equal(n, 2);
    clear_table(&t);
}

static bool may_begin(void *arg)
{
    struct table *t = arg;
    struct party three = {0};
    struct plx_error err;
    int ret = begin(t, &three, NULL, &err);
    plx_resv_party_destroy(&three.party);
    return ret == 0 || ret == -ENOMEM;
}

static void without_memory_nobody_becomes_a_party(void **arg)
{
    struct table t;
    (void)arg;
    set_table(&t, false);
    plx_resv_leave(&t.one.party, gone);
    plx_resv_leave(&t.two.party, gone);
    assert_int_equal(failalloc_each(may_begin, &t), 2);
    clear_table(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_one_reserves_all_go_over_to),
        cmocka_unit_test(the_answer_waits_for_all),
        cmocka_unit_test(who_is_asked_leaves_when_it_has_answered),
        cmocka_unit_test(who_is_not_asked_leaves_at_once),
        cmocka_unit_test(they_end_with_the_last_party),
        cmocka_unit_test(a_file_is_the_disks),
        cmocka_unit_test(a_file_is_not_read_when_somebody_has_the_disk_already),
        cmocka_unit_test(servers_have_one_control_reactor),
        cmocka_unit_test(without_memory_a_command_fails),
        cmocka_unit_test(without_memory_nobody_becomes_a_party),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
