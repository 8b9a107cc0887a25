/* SPDX-License-Identifier: BSD-3-Clause */
/* The run through the checks, and the kind of check that only compares files. */
#include "tune/check.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TEXT = 1024, VALUE = 512 };

/* ---- findings ---- */

static json_t *text_vprintf(const char *fmt, va_list ap)
{
    char text[TEXT];
    vsnprintf(text, sizeof text, fmt, ap);
    tune_make_printable(text);
    return json_string(text);
}

static json_t *text_printf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static json_t *text_printf(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    json_t *text = text_vprintf(fmt, ap);
    va_end(ap);
    return text;
}

static json_t *gain_json(enum tune_origin origin, json_t *text, const char *source)
{
    static const char *const names[] = {"unknown", "published", "measured"};
    json_t *gain = json_object();
    json_object_set_new(gain, "origin", json_string(names[origin]));
    json_object_set_new(gain, "text", text);
    json_object_set_new(gain, "source", json_string(source));
    return gain;
}

json_t *look_add(struct tune_look *l, enum tune_state state, const char *subject, const char *found, ...)
{
    static const char *const names[] = {"ok", "better", "choice", "absent", "unknown"};
    const struct tune_check *c = l->check;
    json_t *f = json_object();
    va_list ap;
    json_object_set_new(f, "check", json_string(c->name));
    json_object_set_new(f, "title", json_string(c->title));
    json_object_set_new(f, "subject", text_printf("%s", subject));
    json_object_set_new(f, "state", json_string(names[state]));
    va_start(ap, found);
    json_object_set_new(f, "found", text_vprintf(found, ap));
    va_end(ap);
    json_object_set_new(f, "wanted", json_string(""));
    json_object_set_new(f, "why", json_string(c->why));
    json_object_set_new(f, "cost", json_string(c->cost ? c->cost : ""));
    json_object_set_new(f, "gain", gain_json(c->gain.origin, json_string(c->gain.text), c->gain.source));
    json_object_set_new(f, "reversible", json_false());
    json_object_set_new(f, "careful", json_boolean(c->careful));
    json_object_set_new(f, "changes", json_array());
    json_object_set_new(f, "commands", json_array());
    json_array_append_new(l->out, f);
    return f;
}

void look_want(json_t *finding, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    json_object_set_new(finding, "wanted", text_vprintf(fmt, ap));
    va_end(ap);
}

void look_measured(json_t *finding, const char *source, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    json_object_set_new(finding, "gain", gain_json(TUNE_MEASURED, text_vprintf(fmt, ap), source));
    va_end(ap);
}

void look_command(json_t *finding, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    json_array_append_new(json_object_get(finding, "commands"), text_vprintf(fmt, ap));
    va_end(ap);
}

static void ethtool_command(json_t *f, const char *setting, const char *value)
{
    static const char *const letters[][2] = {{"channels", "L"}, {"rings", "G"}, {"coalesce", "C"}, {"features", "K"}};
    char nic[TUNE_NAME], group[16], key[TUNE_NAME], room[TEXT];
    if (sscanf(setting, "ethtool:%63[^/]/%15[^/]/%63s", nic, group, key) != 3 ||
        !plx_text_quote(nic, room, sizeof room))
        return;
    for (unsigned i = 0; i < 4; i++)
        if (strcmp(group, letters[i][0]) == 0)
            look_command(f, "ethtool -%s %s %s %s", letters[i][1], room, key, value);
}

/* Names of NICs may have in them what a shell takes for more. */
void look_change(json_t *finding, const char *setting, const char *value)
{
    char room[TEXT];
    json_t *change = json_pack("{ssss}", "setting", setting, "value", value);
    if (json_array_append_new(json_object_get(finding, "changes"), change))
        return; /* its name is no UTF-8 */
    json_object_set_new(finding, "reversible", json_true());
    if (strncmp(setting, "/proc/sys/", 10) == 0) {
        char name[TEXT];
        snprintf(name, sizeof name, "%s", setting + 10);
        for (char *slash; (slash = strchr(name, '/'));)
            *slash = '.';
        look_command(finding, "sysctl -w %s=\"%s\"", name, value);
    } else if (setting[0] == '/' && plx_text_quote(setting, room, sizeof room)) {
        look_command(finding, "echo %s > %s", value, room);
    } else {
        ethtool_command(finding, setting, value);
    }
}

void look_lack(struct tune_look *l, const char *subject, long ret, const char *path)
{
    if (tune_is_gone(ret) || ret == -EOPNOTSUPP)
        look_add(l, TUNE_ABSENT, subject, "there is no %s here", path);
    else
        look_add(l, TUNE_UNKNOWN, subject, "%s cannot be read: %s", path, strerror((int)-ret));
}

bool look_reactors(struct tune_look *l)
{
    if (!l->m->nreactors)
        look_add(l, TUNE_UNKNOWN, "",
                 "where reactors run: no pollux holds threads to cores here; --cores LIST says it");
    return l->m->nreactors > 0;
}

bool look_reactors_there(struct tune_look *l, const struct tune_topology *t, const char *subject)
{
    for (int i = 0; i < l->m->nreactors; i++) {
        int core = l->m->reactors[i];
        if (t->cpus[core].there)
            continue;
        look_add(l, TUNE_UNKNOWN, subject, "core %d, where a reactor is: it is offline, or outside of our cpuset",
                 core);
        return false;
    }
    return true;
}

const struct tune_topology *look_topology(struct tune_look *l)
{
    const struct tune_topology *t = tune_topology(l->m);
    if (!t->problem[0])
        return t;
    look_add(l, TUNE_UNKNOWN, "", "the topology: %s", t->problem);
    return NULL;
}

bool look_nics(struct tune_look *l, struct tune_names *nics)
{
    int ret = tune_nics(l->m, nics);
    if (ret)
        look_lack(l, "", ret, "/sys/class/net");
    else if (!nics->n)
        look_add(l, TUNE_ABSENT, "", "there is no NIC here");
    return !ret && nics->n;
}

/* ---- checks that compare files ---- */

struct paths {
    char v[TUNE_NAMES][200];
    unsigned n;
};

/* Puts the subject for '%', and all names that there are for '*'. @return 0 or -errno */
static int expand(struct tune_machine *m, const char *pattern, const char *subject, struct paths *out)
{
    char path[200];
    struct tune_names names;
    const char *percent = strchr(pattern, '%'), *after = percent ? percent + 1 : pattern;
    snprintf(path, sizeof path, "%.*s%s%s", percent ? (int)(percent - pattern) : 0, pattern, percent ? subject : "",
             after);
    char *star = strchr(path, '*');
    out->n = 1;
    memcpy(out->v[0], path, sizeof path);
    if (!star)
        return 0;
    *star = '\0';
    char *folder_end = strrchr(path, '/');
    *folder_end = '\0';
    int ret = tune_names(m, folder_end + 1, &names, "%s", path);
    out->n = 0;
    for (unsigned i = 0; i < names.n; i++)
        if (tune_exists(m, "%s/%s%s", path, names.v[i], star + 1))
            snprintf(out->v[out->n++], sizeof out->v[0], "%.100s/%.64s%.34s", path, names.v[i], star + 1);
    return ret ? ret : out->n ? 0 : -ENOENT;
}

/* "0" is also what masks have: "00000000,00000000". */
static bool is_one_of(const char *value, const char *want)
{
    size_t len = strlen(value);
    for (const char *at = want, *bar; at; at = bar ? bar + 1 : NULL) {
        bar = strchr(at, '|');
        if (strcspn(at, "|") == len && strncmp(at, value, len) == 0)
            return true;
    }
    return want[0] == '0' && len && strspn(value, "0,") == len;
}

static bool is_well(const struct tune_check *c, const char *value)
{
    char *end;
    long long number = strtoll(value, &end, 10);
    return (c->least && end != value && !*end && number >= c->least) || (c->want && is_one_of(value, c->want));
}

static void look_paths(struct tune_look *l, const char *subject)
{
    const struct tune_check *c = l->check;
    static struct paths paths;
    bool bad[TUNE_NAMES];
    unsigned nbad = 0, n = 0, at = 0;
    char value[VALUE], shown[VALUE] = "", wanted[64];
    int ret = expand(l->m, c->file, subject, &paths), gone = 0;
    for (; !ret && at < paths.n; at += !ret) {
        ret = tune_get(l->m, paths.v[at], value, sizeof value);
        if (tune_is_gone(ret)) { /* since we saw its name, as a CPU may be */
            gone = ret;
            ret = 0;
            continue;
        }
        bad[n] = !is_well(c, value);
        if (!n || (bad[n] && !nbad))
            memcpy(shown, value, sizeof value);
        nbad += bad[n];
        memmove(paths.v[n++], paths.v[at], sizeof paths.v[0]);
    }
    if (ret || !n) {
        look_lack(l, subject, ret ? ret : gone, paths.n ? paths.v[ret ? at : 0] : c->file);
        return;
    }
    paths.n = n;
    if (!nbad) {
        look_add(l, TUNE_OK, subject, "%s", shown);
        return;
    }
    json_t *f = paths.n == 1 ? look_add(l, c->otherwise, subject, "%s", shown)
                             : look_add(l, c->otherwise, subject, "%s (%u of %u)", shown, nbad, paths.n);
    snprintf(wanted, sizeof wanted, "%.*s", (int)strcspn(c->want, "|"), c->want);
    look_want(f, "%s", wanted);
    for (unsigned i = 0; i < paths.n; i++)
        if (bad[i])
            look_change(f, paths.v[i], wanted);
}

static void look_files(struct tune_look *l)
{
    struct tune_names names = {.n = 1};
    enum tune_each each = l->check->each;
    int ret = each == TUNE_EACH_NIC ? tune_nics(l->m, &names) : each == TUNE_EACH_SSD ? tune_ssds(l->m, &names) : 0;
    if (ret)
        look_lack(l, "", ret, each == TUNE_EACH_NIC ? "/sys/class/net" : "/sys/block");
    else if (!names.n)
        look_add(l, TUNE_ABSENT, "", each == TUNE_EACH_NIC ? "there is no NIC here" : "there is no SSD here");
    for (unsigned i = 0; !ret && i < names.n; i++)
        look_paths(l, each == TUNE_ONCE ? "" : names.v[i]);
}

/* ---- the run ---- */

static const struct tune_check *check_at(unsigned i)
{
    const struct {
        const struct tune_check *v;
        unsigned n;
    } tables[] = {{tune_cpu_checks, tune_cpu_checks_n},       {tune_core_checks, tune_core_checks_n},
                  {tune_memory_checks, tune_memory_checks_n}, {tune_device_checks, tune_device_checks_n},
                  {tune_nic_checks, tune_nic_checks_n},       {tune_tcp_checks, tune_tcp_checks_n}};
    for (unsigned t = 0; t < sizeof tables / sizeof tables[0]; t++) {
        if (i < tables[t].n)
            return &tables[t].v[i];
        i -= tables[t].n;
    }
    return NULL;
}

unsigned tune_checks(void)
{
    return tune_cpu_checks_n + tune_core_checks_n + tune_memory_checks_n + tune_device_checks_n + tune_nic_checks_n +
           tune_tcp_checks_n;
}

const char *tune_check_name(unsigned i)
{
    return check_at(i)->name;
}

static bool is_check_named(const char *check, const char *name)
{
    size_t len = strlen(name);
    return strncmp(check, name, len) == 0 && (!check[len] || check[len] == '.');
}

bool tune_is_name(const char *name)
{
    for (unsigned i = 0; i < tune_checks(); i++)
        if (is_check_named(tune_check_name(i), name))
            return true;
    return false;
}

json_t *tune_look(struct tune_machine *m, char *const *names, unsigned nnames)
{
    struct tune_look l = {.m = m, .out = json_array()};
    for (unsigned i = 0; l.out && i < tune_checks(); i++) {
        bool chosen = !nnames;
        l.check = check_at(i);
        for (unsigned k = 0; k < nnames; k++)
            chosen |= is_check_named(l.check->name, names[k]);
        if (!chosen)
            continue;
        int useful = l.check->only ? l.check->only(m) : 1;
        if (useful < 0)
            look_add(&l, TUNE_UNKNOWN, "", "whether %s: %s", l.check->lacking, strerror(-useful));
        else if (!useful)
            look_add(&l, TUNE_ABSENT, "", "%s", l.check->lacking);
        else if (l.check->look)
            l.check->look(&l);
        else
            look_files(&l);
    }
    return l.out;
}
