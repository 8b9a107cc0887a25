/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/settings.h"

#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

int plx_settings_text(char *out, size_t size, const char *text, size_t len, bool decode, struct plx_error *err)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        char c = text[i];
        if (decode && c == '%') {
            int high = i + 2 < len ? plx_hex(text[i + 1]) : -1;
            int low = high >= 0 ? plx_hex(text[i + 2]) : -1;
            if (low < 0 || !(high | low))
                return plx_fail(err, -EINVAL, "'%.*s': %% is followed by two hex digits, not 00; %%25 means %% itself",
                                (int)plx_min_u64(len, 100), text);
            c = (char)(high << 4 | low);
            i += 2;
        }
        if (n + 1 >= size)
            return plx_fail(err, -ENAMETOOLONG, "'%.60s...' is too long; %zu bytes are the limit", text, size - 1);
        out[n++] = c;
    }
    out[n] = 0;
    return 0;
}

const char *plx_setting_value(const struct plx_setting *list, int n, const char *key)
{
    for (int i = 0; i < n; i++)
        if (!strcmp(list[i].key, key))
            return list[i].value;
    return NULL;
}

/* @return 0 or -errno with err filled */
static int parse_setting(const char *text, size_t len, struct plx_setting *list, int n, struct plx_error *err)
{
    const char *equals = memchr(text, '=', len);
    if (!equals || equals == text)
        return plx_fail(err, -EINVAL, "'%.*s' is no setting; one is NAME=VALUE", (int)plx_min_u64(len, 100), text);
    if (n == PLX_SETTINGS_MAX)
        return plx_fail(err, -EINVAL, "there are more than %d settings", PLX_SETTINGS_MAX);
    const size_t key = (size_t)(equals - text), room = sizeof list->key;
    const bool fits = key < room;
    snprintf(list[n].key, room, "%.*s%s", (int)(fits ? key : room - sizeof "..."), text, fits ? "" : "...");
    if (fits && plx_setting_value(list, n, list[n].key))
        return plx_fail(err, -EINVAL, "%s= is given twice", list[n].key);
    return plx_settings_text(list[n].value, sizeof list->value, equals + 1, len - key - 1, true, err);
}

int plx_settings_parse(const char *text, struct plx_setting list[PLX_SETTINGS_MAX], struct plx_error *err)
{
    int n = 0;
    while (*text) {
        size_t len = strcspn(text, "&");
        int ret = parse_setting(text, len, list, n, err);
        if (ret)
            return ret;
        n++;
        text += len + (text[len] == '&');
    }
    return n;
}
