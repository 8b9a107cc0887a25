/* SPDX-License-Identifier: BSD-3-Clause */
/* Programs as they are, and with each of their orders weakened by one step. */
#include "explore.h"

#include <stdio.h>
#include <string.h>

enum { ORDERS = 64 };

/* An order that the code asks for: what it does, to what. */
static struct asked {
    char what[96];
    int order;
    bool loads, stores;
} asked[ORDERS];

static unsigned nasked;
static const struct asked *weak; /* that has another order */
static int weaker;               /* in this run */
static bool noting;

static const char *order_name(int order)
{
    static const char *const names[] = {"relaxed", "consume", "acquire", "release", "acq_rel", "seq_cst"};
    return names[order];
}

static const char *op_name(const struct op *o)
{
    static const char *const updates[] = {"exchange", "add", "sub", "and", "or", "xor"};
    if (!o)
        return "compare-exchange that fails";
    if (o->kind == OP_READ)
        return "load";
    if (o->kind == OP_WRITE)
        return "store";
    if (o->kind == OP_FENCE)
        return "fence";
    return o->compares ? "compare-exchange" : updates[o->rmw];
}

static struct asked *find(const char *what)
{
    for (unsigned i = 0; i < nasked; i++)
        if (!strcmp(asked[i].what, what))
            return &asked[i];
    return NULL;
}

int explore_order(const char *name, const struct op *o, int order, bool ours)
{
    if (order & EXPLORE_OWN || !ours)
        return order & ~EXPLORE_OWN;
    if (order == __ATOMIC_RELAXED)
        return order;
    char what[sizeof asked[0].what];
    snprintf(what, sizeof what, "%s %s %s", name, op_name(o), order_name(order));
    if (weak && !strcmp(weak->what, what))
        return weaker;
    if (noting && !find(what) && nasked < ORDERS) {
        struct asked *a = &asked[nasked++];
        snprintf(a->what, sizeof a->what, "%s", what);
        a->order = order;
        a->loads = !o || o->kind != OP_WRITE;
        a->stores = o && o->kind != OP_READ;
    }
    return order;
}

const char *explore_fence_name(const void *where)
{
    static const void *fences[26];
    static char name[2];
    unsigned i = 0;
    while (i < 25 && fences[i] && fences[i] != where)
        i++;
    fences[i] = where;
    name[0] = (char)('A' + i);
    return name;
}

bool explore_expects(void)
{
    return weak != NULL;
}

static unsigned next_weaker(const struct asked *a, int out[2])
{
    unsigned n = 0;
    if (a->order == __ATOMIC_SEQ_CST) {
        out[n++] = !a->stores ? __ATOMIC_ACQUIRE : !a->loads ? __ATOMIC_RELEASE : __ATOMIC_ACQ_REL;
    } else if (a->order == __ATOMIC_ACQ_REL) {
        out[n++] = __ATOMIC_ACQUIRE;
        out[n++] = __ATOMIC_RELEASE;
    } else {
        out[n++] = __ATOMIC_RELAXED;
    }
    return n;
}

static const char *run_all(const struct model_program *const *programs, unsigned long *executions)
{
    for (; *programs; programs++) {
        const char *wrong = model_run(*programs);
        *executions += model_executions();
        if (!wrong)
            continue;
        static char text[640];
        snprintf(text, sizeof text, "%s: %s", (*programs)->name, wrong);
        return text;
    }
    return NULL;
}

/* Those that are let pass, and that nobody asks for any more. */
static int count_stale(const char *name, const char *const *enough)
{
    int n = 0;
    for (; enough && *enough; enough++) {
        if (find(*enough))
            continue;
        printf("%s: %s: is let pass, and is not there\n", name, *enough);
        n++;
    }
    return n;
}

static bool listed(const char *const *enough, const char *what)
{
    for (; enough && *enough; enough++)
        if (!strcmp(*enough, what))
            return true;
    return false;
}

int model_suite(const char *name, const struct model_program *const *programs, const char *const *enough)
{
    unsigned long executions = 0, mutants = 0, unneeded = 0;
    int findings = 0;
    nasked = 0;
    weak = NULL;
    noting = true;
    const char *wrong = run_all(programs, &executions);
    noting = false;
    if (wrong) {
        printf("%s: %s\n", name, wrong);
        return 1;
    }
    if (nasked == ORDERS) {
        printf("%s: more orders than there is room for\n", name);
        return 1;
    }
    findings += count_stale(name, enough);
    for (unsigned i = 0; i < nasked; i++) {
        int to[2];
        for (unsigned n = next_weaker(&asked[i], to), k = 0; k < n; k++) {
            unsigned long ignored = 0;
            weak = &asked[i];
            weaker = to[k];
            mutants++;
            const bool noticed = run_all(programs, &ignored) != NULL, let_pass = listed(enough, weak->what);
            unneeded += let_pass;
            if (noticed && explore_is_beyond()) { /* which is no sign that it goes wrong */
                printf("%s: %s: with %s the model cannot say\n", name, weak->what, order_name(weaker));
                findings++;
            } else if (noticed == let_pass) {
                printf("%s: %s: with %s %s\n", name, weak->what, order_name(weaker),
                       noticed ? "it goes wrong, so it need not be let pass" : "nothing goes wrong");
                findings++;
            }
        }
        weak = NULL;
    }
    printf("%s: %lu executions; %lu orders weakened, of which %lu are let pass\n", name, executions, mutants, unneeded);
    return findings;
}
