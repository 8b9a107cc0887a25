/* SPDX-License-Identifier: BSD-3-Clause */
/* What a change brings on this machine: the user's own load without it, with it, with it, without it, and so on. */
#include "tune/measure.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/sample.h"
#include "tune/machine.h"

/* Part of a round: a load's figure with the change made, or without. */
static int run_one(struct tune_journal *j, const json_t *finding, bool with, const struct tune_load *load, double *out)
{
    int ret = with ? tune_apply(j, finding) : tune_take_back(j, finding);
    if (!ret)
        ret = load->run(load, out);
    return ret ? ret : *out > 0 ? 0 : -ERANGE;
}

/* A B B A: what each has in a round is the mean of two. */
static int run_round(struct tune_journal *j, const json_t *finding, const struct tune_load *load, double *a, double *b)
{
    double sum[2] = {0, 0}, figure = 0;
    int ret = 0;
    for (unsigned i = 0; !ret && i < 4; i++) {
        ret = run_one(j, finding, plx_abba(i), load, &figure);
        sum[plx_abba(i)] += figure / 2;
    }
    *a = sum[0];
    *b = sum[1];
    return ret;
}

static json_t *figures_json(const double *v, unsigned n)
{
    json_t *out = json_array();
    for (unsigned i = 0; i < n; i++)
        json_array_append_new(out, json_real(v[i]));
    return out;
}

int tune_measure(struct tune_journal *j, json_t *finding, const struct tune_load *load, unsigned rounds)
{
    double a[TUNE_ROUNDS], b[TUNE_ROUNDS];
    struct plx_interval change;
    char text[160], source[1024];
    int ret = tune_is_free(j, finding);
    if (ret)
        return ret;
    for (unsigned i = 0; !ret && i < rounds; i++)
        ret = run_round(j, finding, load, &a[i], &b[i]);
    int back = tune_take_back(j, finding);
    if (ret || back)
        return ret ? ret : back;
    if (!plx_change_interval(a, b, rounds, &change))
        return -ENOMEM;
    bool none = plx_no_difference(&change);
    if (none)
        snprintf(text, sizeof text, "no difference (95 %%: %+.1f %% to %+.1f %%)", 100 * change.low, 100 * change.high);
    else
        snprintf(text, sizeof text, "%+.1f %% (95 %%: %+.1f to %+.1f)", 100 * change.mid, 100 * change.low,
                 100 * change.high);
    snprintf(source, sizeof source, "%s", load->name);
    tune_make_printable(source);
    json_object_set_new(finding, "gain", json_pack("{ssssss}", "origin", "measured", "text", text, "source", source));
    json_object_set_new(finding, "measured",
                        json_pack("{sb,sf,sf,sf,so,so}", "difference", !none, "change", change.mid, "low", change.low,
                                  "high", change.high, "without", figures_json(a, rounds), "with",
                                  figures_json(b, rounds)));
    return 0;
}
