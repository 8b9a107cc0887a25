/* SPDX-License-Identifier: BSD-3-Clause */
/* A pool on a disk that nobody serves, for `pollux pool` and `pollux volume`: opened, asked about, and put back. */
#include "pool.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    OPT_JSON = 256, /* options that have no letter */
    OPT_YES,
    OPT_THICK,
    OPT_CHECKSUM,
    OPT_DATA,
    OPT_NAME,
    OPT_CLUSTER,
    OPT_BASE,
    OPT_OFFSET,
};

/* ---- the command line ---- */

/* What an option is no use for is an error: it was meant to do something. */
static int check_pool_option(const struct pool_verb *v, char letter, const char *option, const char *command)
{
    if (strchr(v->options, letter))
        return EXIT_OK;
    return cli_fail(EXIT_USAGE, "--%s is not for %s %s; \"pollux help %s\" says what is", option, command, v->name,
                    command);
}

static int check_pool_options(const struct pool_command *o, const struct pool_verb *v, const char *command)
{
    int ret = EXIT_OK;
    if (!ret && o->yes)
        ret = check_pool_option(v, 'y', "yes", command);
    if (!ret && o->thick)
        ret = check_pool_option(v, 't', "thick", command);
    if (!ret && o->checksum)
        ret = check_pool_option(v, 'k', "checksum", command);
    if (!ret && o->data)
        ret = check_pool_option(v, 'd', "data", command);
    if (!ret && o->name)
        ret = check_pool_option(v, 'n', "name", command);
    if (!ret && o->cluster)
        ret = check_pool_option(v, 'c', "cluster", command);
    if (!ret && o->base)
        ret = check_pool_option(v, 'b', "base", command);
    if (!ret && o->offset_given)
        ret = check_pool_option(v, 'o', "offset", command);
    return ret;
}

static int pool_parse(int argc, char **argv, struct pool_command *o)
{
    static const struct option table[] = {{"json", no_argument, NULL, OPT_JSON},
                                          {"yes", no_argument, NULL, OPT_YES},
                                          {"thick", no_argument, NULL, OPT_THICK},
                                          {"checksum", no_argument, NULL, OPT_CHECKSUM},
                                          {"data", no_argument, NULL, OPT_DATA},
                                          {"name", required_argument, NULL, OPT_NAME},
                                          {"cluster", required_argument, NULL, OPT_CLUSTER},
                                          {"base", required_argument, NULL, OPT_BASE},
                                          {"offset", required_argument, NULL, OPT_OFFSET},
                                          {"help", no_argument, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
    struct cli_options options = {argv[0], ":h", table, NULL, 0};
    for (int opt; (opt = cli_next_option(&options, argc, argv)) != -1;) {
        if (opt == CLI_WRONG)
            return EXIT_USAGE;
        o->json |= opt == OPT_JSON;
        o->yes |= opt == OPT_YES;
        o->thick |= opt == OPT_THICK;
        o->checksum |= opt == OPT_CHECKSUM;
        o->data |= opt == OPT_DATA;
        o->help |= opt == 'h';
        if (opt == OPT_NAME)
            o->name = optarg;
        if (opt == OPT_CLUSTER)
            o->cluster = optarg;
        if (opt == OPT_BASE)
            o->base = optarg;
        o->offset_given |= opt == OPT_OFFSET;
        if (opt == OPT_OFFSET && cli_parse_number("offset", optarg, "a number of bytes", 0, INT64_MAX, &o->offset))
            return EXIT_USAGE;
    }
    o->words = argv + optind;
    o->nwords = (unsigned)(argc - optind);
    return EXIT_OK;
}

/* "create, status or rm" */
static int no_verb(const struct pool_verb *verbs, const char *command, const char *word)
{
    char names[POOL_TEXT] = "";
    size_t at = 0;
    for (const struct pool_verb *v = verbs; v->name; v++)
        at += (size_t)snprintf(names + at, sizeof names - at, "%s%s",
                               v == verbs  ? ""
                               : v[1].name ? ", "
                                           : " or ",
                               v->name);
    if (word)
        return cli_fail(EXIT_USAGE, "there is no verb \"%s\": it is %s", word, names);
    return cli_fail(EXIT_USAGE, "%s takes a verb: %s; \"pollux help %s\" explains them", command, names, command);
}

int pool_run(int argc, char **argv, const struct pool_verb *verbs, void (*help)(void))
{
    struct pool_command o = {0};
    const char *command = argv[0];
    if (pool_parse(argc, argv, &o))
        return EXIT_USAGE;
    if (o.help) {
        help();
        return EXIT_OK;
    }
    const struct pool_verb *v = verbs;
    while (v->name && o.nwords && strcmp(v->name, o.words[0]) != 0)
        v++;
    if (!o.nwords || !v->name)
        return no_verb(verbs, command, o.nwords ? o.words[0] : NULL);
    o.words++;
    o.nwords--;
    if (o.nwords > v->max)
        return cli_fail(EXIT_USAGE, "\"%s\" is a word too many: pollux %s %s %s", o.words[v->max], command, v->name,
                        v->takes);
    if (o.nwords < v->min)
        return cli_fail(EXIT_USAGE, "a word is missing: pollux %s %s %s", command, v->name, v->takes);
    int ret = check_pool_options(&o, v, command);
    plx_log_set(cli_log, NULL, PLX_LOG_WARN);
    return ret ? ret : v->run(&o, v);
}

/* ---- disks ---- */

int pool_status(int ret)
{
    return ret == -EEXIST || ret == -ENODATA ? EXIT_USAGE : cli_disk_status(ret);
}

/* With its name as it was typed, where it can have that, as it stands in what the library says. */
static int open_typed(struct pool_at *at, const char *disk, struct plx_error *err)
{
    *at = (struct pool_at){.name = disk};
    size_t len = 0;
    for (size_t n; (n = plx_text_printable(disk + len));)
        len += n;
    bool fits = len && !disk[len] && len < sizeof(((struct plx_bdev_info *)NULL)->name);
    return plx_bdev_open_as(disk, fits ? disk : NULL, &at->disk, err);
}

static int fail_open(int ret, const struct plx_error *err, const struct pool_verb *v)
{
    if (ret == -EBUSY && v->method)
        return cli_fail(EXIT_USAGE, "%s; if a server has it, the server does this when it is asked: pollux ctl %s",
                        err->text, v->method);
    if (ret == -EBUSY)
        return cli_fail(EXIT_USAGE, "%s; this is done while no server has it", err->text);
    return cli_fail(pool_status(ret), "%s", err->text);
}

/* A server that has its pool is told of, and what is done instead. */
static int fail_served(struct pool_at *at, const struct plx_error *busy, const struct pool_verb *v)
{
    char store[2 * sizeof at->lvstore], socket[PATH_MAX], call[3 * PATH_MAX] = "end it";
    const bool named = *at->lvstore && plx_text_quote(at->lvstore, store, sizeof store) &&
                       plx_text_quote(at->socket, socket, sizeof socket);
    if (named && !v->spares)
        snprintf(call, sizeof call,
                 "end it, or delete the pool there: pollux ctl -s %s bdev_lvol_delete_lvstore lvs_name=%s", socket,
                 store);
    return pool_put(at, cli_fail(EXIT_USAGE, "%s, a server that has its pool; %s when nobody has the disk: %s%s",
                                 busy->text, v->why, call,
                                 v->spares ? "; \"pollux pool check\" looks at it as it is" : ""));
}

int pool_open_disk(struct pool_at *at, const char *disk, const struct pool_verb *v)
{
    struct plx_error err;
    int ret = open_typed(at, disk, &err);
    const int served = ret == -EBUSY ? pool_served(at, disk, err.text) : 0;
    if (served)
        return served < 0 ? EXIT_RUNTIME : fail_served(at, &err, v);
    return ret ? fail_open(ret, &err, v) : EXIT_OK;
}

int pool_open_served(struct pool_at *at, const char *disk, const struct pool_verb *v)
{
    struct plx_error err;
    int ret = open_typed(at, disk, &err);
    const int served = ret == -EBUSY ? pool_served(at, disk, err.text) : 0;
    if (served)
        return served < 0 ? EXIT_RUNTIME : EXIT_OK;
    return ret ? fail_open(ret, &err, v) : EXIT_OK;
}

int pool_open_pool(struct pool_at *at, const char *disk, const struct pool_verb *v)
{
    struct plx_error err;
    int ret = pool_open_served(at, disk, v);
    if (ret || at->is_served)
        return ret;
    ret = plx_pool_open(at->disk, &at->pool, &err);
    return ret ? pool_put(at, cli_fail(pool_status(ret), "%s", err.text)) : EXIT_OK;
}

int pool_put(struct pool_at *at, int status)
{
    if (at->pool && plx_pool_close(at->pool) && !status)
        status = cli_fail(EXIT_RUNTIME,
                          "%s: could not be written to at the end; what was done is recovered when it is "
                          "opened again",
                          at->name);
    if (at->disk)
        plx_bdev_close(at->disk);
    if (at->is_served)
        pool_served_end(at);
    *at = (struct pool_at){0};
    return status;
}

/* ---- questions ---- */

int pool_ask(const struct pool_command *o, const char *fmt, ...)
{
    char *text, *line = NULL;
    size_t room = 0;
    va_list ap;
    if (o->yes)
        return EXIT_OK;
    va_start(ap, fmt);
    int len = vasprintf(&text, fmt, ap);
    va_end(ap);
    if (len < 0)
        return cli_fail(EXIT_RUNTIME, "out of memory");
    cli_clean(text);
    int ret = EXIT_OK;
    if (!isatty(STDIN_FILENO)) {
        ret = cli_fail(EXIT_USAGE,
                       "%s; nothing was done, as there is no terminal to ask at: --yes says that it is meant", text);
    } else {
        cli_say("%s. Go on? [y/N] ", text);
        ssize_t n = getline(&line, &room, stdin);
        if (n < 1 || (strcasecmp(line, "y\n") != 0 && strcasecmp(line, "yes\n") != 0))
            ret = cli_fail(EXIT_RUNTIME, "nothing was done");
    }
    free(line);
    free(text);
    return ret;
}

static bool count_one(void *arg, const struct plx_volume_info *info)
{
    struct pool_count *n = arg;
    n->volumes += !info->snapshot;
    n->snapshots += info->snapshot;
    return true;
}

int pool_count(struct pool_at *at, struct pool_count *out)
{
    *out = (struct pool_count){0, 0};
    return pool_each(at, count_one, out);
}

void pool_count_text(const struct pool_count *n, char text[POOL_COUNT])
{
    snprintf(text, POOL_COUNT, "%u volume%s and %u snapshot%s", n->volumes, n->volumes == 1 ? "" : "s", n->snapshots,
             n->snapshots == 1 ? "" : "s");
}

int pool_on(struct plx_bdev *disk, char text[POOL_TEXT], struct plx_error *err)
{
    char count[POOL_COUNT], label[2 * PLX_POOL_NAME] = "";
    struct plx_pool_info info;
    struct plx_pool *pool;
    int ret = plx_pool_open(disk, &pool, err);
    if (ret == -ENODATA)
        return 0;
    if (ret == -EIO && plx_bdev_content(disk, text, POOL_TEXT, err) < 0) /* nor can anything else be read */
        return ret;
    if (ret == -EUCLEAN || ret == -EINVAL || ret == -EIO) {
        snprintf(text, POOL_TEXT, "a pool that is damaged, or of another version,");
        return 1;
    }
    if (ret)
        return ret;
    plx_pool_get_info(pool, &info);
    struct pool_count n;
    pool_count(&(struct pool_at){.pool = pool}, &n);
    pool_count_text(&n, count);
    if (*info.name)
        snprintf(label, sizeof label, " \"%s\"", info.name);
    snprintf(text, POOL_TEXT, "a pool%s with %s", label, count);
    plx_pool_close(pool);
    return 1;
}

int pool_content(struct plx_bdev *disk, char text[POOL_TEXT], struct plx_error *err)
{
    int ret = pool_on(disk, text, err);
    return ret ? ret : plx_bdev_content(disk, text, POOL_TEXT, err);
}

/* ---- texts ---- */

void pool_uuid(const uint8_t uuid[16], char text[40])
{
    size_t at = 0;
    for (unsigned i = 0; i < 16; i++)
        at += (size_t)snprintf(text + at, 40 - at, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", uuid[i]);
}

json_t *pool_json_text(const char *text)
{
    char *copy = strdup(text);
    json_t *v = copy ? json_string(cli_clean(copy)) : NULL;
    free(copy);
    return v ? v : json_string("?");
}
