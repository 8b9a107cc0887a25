/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * `pollux identify`: what a remote controller and its namespaces say of themselves, in the terms of nvme-cli's id-ctrl
 * and id-ns.
 */
#include "cli.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

enum {
    OPT_JSON = 256, /* an option that has no letter */
    CNS_NS = 0,
    CNS_CTRL = 1,
    CNS_ACTIVE_NS = 2,
    CNS_DESCRIPTORS = 3,
    CNS_SET_NS = 5,
    CNS_SET_CTRL = 6,
    CSI_ZONED = 2,
    DESCRIPTOR_CSI = 4,
    LBAFE_AT = 2816,
    DESCRIPTOR_UUID = 3,
    NSFEAT_AT = 24,
    NSFEAT_SIZES = 1 << 4, /* the preferred sizes are given */
    FLBAS_AT = 26,
    LBAF_AT = 128,
    NAMESPACES = PLX_NVME_IDENTIFY_BYTES / 4,
};

/* A field of an Identify structure: where it is, how it is shown. */
struct field {
    const char *name;
    uint16_t offset;
    uint8_t size;
    char kind; /* d: decimal, x: hexadecimal, s: text, b: bytes, r: bytes from the last on, u: a UUID; p: decimal where
                  preferred sizes are given */
};

/* Base 5.1.13.2.1 */
static const struct field ctrl_fields[] = {
    {"vid", 0, 2, 'x'},         {"ssvid", 2, 2, 'x'},     {"sn", 4, 20, 's'},        {"mn", 24, 40, 's'},
    {"fr", 64, 8, 's'},         {"rab", 72, 1, 'd'},      {"ieee", 73, 3, 'r'},      {"cmic", 76, 1, 'x'},
    {"mdts", 77, 1, 'd'},       {"cntlid", 78, 2, 'x'},   {"ver", 80, 4, 'x'},       {"rtd3r", 84, 4, 'x'},
    {"rtd3e", 88, 4, 'x'},      {"oaes", 92, 4, 'x'},     {"ctratt", 96, 4, 'x'},    {"rrls", 100, 2, 'x'},
    {"cntrltype", 111, 1, 'd'}, {"fguid", 112, 16, 'u'},  {"crdt1", 128, 2, 'd'},    {"crdt2", 130, 2, 'd'},
    {"crdt3", 132, 2, 'd'},     {"nvmsr", 253, 1, 'd'},   {"vwci", 254, 1, 'd'},     {"mec", 255, 1, 'd'},
    {"oacs", 256, 2, 'x'},      {"acl", 258, 1, 'd'},     {"aerl", 259, 1, 'd'},     {"frmw", 260, 1, 'x'},
    {"lpa", 261, 1, 'x'},       {"elpe", 262, 1, 'd'},    {"npss", 263, 1, 'd'},     {"avscc", 264, 1, 'x'},
    {"apsta", 265, 1, 'x'},     {"wctemp", 266, 2, 'd'},  {"cctemp", 268, 2, 'd'},   {"mtfa", 270, 2, 'd'},
    {"hmpre", 272, 4, 'd'},     {"hmmin", 276, 4, 'd'},   {"tnvmcap", 280, 16, 'd'}, {"unvmcap", 296, 16, 'd'},
    {"rpmbs", 312, 4, 'x'},     {"edstt", 316, 2, 'd'},   {"dsto", 318, 1, 'd'},     {"fwug", 319, 1, 'd'},
    {"kas", 320, 2, 'd'},       {"hctma", 322, 2, 'x'},   {"mntmt", 324, 2, 'd'},    {"mxtmt", 326, 2, 'd'},
    {"sanicap", 328, 4, 'x'},   {"hmminds", 332, 4, 'd'}, {"hmmaxd", 336, 2, 'd'},   {"nsetidmax", 338, 2, 'd'},
    {"endgidmax", 340, 2, 'd'}, {"anatt", 342, 1, 'd'},   {"anacap", 343, 1, 'd'},   {"anagrpmax", 344, 4, 'd'},
    {"nanagrpid", 348, 4, 'd'}, {"pels", 352, 4, 'd'},    {"domainid", 356, 2, 'd'}, {"megcap", 368, 16, 'd'},
    {"sqes", 512, 1, 'x'},      {"cqes", 513, 1, 'x'},    {"maxcmd", 514, 2, 'd'},   {"nn", 516, 4, 'd'},
    {"oncs", 520, 2, 'x'},      {"fuses", 522, 2, 'x'},   {"fna", 524, 1, 'x'},      {"vwc", 525, 1, 'x'},
    {"awun", 526, 2, 'd'},      {"awupf", 528, 2, 'd'},   {"icsvscc", 530, 1, 'd'},  {"nwpc", 531, 1, 'd'},
    {"acwu", 532, 2, 'd'},      {"ocfs", 534, 2, 'x'},    {"sgls", 536, 4, 'x'},     {"mnan", 540, 4, 'd'},
    {"maxdna", 544, 16, 'd'},   {"maxcna", 560, 4, 'd'},  {"oaqd", 564, 4, 'd'},     {"subnqn", 768, 255, 's'},
    {"ioccsz", 1792, 4, 'd'},   {"iorcsz", 1796, 4, 'd'}, {"icdoff", 1800, 2, 'd'},  {"fcatt", 1802, 1, 'x'},
    {"msdbd", 1803, 1, 'd'},    {"ofcs", 1804, 2, 'd'},
};

/* NVM 4.1.5.1 */
static const struct field ns_fields[] = {
    {"nsze", 0, 8, 'x'},       {"ncap", 8, 8, 'x'},     {"nuse", 16, 8, 'x'},     {"nsfeat", 24, 1, 'x'},
    {"nlbaf", 25, 1, 'd'},     {"flbas", 26, 1, 'x'},   {"mc", 27, 1, 'x'},       {"dpc", 28, 1, 'x'},
    {"dps", 29, 1, 'x'},       {"nmic", 30, 1, 'x'},    {"rescap", 31, 1, 'x'},   {"fpi", 32, 1, 'x'},
    {"dlfeat", 33, 1, 'd'},    {"nawun", 34, 2, 'd'},   {"nawupf", 36, 2, 'd'},   {"nacwu", 38, 2, 'd'},
    {"nabsn", 40, 2, 'd'},     {"nabo", 42, 2, 'd'},    {"nabspf", 44, 2, 'd'},   {"noiob", 46, 2, 'd'},
    {"nvmcap", 48, 16, 'd'},   {"npwg", 64, 2, 'p'},    {"npwa", 66, 2, 'p'},     {"npdg", 68, 2, 'p'},
    {"npda", 70, 2, 'p'},      {"nows", 72, 2, 'p'},    {"mssrl", 74, 2, 'd'},    {"mcl", 76, 4, 'd'},
    {"msrc", 80, 1, 'd'},      {"nulbaf", 82, 1, 'd'},  {"anagrpid", 92, 4, 'd'}, {"nsattr", 99, 1, 'd'},
    {"nvmsetid", 100, 2, 'd'}, {"endgid", 102, 2, 'd'}, {"nguid", 104, 16, 'b'},  {"eui64", 120, 8, 'b'},
};

struct identify {
    struct cli_identified about;
    cli_identify_fn *ask;
    void *arg;
    bool json;
    json_t *root;
};

/* ---- values ---- */

static uint64_t field_number(const uint8_t *p, unsigned size)
{
    uint64_t v = 0;
    for (unsigned i = size < 8 ? size : 8; i-- > 0;)
        v = v << 8 | p[i];
    return v;
}

void cli_decimal(const void *wire, unsigned size, char out[40])
{
    const uint8_t *p = wire;
    unsigned __int128 v = field_number(p, size);
    char digits[40];
    size_t n = sizeof digits;
    if (size > 8)
        v |= (unsigned __int128)field_number(p + 8, size - 8) << 64;
    digits[--n] = 0;
    do
        digits[--n] = (char)('0' + (int)(v % 10));
    while (v /= 10);
    memcpy(out, digits + n, sizeof digits - n);
}

static void bytes(const uint8_t *p, unsigned size, char kind, char *out, size_t room)
{
    size_t at = 0;
    for (unsigned i = 0; i < size && at + 4 < room; i++) {
        bool dash = kind == 'u' && (i == 4 || i == 6 || i == 8 || i == 10);
        at += (size_t)snprintf(out + at, room - at, "%s%02x", dash ? "-" : "", kind == 'r' ? p[size - 1 - i] : p[i]);
    }
}

/* Fields are padded with spaces; what else is not printable comes from a strange controller. */
void cli_text(const void *wire, size_t size, char *out)
{
    const uint8_t *p = wire;
    size_t n = 0;
    for (; n < size && p[n]; n++)
        out[n] = p[n] >= 0x20 && p[n] < 0x7f ? (char)p[n] : '?';
    while (n && out[n - 1] == ' ')
        n--;
    out[n] = 0;
}

struct json_t *cli_json_number(uint64_t v)
{
    return v > INT64_MAX ? json_sprintf("%" PRIu64, v) : json_integer((json_int_t)v);
}

/* As text; *is_number says whether it is one of at most 64 bits. */
static void format(const struct field *f, const uint8_t *data, char out[256], bool *is_number)
{
    const uint8_t *p = data + f->offset;
    *is_number = false;
    switch (f->kind) {
    case 's':
        cli_text(p, f->size, out);
        break;
    case 'b':
    case 'r':
    case 'u':
        bytes(p, f->size, f->kind, out, 256);
        break;
    default:
        *is_number = f->size <= 8 || !field_number(p + 8, 8);
        if (f->size == 16)
            cli_decimal(p, f->size, out);
        else
            snprintf(out, 256, f->kind == 'x' && field_number(p, f->size) ? "0x%" PRIx64 : "%" PRIu64,
                     field_number(p, f->size));
        break;
    }
}

static void identify_show(struct identify *o, json_t *object, int width, const char *name, const char *value)
{
    if (o->json)
        json_object_set_new(object, name, json_string(value));
    else
        printf("%-*s: %s\n", width, name, value);
}

static void show_fields(struct identify *o, json_t *object, int width, const struct field *fields, size_t n,
                        const uint8_t *data)
{
    for (const struct field *f = fields; f < fields + n; f++) {
        char value[256];
        bool is_number;
        if (f->kind == 'p' && !(data[NSFEAT_AT] & NSFEAT_SIZES))
            continue;
        format(f, data, value, &is_number);
        if (o->json && is_number)
            json_object_set_new(object, f->name, cli_json_number(field_number(data + f->offset, f->size)));
        else
            identify_show(o, object, width, f->name, value);
    }
}

/* ---- namespaces ---- */

static void show_formats(struct identify *o, json_t *object, const uint8_t *data)
{
    json_t *formats = o->json ? json_array() : NULL;
    unsigned used = (data[FLBAS_AT] & 15) | (data[FLBAS_AT] >> 5 & 3) << 4;
    for (unsigned i = 0; i <= data[NSFEAT_AT + 1] && i < 64; i++) {
        const uint8_t *p = data + LBAF_AT + (size_t)4 * i;
        unsigned ms = p[0] | p[1] << 8, ds = p[2], rp = p[3] & 3;
        if (o->json)
            json_array_append_new(formats,
                                  json_pack("{s:i, s:i, s:i, s:b}", "ms", ms, "ds", ds, "rp", rp, "in_use", i == used));
        else
            printf("lbaf %2u : ms:%-3u lbads:%-2u rp:%#x%s\n", i, ms, ds, rp, i == used ? " (in use)" : "");
    }
    if (o->json)
        json_object_set_new(object, "lbafs", formats);
}

static void show_uuid(struct identify *o, json_t *object, const uint8_t *list)
{
    for (unsigned at = 0; at + 4 <= PLX_NVME_IDENTIFY_BYTES && list[at + 1]; at += 4u + list[at + 1]) {
        char uuid[64];
        if (list[at] != DESCRIPTOR_UUID || list[at + 1] != 16 || at + 20 > PLX_NVME_IDENTIFY_BYTES)
            continue;
        bytes(list + at + 4, 16, 'u', uuid, sizeof uuid);
        identify_show(o, object, 8, "uuid", uuid);
    }
}

static bool is_zoned(const uint8_t *list)
{
    for (unsigned at = 0; at + 5 <= PLX_NVME_IDENTIFY_BYTES && list[at + 1]; at += 4u + list[at + 1])
        if (list[at] == DESCRIPTOR_CSI)
            return list[at + 4] == CSI_ZONED;
    return false;
}

/* In the terms of "nvme zns id-ns" and "nvme zns id-ctrl"; the zone size of the format in use. */
static void show_zones(struct identify *o, json_t *object, uint32_t nsid, const uint8_t *id)
{
    const unsigned used = (id[FLBAS_AT] & 15) | (id[FLBAS_AT] >> 5 & 3) << 4;
    const struct field fields[] = {{"zoc", 0, 2, 'x'},
                                   {"ozcs", 2, 2, 'x'},
                                   {"mar", 4, 4, 'x'},
                                   {"mor", 8, 4, 'x'},
                                   {"rrl", 12, 4, 'x'},
                                   {"frl", 16, 4, 'x'},
                                   {"zsze", LBAFE_AT + 16 * used, 8, 'x'}};
    static const struct field of_ctrl[] = {{"zasl", 0, 1, 'd'}};
    uint8_t data[PLX_NVME_IDENTIFY_BYTES];
    if (!o->ask(o->arg, CNS_SET_NS, CSI_ZONED, nsid, data, true))
        show_fields(o, object, 8, fields, sizeof fields / sizeof fields[0], data);
    if (!o->ask(o->arg, CNS_SET_CTRL, CSI_ZONED, 0, data, true))
        show_fields(o, object, 8, of_ctrl, 1, data);
}

static int identify_namespace(struct identify *o, uint32_t nsid, json_t *list)
{
    uint8_t data[PLX_NVME_IDENTIFY_BYTES], descriptors[PLX_NVME_IDENTIFY_BYTES];
    int ret = o->ask(o->arg, CNS_NS, 0, nsid, data, false);
    if (ret)
        return ret;
    json_t *object = o->json ? json_object() : NULL;
    if (o->json) {
        json_object_set_new(object, "nsid", json_integer(nsid));
        json_array_append_new(list, object);
    } else {
        printf("\nNVME Identify Namespace %u:\n", nsid);
    }
    show_fields(o, object, 8, ns_fields, sizeof ns_fields / sizeof ns_fields[0], data);
    const bool told = !o->ask(o->arg, CNS_DESCRIPTORS, 0, nsid, descriptors, true); /* from 1.3 on */
    if (told)
        show_uuid(o, object, descriptors);
    show_formats(o, object, data);
    if (told && is_zoned(descriptors))
        show_zones(o, object, nsid, data);
    return 0;
}

/* The one that the URL names, or all there are. */
static int identify_namespaces(struct identify *o, uint32_t only, json_t *list)
{
    uint8_t page[PLX_NVME_IDENTIFY_BYTES];
    uint32_t last = 0;
    int ret = 0;
    if (only)
        return identify_namespace(o, only, list);
    for (;;) {
        ret = o->ask(o->arg, CNS_ACTIVE_NS, 0, last, page, false);
        for (unsigned i = 0; !ret && i < NAMESPACES; i++) {
            uint32_t nsid = (uint32_t)field_number(page + (size_t)4 * i, 4);
            if (nsid <= last) /* zero: the end; a list that does not ascend has none */
                return 0;
            last = nsid;
            ret = identify_namespace(o, nsid, list);
        }
        if (ret)
            return ret;
    }
}

static int identify_all(struct identify *o)
{
    uint8_t data[PLX_NVME_IDENTIFY_BYTES];
    int ret = o->ask(o->arg, CNS_CTRL, 0, 0, data, false);
    if (ret)
        return ret;
    json_t *ctrl = NULL, *list = NULL;
    if (o->json) {
        ctrl = json_object();
        list = json_array();
        json_object_set_new(o->root, "address", json_string(o->about.address));
        json_object_set_new(o->root, "cap", cli_json_number(o->about.cap));
        json_object_set_new(o->root, "controller", ctrl);
        json_object_set_new(o->root, "namespaces", list);
    } else {
        printf("NVME Identify Controller:\n");
    }
    show_fields(o, ctrl, 10, ctrl_fields, sizeof ctrl_fields / sizeof ctrl_fields[0], data);
    bool discovery = data[111] == 2;
    return discovery ? 0 : identify_namespaces(o, o->about.nsid, list);
}

int cli_identify_by(const struct cli_identified *about, cli_identify_fn *ask, void *arg)
{
    struct identify o = {.about = *about, .ask = ask, .arg = arg, .json = about->json, .root = json_object()};
    int ret = identify_all(&o);
    if (!ret && o.json) {
        json_dumpf(o.root, stdout, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
        putchar('\n');
    }
    json_decref(o.root);
    return ret;
}

static int identify_directly(void *arg, uint8_t cns, uint8_t csi, uint32_t nsid, void *data, bool quiet)
{
    struct plx_error err;
    int ret = plx_nvme_identify_set(arg, cns, csi, nsid, data, &err) ? EXIT_RUNTIME : EXIT_OK;
    return ret && !quiet ? cli_fail(ret, "%s", err.text) : ret;
}

static void identify_help(void)
{
    puts("pollux identify [--json] nvme+tcp://ADDR:PORT/NQN[?nsid=N] | /dev/ngXnY\n"
         "  Prints what a controller and its namespaces say of themselves, in the terms of\n"
         "  \"nvme id-ctrl\" and \"nvme id-ns\"; of one that this machine's kernel has, that namespace alone.\n\n"
         "options:\n"
         "      --json     as JSON: controller, and namespaces, a list");
}

static int identify(int argc, char **argv)
{
    bool help = false;
    static const struct option table[] = {
        {"json", no_argument, NULL, OPT_JSON}, {"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};
    struct cli_options options = {"identify", ":h", table, NULL, 0};
    struct cli_identified about = {0};
    struct plx_nvme_info info;
    struct plx_nvme *n;
    struct plx_error err;
    for (int opt; (opt = cli_next_option(&options, argc, argv)) != -1;) {
        if (opt == CLI_WRONG)
            return EXIT_USAGE;
        about.json |= opt == OPT_JSON;
        help |= opt == 'h';
    }
    if (help) {
        identify_help();
        return EXIT_OK;
    }
    if (argc - optind != 1)
        return cli_fail(EXIT_USAGE,
                        "identify takes one controller, such as nvme+tcp://127.0.0.1:4420/NQN, or /dev/ng0n1");
    int ret = plx_nvme_connect(argv[optind], &n, &err);
    if (ret)
        return cli_fail(cli_disk_status(ret), "%s", err.text);
    plx_nvme_get_info(n, &info);
    about.address = info.address;
    about.cap = info.cap;
    about.nsid = info.nsid;
    ret = cli_identify_by(&about, identify_directly, n);
    plx_nvme_disconnect(n);
    return ret;
}

const struct cli_command cli_identify = {
    .name = "identify",
    .summary = "what a controller says of itself",
    .run = identify,
    .help = identify_help,
};
