/* SPDX-License-Identifier: BSD-3-Clause */
/* `pollux nvme`: the NVMe devices of this machine: which there are, and who has them. */
#include "cli.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    OPT_JSON = 256, /* options that have no letter */
    OPT_DRIVER,
    OPT_ALLOW_CONTENT,
    OPT_DRY_RUN,
    CONTENTS_MAX = 64,
    COLUMNS = 8,
    CELL = 2 * PLX_PCI_TEXT,
};

struct nvme_command {
    const char *verb;
    bool json, dry_run, help;
    const char *driver;
    const char *contents[CONTENTS_MAX];
    unsigned ncontents;
    char **which;
    unsigned nwhich;
};

/* ---- list ---- */

/* What is found comes first, in the order of the kinds; what could not be looked at is worth less. */
static unsigned rank(const struct plx_pci_use *use)
{
    return use->kind == PLX_PCI_UNSEEN ? UINT_MAX : (unsigned)use->kind;
}

static void used_by(const struct plx_pci_use *uses, unsigned n, unsigned device, char out[CELL])
{
    const struct plx_pci_use *first = NULL;
    unsigned more = 0;
    for (unsigned i = 0; i < n; i++) {
        if (uses[i].device != device)
            continue;
        more += first != NULL && uses[i].kind != PLX_PCI_UNSEEN;
        if (!first || rank(&uses[i]) < rank(first))
            first = &uses[i];
    }
    if (!first)
        snprintf(out, CELL, "nobody");
    else if (first->kind == PLX_PCI_UNSEEN)
        snprintf(out, CELL, "not known: %s", first->cure);
    else if (more)
        snprintf(out, CELL, "%s (and %u more)", first->what, more);
    else
        snprintf(out, CELL, "%s", first->what);
}

static const char *or_dash(const char *text)
{
    return *text ? text : "-";
}

static void fill_row(char row[COLUMNS][CELL], const struct plx_pci_nvme *d)
{
    double size = (double)d->bytes;
    const char *unit = cli_unit(&size);
    snprintf(row[0], CELL, "%s", d->address);
    snprintf(row[1], CELL, "%s", or_dash(d->model));
    snprintf(row[2], CELL, "%s", or_dash(d->serial));
    snprintf(row[3], CELL, d->bytes ? "%.4g %s" : "-", size, unit);
    snprintf(row[4], CELL, "%s", or_dash(d->driver));
    snprintf(row[5], CELL, d->iommu_group < 0 ? "-" : "%d", d->iommu_group);
    snprintf(row[6], CELL, d->numa_node < 0 ? "-" : "%d", d->numa_node);
}

static void print_rows(char (*rows)[COLUMNS][CELL], unsigned n)
{
    size_t width[COLUMNS] = {0};
    for (unsigned i = 0; i < n; i++)
        for (int k = 0; k < COLUMNS; k++)
            if (strlen(cli_clean(rows[i][k])) > width[k])
                width[k] = strlen(rows[i][k]);
    for (unsigned i = 0; i < n; i++) {
        for (int k = 0; k < COLUMNS - 1; k++)
            printf("%-*s  ", (int)width[k], rows[i][k]);
        printf("%s\n", rows[i][COLUMNS - 1]);
    }
}

static void print_list(const struct plx_pci_nvme *list, unsigned n, const struct plx_pci_use *uses, unsigned nuses)
{
    static const char *const titles[COLUMNS] = {"ADDRESS", "MODEL", "SERIAL", "SIZE",
                                                "DRIVER",  "GROUP", "NUMA",   "USED BY"};
    char(*rows)[COLUMNS][CELL] = calloc(n + 1, sizeof *rows);
    if (!rows)
        return;
    for (int k = 0; k < COLUMNS; k++)
        snprintf(rows[0][k], CELL, "%s", titles[k]);
    for (unsigned i = 0; i < n; i++) {
        fill_row(rows[i + 1], &list[i]);
        used_by(uses, nuses, i, rows[i + 1][COLUMNS - 1]);
    }
    print_rows(rows, n + 1);
    free(rows);
}

static json_t *text_or_null(const char *text)
{
    char clean[PLX_PCI_TEXT];
    snprintf(clean, sizeof clean, "%s", text);
    return *text ? json_string(cli_clean(clean)) : json_null();
}

static json_t *number_or_null(int v)
{
    return v < 0 ? json_null() : json_integer(v);
}

static json_t *json_device(const struct plx_pci_nvme *d)
{
    json_t *o = json_object();
    json_object_set_new(o, "address", json_string(d->address));
    json_object_set_new(o, "vendor", json_sprintf("0x%04x", d->vendor));
    json_object_set_new(o, "device", json_sprintf("0x%04x", d->device));
    json_object_set_new(o, "model", text_or_null(d->model));
    json_object_set_new(o, "serial", text_or_null(d->serial));
    json_object_set_new(o, "firmware", text_or_null(d->firmware));
    json_object_set_new(o, "bytes", cli_json_number(d->bytes));
    json_object_set_new(o, "namespaces", json_integer(d->namespaces));
    json_object_set_new(o, "driver", text_or_null(d->driver));
    json_object_set_new(o, "controller", text_or_null(d->controller));
    json_object_set_new(o, "state", text_or_null(d->state));
    json_object_set_new(o, "node", text_or_null(d->node));
    json_object_set_new(o, "iommu_group", number_or_null(d->iommu_group));
    json_object_set_new(o, "numa_node", number_or_null(d->numa_node));
    return o;
}

static void print_devices_json(const struct plx_pci_nvme *list, unsigned n, const struct plx_pci_use *uses,
                               unsigned nuses)
{
    json_t *root = json_array();
    for (unsigned i = 0; i < n; i++) {
        json_t *device = json_device(&list[i]), *reasons = json_array();
        for (unsigned k = 0; k < nuses; k++)
            if (uses[k].device == i)
                json_array_append_new(reasons,
                                      json_pack("{s:s, s:o, s:o}", "kind", plx_pci_use_name(uses[k].kind), "what",
                                                text_or_null(uses[k].what), "cure", text_or_null(uses[k].cure)));
        json_object_set_new(device, "uses", reasons);
        json_array_append_new(root, device);
    }
    json_dumpf(root, stdout, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
    putchar('\n');
    json_decref(root);
}

static int nvme_list(const struct nvme_command *o)
{
    struct plx_pci_nvme *list;
    struct plx_pci_use *uses = NULL;
    struct plx_error err;
    unsigned n, nuses = 0;
    int ret = plx_pci_nvme_list(&list, &n, &err);
    if (ret)
        return cli_fail(EXIT_RUNTIME, "%s", err.text);
    ret = plx_pci_nvme_uses(list, n, &uses, &nuses, &err);
    if (!ret && o->json)
        print_devices_json(list, n, uses, nuses);
    else if (!ret && n)
        print_list(list, n, uses, nuses);
    else if (!ret)
        puts("there is no NVMe device on the PCI bus of this machine");
    free(uses);
    free(list);
    return ret ? cli_fail(EXIT_RUNTIME, "%s", err.text) : EXIT_OK;
}

/* ---- bind and unbind ---- */

static void nvme_say(void *arg, enum plx_pci_say kind, const char *address, const char *text)
{
    const struct nvme_command *o = arg;
    char clean[4 * PLX_PCI_TEXT];
    snprintf(clean, sizeof clean, "%s", text);
    cli_clean(clean);
    if (kind == PLX_PCI_REFUSED)
        cli_fail(EXIT_RUNTIME, "%s: %s", address, clean);
    else if (kind == PLX_PCI_STEP && o->dry_run)
        printf("%s: would do: %s\n", address, clean);
    else if (kind == PLX_PCI_DONE)
        printf("%s: %s\n", address, clean);
    else if (kind == PLX_PCI_NOTE)
        printf("  %s\n", clean);
}

static int nvme_change(struct nvme_command *o)
{
    struct plx_error err;
    bool binds = strcmp(o->verb, "bind") == 0;
    const struct plx_pci_bind_opts opts = {.driver = o->driver,
                                           .allow_content = o->contents,
                                           .nallow_content = o->ncontents,
                                           .dry_run = o->dry_run,
                                           .say = nvme_say,
                                           .arg = o};
    const char *const *which = (const char *const *)o->which;
    if (!o->nwhich)
        return cli_fail(EXIT_USAGE, "nvme %s takes devices, such as 0000:01:00.0; \"pollux nvme list\" shows them",
                        o->verb);
    int ret =
        binds ? plx_pci_nvme_bind(which, o->nwhich, &opts, &err) : plx_pci_nvme_unbind(which, o->nwhich, &opts, &err);
    if (!ret)
        return EXIT_OK;
    return cli_fail(ret == -ENOENT || ret == -EINVAL ? EXIT_USAGE : EXIT_RUNTIME, "%s", err.text);
}

/* ---- the command line ---- */

static void nvme_help(void)
{
    puts("pollux nvme list [--json]\n"
         "  Lists the NVMe devices on the PCI bus of this machine, and who uses them.\n\n"
         "pollux nvme bind [OPTION]... DEVICE...\n"
         "  Takes devices from the kernel and gives them to a driver through which user space can have them.\n"
         "  Not while anything uses one, which is proved: mounted in any mount namespace, swap, LVM, md, LUKS,\n"
         "  ZFS, multipath, the root disk, open in any process, or with a file system on it.\n\n"
         "pollux nvme unbind [--dry-run] DEVICE...\n"
         "  Gives them back to the kernel. So does a reboot.\n\n"
         "DEVICE is a PCI address, such as 0000:01:00.0, or a serial number.\n\n"
         "options:\n"
         "      --json                   list: as JSON\n"
         "      --driver DRIVER          bind: vfio-pci (default), or uio_pci_generic where there is no IOMMU\n"
         "      --allow-content SERIAL   bind: of this device, let a file system or the like on it pass, if\n"
         "                               nobody uses it; may be given several times\n"
         "      --dry-run                bind, unbind: say what would be done, and refuse the same");
}

static int nvme_parse(int argc, char **argv, struct nvme_command *o)
{
    static const struct option table[] = {{"json", no_argument, NULL, OPT_JSON},
                                          {"driver", required_argument, NULL, OPT_DRIVER},
                                          {"allow-content", required_argument, NULL, OPT_ALLOW_CONTENT},
                                          {"dry-run", no_argument, NULL, OPT_DRY_RUN},
                                          {"help", no_argument, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
    static const int several[] = {OPT_ALLOW_CONTENT, 0};
    struct cli_options options = {"nvme", ":h", table, several, 0};
    for (int opt; (opt = cli_next_option(&options, argc, argv)) != -1;) {
        if (opt == CLI_WRONG)
            return EXIT_USAGE;
        o->json |= opt == OPT_JSON;
        o->dry_run |= opt == OPT_DRY_RUN;
        o->help |= opt == 'h';
        if (opt == OPT_DRIVER)
            o->driver = optarg;
        if (opt == OPT_ALLOW_CONTENT && o->ncontents == CONTENTS_MAX)
            return cli_fail(EXIT_USAGE, "--allow-content can be given %d times", CONTENTS_MAX);
        if (opt == OPT_ALLOW_CONTENT)
            o->contents[o->ncontents++] = optarg;
    }
    if (optind < argc) {
        o->verb = argv[optind];
        o->which = argv + optind + 1;
        o->nwhich = (unsigned)(argc - optind - 1);
    }
    return EXIT_OK;
}

/* What an option is no use for is an error: it was meant to do something. */
static int check_nvme_options(const struct nvme_command *o)
{
    bool lists = strcmp(o->verb, "list") == 0, binds = strcmp(o->verb, "bind") == 0;
    if (o->json && !lists)
        return cli_fail(EXIT_USAGE, "--json is for nvme list");
    if (o->dry_run && lists)
        return cli_fail(EXIT_USAGE, "--dry-run is for nvme bind and nvme unbind");
    if (o->driver && !binds)
        return cli_fail(EXIT_USAGE, "--driver is for nvme bind");
    if (o->ncontents && !binds)
        return cli_fail(EXIT_USAGE, "--allow-content is for nvme bind");
    if (lists && o->nwhich)
        return cli_fail(EXIT_USAGE, "nvme list shows all devices: \"%s\" is a word too many", o->which[0]);
    return EXIT_OK;
}

static int nvme(int argc, char **argv)
{
    struct nvme_command o = {0};
    if (nvme_parse(argc, argv, &o))
        return EXIT_USAGE;
    if (o.help) {
        nvme_help();
        return EXIT_OK;
    }
    if (!o.verb)
        return cli_fail(EXIT_USAGE, "nvme takes a verb: list, bind or unbind; \"pollux help nvme\" explains them");
    bool changes = strcmp(o.verb, "bind") == 0 || strcmp(o.verb, "unbind") == 0;
    if (!changes && strcmp(o.verb, "list") != 0)
        return cli_fail(EXIT_USAGE, "there is no verb \"%s\": they are list, bind and unbind", o.verb);
    if (check_nvme_options(&o))
        return EXIT_USAGE;
    return changes ? nvme_change(&o) : nvme_list(&o);
}

const struct cli_command cli_nvme = {
    .name = "nvme",
    .summary = "the NVMe devices of this machine: who uses them, and handing them over",
    .run = nvme,
    .help = nvme_help,
};
