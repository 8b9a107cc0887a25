/* SPDX-License-Identifier: BSD-3-Clause */
/* Settings, which names of disks and controllers end with: key=value&key=value. In values, %XX stands for any byte. */
#ifndef PLX_BASE_SETTINGS_H
#define PLX_BASE_SETTINGS_H

#include <pollux/base.h>

enum { PLX_SETTINGS_MAX = 16 };

struct plx_setting {
    char key[24]; /* of one that is longer, its beginning and "...", which is the key of none */
    char value[256];
};

/* Takes them apart. @return how many there are; or -errno, with err filled */
int plx_settings_parse(const char *text, struct plx_setting list[PLX_SETTINGS_MAX], struct plx_error *err);
/* The value of one of the first n, or NULL. */
const char *plx_setting_value(const struct plx_setting *list, int n, const char *key);
/* Copies len bytes of text into out, %XX decoded if wanted. @return 0 or -errno with err filled */
int plx_settings_text(char *out, size_t size, const char *text, size_t len, bool decode, struct plx_error *err);

#endif
