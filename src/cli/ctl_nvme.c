/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Verbs that ask the controller of a disk that a server uses, by way of the server: `pollux ctl smart`, which shows its
 * health in the terms of "nvme smart-log", and `pollux ctl identify`.
 */
#include "ctl.h"

#include <stdlib.h>
#include <string.h>

enum {
    LOG_HEALTH = 2,
    HEALTH_BYTES = 512,
    KELVIN = 273,
    SENSORS_AT = 200,
    SENSORS = 8,
    UNIT_BYTES = 512000, /* of data that was read and written */
};

/* A field of the health log (Base 5.1.12.1.3), as nvme-cli names it: in text, and in JSON. */
struct health_field {
    const char *text, *json;
    uint16_t offset;
    uint8_t size;
    char kind; /* d: a number; %: of percent; t: a temperature; u: units of data */
};

static const struct health_field health_fields[] = {
    {"critical_warning\t\t\t", "critical_warning", 0, 1, 'd'},
    {"temperature\t\t\t\t", "temperature", 1, 2, 't'},
    {"available_spare\t\t\t\t", "avail_spare", 3, 1, '%'},
    {"available_spare_threshold\t\t", "spare_thresh", 4, 1, '%'},
    {"percentage_used\t\t\t\t", "percent_used", 5, 1, '%'},
    {"endurance group critical warning summary", "endurance_grp_critical_warning_summary", 6, 1, 'd'},
    {"Data Units Read\t\t\t\t", "data_units_read", 32, 16, 'u'},
    {"Data Units Written\t\t\t", "data_units_written", 48, 16, 'u'},
    {"host_read_commands\t\t\t", "host_read_commands", 64, 16, 'd'},
    {"host_write_commands\t\t\t", "host_write_commands", 80, 16, 'd'},
    {"controller_busy_time\t\t\t", "controller_busy_time", 96, 16, 'd'},
    {"power_cycles\t\t\t\t", "power_cycles", 112, 16, 'd'},
    {"power_on_hours\t\t\t\t", "power_on_hours", 128, 16, 'd'},
    {"unsafe_shutdowns\t\t\t", "unsafe_shutdowns", 144, 16, 'd'},
    {"media_errors\t\t\t\t", "media_errors", 160, 16, 'd'},
    {"num_err_log_entries\t\t\t", "num_err_log_entries", 176, 16, 'd'},
    {"Warning Temperature Time\t\t", "warning_temp_time", 192, 4, 'd'},
    {"Critical Composite Temperature Time\t", "critical_comp_time", 196, 4, 'd'},
    {NULL, NULL, SENSORS_AT, 0, 0}, /* those that there are */
    {"Thermal Management T1 Trans Count\t", "thm_temp1_trans_count", 216, 4, 'd'},
    {"Thermal Management T2 Trans Count\t", "thm_temp2_trans_count", 220, 4, 'd'},
    {"Thermal Management T1 Total Time\t", "thm_temp1_total_time", 224, 4, 'd'},
    {"Thermal Management T2 Total Time\t", "thm_temp2_total_time", 228, 4, 'd'},
};

/* ---- asking ---- */

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* A page, by the server's controller. @return EXIT_OK; or another after having said what is wrong, unless quiet */
static int read_page(struct ctl *c, json_t *params, uint8_t *data, size_t bytes, bool quiet, json_t **answer)
{
    char *error = NULL;
    int ret = ctl_try(c, "pollux_nvme_read", params, answer, &error);
    if (error && !quiet)
        cli_fail(ret, "pollux_nvme_read: %s", error);
    free(error);
    if (ret)
        return ret;
    const char *hex = ctl_str(*answer, "data");
    size_t n = 0;
    while (n < bytes && hex_digit(hex[2 * n]) >= 0 && hex_digit(hex[2 * n + 1]) >= 0) {
        data[n] = (uint8_t)(hex_digit(hex[2 * n]) << 4 | hex_digit(hex[2 * n + 1]));
        n++;
    }
    if (n == bytes)
        return EXIT_OK;
    json_decref(*answer);
    return cli_fail(EXIT_RUNTIME, "pollux_nvme_read: the answer has %zu bytes of data, and not %zu", n, bytes);
}

/* ---- health ---- */

static void show_temperature(const char *name, unsigned kelvin)
{
    printf("%s: %d \302\260C (%u K)\n", name, (int)kelvin - KELVIN, kelvin);
}

/* "7871 (4.03 GB)": units of 1000 bytes, as the specification counts them. */
static void show_units(const char *name, const uint8_t *p, const char *number)
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB", "EB"};
    double bytes = 0;
    size_t i = 0;
    for (int k = 15; k >= 0; k--)
        bytes = bytes * 256 + p[k];
    bytes *= UNIT_BYTES;
    for (; bytes >= 1000 && i + 1 < sizeof units / sizeof units[0]; i++)
        bytes /= 1000;
    printf("%s: %s (%.2f %s)\n", name, number, bytes, units[i]);
}

static void show_health(const uint8_t *log)
{
    for (const struct health_field *f = health_fields;
         f < health_fields + sizeof health_fields / sizeof health_fields[0]; f++) {
        const uint8_t *p = log + f->offset;
        char number[40];
        cli_decimal(p, f->size, number);
        for (unsigned i = 0; !f->text && i < SENSORS; i++) {
            char name[32];
            snprintf(name, sizeof name, "Temperature Sensor %u           ", i + 1);
            if (p[2 * i] || p[2 * i + 1])
                show_temperature(name, p[2 * i] | (unsigned)p[2 * i + 1] << 8);
        }
        if (f->kind == 't')
            show_temperature(f->text, p[0] | (unsigned)p[1] << 8);
        else if (f->kind == 'u')
            show_units(f->text, p, number);
        else if (f->text)
            printf("%s: %s%s\n", f->text, number, f->kind == '%' ? "%" : "");
    }
}

/* A number; beyond 63 bits, which few know to read, as text. */
static json_t *number_json(const uint8_t *p, unsigned size)
{
    char text[40];
    bool large = false;
    uint64_t n = 0;
    for (unsigned i = size; i-- > 0;) {
        large |= i >= 8 && p[i];
        n = i < 8 ? n << 8 | p[i] : 0;
    }
    cli_decimal(p, size, text);
    return large ? json_string(text) : cli_json_number(n);
}

static json_t *health_object(const uint8_t *log)
{
    json_t *o = json_object();
    for (const struct health_field *f = health_fields;
         f < health_fields + sizeof health_fields / sizeof health_fields[0]; f++) {
        const uint8_t *p = log + f->offset;
        if (f->json)
            json_object_set_new(o, f->json, number_json(p, f->size));
        for (unsigned i = 0; !f->json && i < SENSORS; i++) {
            char name[32];
            snprintf(name, sizeof name, "temperature_sensor_%u", i + 1);
            if (p[2 * i] || p[2 * i + 1])
                json_object_set_new(o, name, number_json(p + (size_t)2 * i, 2));
        }
    }
    return o;
}

int ctl_smart(struct ctl *c, char *const *words, int n)
{
    uint8_t log[HEALTH_BYTES];
    json_t *answer;
    (void)n;
    int ret = read_page(c, json_pack("{s:s, s:s, s:i}", "name", words[0], "page", "log", "id", LOG_HEALTH), log,
                        sizeof log, false, &answer);
    if (ret)
        return ret;
    json_decref(answer);
    if (c->json) {
        json_t *o = health_object(log);
        ctl_print_json(o);
        json_decref(o);
    } else {
        printf("Smart Log for NVME device:%s namespace-id:ffffffff\n", words[0]);
        show_health(log);
    }
    return EXIT_OK;
}

/* ---- identify ---- */

struct ctl_asking {
    struct ctl *c;
    const char *name;
};

static int ask_by_server(void *arg, uint8_t cns, uint8_t csi, uint32_t nsid, void *data, bool quiet)
{
    const struct ctl_asking *a = arg;
    json_t *answer;
    int ret = read_page(a->c,
                        json_pack("{s:s, s:s, s:i, s:i, s:I}", "name", a->name, "page", "identify", "id", (int)cns,
                                  "csi", (int)csi, "nsid", (json_int_t)nsid),
                        data, PLX_NVME_IDENTIFY_BYTES, quiet, &answer);
    if (!ret)
        json_decref(answer);
    return ret;
}

int ctl_identify(struct ctl *c, char *const *words, int n)
{
    uint8_t data[PLX_NVME_IDENTIFY_BYTES];
    struct ctl_asking a = {.c = c, .name = words[0]};
    json_t *answer;
    (void)n;
    int ret = read_page(c, json_pack("{s:s, s:s, s:i}", "name", words[0], "page", "identify", "id", 1), data,
                        sizeof data, false, &answer);
    if (ret)
        return ret;
    char *address = strdup(ctl_str(answer, "address"));
    const struct cli_identified about = {.address = address ? address : "",
                                         .cap = (uint64_t)ctl_int(answer, "cap"),
                                         .nsid = (uint32_t)ctl_int(answer, "nsid"),
                                         .json = c->json};
    ret = cli_identify_by(&about, ask_by_server, &a);
    free(address);
    json_decref(answer);
    return ret;
}
