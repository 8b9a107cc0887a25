/* SPDX-License-Identifier: BSD-3-Clause */
/* What the command lines of all subcommands have in common. */
#include "cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Where an option stands in the table; its end when there is none. */
static const struct option *find_option(const struct cli_options *o, int value)
{
    const struct option *found = o->table;
    while (found->name && found->val != value)
        found++;
    return found;
}

static bool takes_several(const struct cli_options *o, int value)
{
    for (const int *v = o->several; v && *v; v++)
        if (*v == value)
            return true;
    return false;
}

/* getopt_long() found something wrong: about the option optopt, or a long one that is none, which is the last word. */
static int option_complain(const struct cli_options *o, int opt, const char *word)
{
    const struct option *known = find_option(o, optopt);
    if (opt == ':')
        return cli_fail(CLI_WRONG, "--%s needs a value; \"pollux help %s\" explains it", known->name, o->command);
    if (optopt && known->name && known->has_arg == no_argument)
        return cli_fail(CLI_WRONG, "--%s takes no value", known->name);
    if (optopt)
        return cli_fail(CLI_WRONG, "there is no option -%c; \"pollux help %s\" lists them all", optopt, o->command);
    return cli_fail(CLI_WRONG, "there is no option %s; \"pollux help %s\" lists them all", word, o->command);
}

int cli_next_option(struct cli_options *o, int argc, char **argv)
{
    opterr = 0;
    int opt = getopt_long(argc, argv, o->letters, o->table, NULL);
    if (opt == ':' || opt == '?')
        return option_complain(o, opt, argv[optind - 1]);
    const struct option *known = find_option(o, opt);
    uint64_t bit = known->name ? UINT64_C(1) << (known - o->table) : 0;
    if (o->seen & bit && known->has_arg == required_argument && !takes_several(o, opt))
        return cli_fail(CLI_WRONG, "--%s is given twice", known->name);
    o->seen |= bit;
    return opt;
}

int cli_parse_number(const char *option, const char *text, const char *unit, uint64_t min, uint64_t max, uint64_t *out)
{
    char *rest;
    errno = 0;
    unsigned long long v = strtoull(text, &rest, 10);
    if (text[0] < '0' || text[0] > '9' || *rest || errno || v < min || v > max)
        return cli_fail(EXIT_USAGE, "--%s %s: takes %s from %llu to %llu", option, text, unit, (unsigned long long)min,
                        (unsigned long long)max);
    *out = v;
    return EXIT_OK;
}

int cli_parse_u32(const char *option, const char *text, const char *unit, uint32_t min, uint32_t max, uint32_t *out)
{
    uint64_t v = *out;
    int ret = cli_parse_number(option, text, unit, min, max, &v);
    *out = (uint32_t)v;
    return ret;
}

int cli_parse_size(const char *option, const char *text, const char *range, uint32_t min, uint32_t max, bool power,
                   uint32_t *out)
{
    uint64_t v;
    if (plx_parse_size(text, &v) || v < min || v > max || (power ? v & (v - 1) : v % 512))
        return cli_fail(EXIT_USAGE, "--%s %s: takes a size from %s, %s", option, text, range,
                        power ? "a power of two" : "a multiple of 512");
    *out = (uint32_t)v;
    return EXIT_OK;
}
