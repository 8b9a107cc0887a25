/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The names of disks: "scheme:body?key=value&key=value", or a plain path.
 *
 * A plain path is taken as it is, whatever characters it has; it names no parameters. What begins with letters and a
 * colon is never a plain path, so that a misspelt kind of disk is told from a file; such a file is written
 * "./odd:name" or "file:odd:name". In a file URL, %XX stands for any byte.
 *
 * A path that leads to the generic node of an NVMe namespace is a disk of scheme ng, under whichever of these names.
 *
 * The body of a filter's name is the name of the disk below it. Settings are the filter's; those of the disk below
 * stand with its name, in brackets: "delay:[ram:1G?block=4096]?read=2ms". In brackets there may be others.
 */
#include "bdev/driver.h"

#include "base/text.h"
#include "base/util.h"
#include "base/uuid.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- taking a name apart ---- */

/* Whether the body is a path. */
static bool is_path(const char *scheme)
{
    return !strcmp(scheme, "file") || !strcmp(scheme, "ng");
}

/* Length of a leading "scheme" before its colon, or 0. */
static size_t scheme_length(const char *text)
{
    size_t n = 0;
    if (!isalpha((unsigned char)text[0]))
        return 0;
    while (isalnum((unsigned char)text[n]) || (text[n] && strchr("+-_", text[n])))
        n++;
    return text[n] == ':' ? n : 0;
}

static int find_scheme(const char *text, size_t len, struct plx_url *url, struct plx_error *err)
{
    char kinds[128] = "", quoted[140];
    for (const struct plx_bdev_driver *const *d = plx_bdev_drivers; *d; d++) {
        if (strlen((*d)->scheme) == len && !memcmp((*d)->scheme, text, len)) {
            memcpy(url->scheme, text, len);
            url->scheme[len] = 0;
            return 0;
        }
        size_t used = strlen(kinds);
        snprintf(kinds + used, sizeof kinds - used, "%s%s", used ? ", " : "", (*d)->scheme);
    }
    char file[140];
    snprintf(file, sizeof file, "./%.130s", text);
    return plx_fail(err, -EINVAL, "'%.*s' is no kind of disk: there are %s. A file of that name is written %s",
                    (int)plx_min_u64(len, 40), text, kinds,
                    plx_text_quote(file, quoted, sizeof quoted) ? quoted : "./NAME");
}

/* file:rel, file:/abs, file:///abs and file://localhost/abs; not file://host/. */
static int parse_file_body(const char **text, size_t *len, struct plx_error *err)
{
    if (*len < 2 || (*text)[0] != '/' || (*text)[1] != '/')
        return 0;
    size_t host = strcspn(*text + 2, "/?");
    if (host && !(host == 9 && !memcmp(*text + 2, "localhost", 9)))
        return plx_fail(err, -EINVAL, "file://%.*s names a host, '%.*s'; a path is written file:PATH or file:///PATH",
                        (int)plx_min_u64(*len - 2, 100), *text + 2, (int)plx_min_u64(host, 60), *text + 2);
    *text += 2 + host;
    *len -= 2 + host;
    return 0;
}

/* How long a body is: to where settings begin, which they do not in what stands in brackets. */
static int body_length(const char *text, size_t *len, struct plx_error *err)
{
    size_t n = 0;
    int open = 0;
    if (text[0] == '[') {
        do
            open += (text[n] == '[') - (text[n] == ']');
        while (open && text[++n]);
        if (open)
            return plx_fail(err, -EINVAL, "'%.100s': a [ is not closed; in the name of a file it is written %%5b",
                            text);
        n++;
        if (text[n] && text[n] != '?')
            return plx_fail(err, -EINVAL, "'%.100s': after the ] come settings, as in [ram:1G]?uuid=UUID, or nothing",
                            text);
    }
    *len = n + strcspn(text + n, "?");
    return 0;
}

static int make_absolute(char *path, size_t size, struct plx_error *err)
{
    char cwd[4096];
    if (path[0] == '/')
        return 0;
    if (!path[0])
        return plx_fail(err, -EINVAL, "the name of the disk is empty; there are files such as disk.img, and ram:1G");
    if (!getcwd(cwd, sizeof cwd))
        return plx_fail(err, -errno, "cannot tell the current directory: %s", strerror(errno));
    size_t dir = strcmp(cwd, "/") ? strlen(cwd) : 0, len = strlen(path);
    if (dir + 1 + len >= size)
        return plx_fail(err, -ENAMETOOLONG, "the path '%.60s...' is too long", path);
    memmove(path + dir + 1, path, len + 1);
    memcpy(path, cwd, dir);
    path[dir] = '/';
    return 0;
}

/*
 * Appends as much of s as there is room for, encoded so that it can be printed, and parsed again: what cannot be
 * printed, and the characters that are named.
 */
static void append(char *text, size_t size, const char *s, const char *encoded)
{
    size_t n = strlen(text);
    while (*s) {
        size_t len = plx_text_printable(s);
        bool plain = len && !strchr(encoded, *s);
        if (n + (plain ? len : 3) >= size)
            return;
        if (plain)
            memcpy(text + n, s, len);
        else
            snprintf(text + n, size - n, "%%%02x", (unsigned char)*s);
        n += plain ? len : 3;
        s += plain ? len : 1;
        text[n] = 0;
    }
}

static void append_params(struct plx_url *url)
{
    const size_t size = sizeof url->text;
    const char *between = "?";
    for (int i = 0; i < url->nparams; i++) {
        if (!strcmp(url->params[i].key, "uuid"))
            continue;
        append(url->text, size, between, "");
        append(url->text, size, url->params[i].key, " %&");
        append(url->text, size, "=", "");
        append(url->text, size, url->params[i].value, " %&");
        between = "&";
    }
}

static void write_text(struct plx_url *url)
{
    bool file = is_path(url->scheme);
    const size_t size = sizeof url->text;
    url->text[0] = 0;
    append(url->text, size, url->scheme, "");
    append(url->text, size, file ? "://" : ":", "");
    append(url->text, size, url->body, file ? " %?" : " ");
    append_params(url);
}

void plx_url_over(const char *scheme, const char *below, char *text, size_t size)
{
    bool settings = strchr(below, '?') || below[0] == '[';
    text[0] = 0;
    append(text, size, scheme, "");
    append(text, size, settings ? ":[" : ":", "");
    append(text, size, below, "");
    append(text, size, settings ? "]" : "", "");
}

void plx_url_restate(struct plx_url *url, const char *below)
{
    plx_url_over(url->scheme, below, url->text, sizeof url->text);
    append_params(url);
}

int plx_url_parse(const char *text, struct plx_url *url, struct plx_error *err)
{
    memset(url, 0, sizeof *url);
    size_t scheme = scheme_length(text), len = strlen(text);
    const char *params = "";
    bool file = true;
    int ret = 0;
    if (scheme) {
        ret = find_scheme(text, scheme, url, err);
        if (ret)
            return ret;
        text += scheme + 1;
        len = strcspn(text, "?");
        file = is_path(url->scheme);
        ret = file ? 0 : body_length(text, &len, err);
        params = text + len + (text[len] == '?');
        if (file)
            ret = parse_file_body(&text, &len, err);
    } else {
        memcpy(url->scheme, "file", 5);
    }
    if (!ret)
        ret = plx_settings_text(url->body, sizeof url->body, text, len, scheme && file, err);
    if (!ret && file)
        ret = make_absolute(url->body, sizeof url->body, err);
    if (ret)
        return ret;
    if (file && plx_bdev_path_is_ng(url->body))
        memcpy(url->scheme, "ng", sizeof "ng");
    snprintf(url->name, sizeof url->name, "%s%s%.100s%s", file ? "" : url->scheme, file ? "" : ":", url->body,
             strlen(url->body) > 100 ? "..." : "");
    ret = plx_settings_parse(params, url->params, err);
    if (ret < 0)
        return plx_blame(url->name, ret, err);
    url->nparams = ret;
    write_text(url);
    return 0;
}

int plx_bdev_path(const char *name, char *path, size_t size, struct plx_error *err)
{
    struct plx_url *url = malloc(sizeof *url);
    int ret = url ? plx_url_parse(name, url, err) : plx_fail(err, -ENOMEM, "out of memory");
    if (!ret && is_path(url->scheme))
        ret = (size_t)snprintf(path, size, "%s", url->body) < size
                  ? 1
                  : plx_fail(err, -ENAMETOOLONG, "%s: this path is too long", url->name);
    free(url);
    return ret;
}

/* ---- parameters ---- */

const char *plx_url_param(const struct plx_url *url, const char *key)
{
    return plx_setting_value(url->params, url->nparams, key);
}

int plx_url_only(const struct plx_url *url, const char *known, struct plx_error *err)
{
    for (int i = 0; i < url->nparams; i++) {
        const char *key = url->params[i].key, *at = known;
        size_t len = strlen(key);
        while ((at = strstr(at, key)) && !((at == known || at[-1] == ' ') && (!at[len] || at[len] == ' ')))
            at++;
        if (!at || strchr(key, ' '))
            return plx_fail(err, -EINVAL, "%s: there is no setting %s=; there are: %s", url->name, key, known);
    }
    return 0;
}

int plx_url_block(const struct plx_url *url, uint32_t *block, struct plx_error *err)
{
    const char *text = plx_url_param(url, "block");
    uint64_t bytes;
    *block = 0;
    if (!text)
        return 0;
    if (plx_parse_size(text, &bytes) || bytes < 512 || bytes > 65536 || bytes & (bytes - 1))
        return plx_fail(err, -EINVAL, "%s: block=%.40s: a block has %s", url->name, text,
                        strcmp(url->scheme, "file") ? "512 bytes to 64K, a power of two" : "512 or 4096 bytes");
    *block = (uint32_t)bytes;
    return 0;
}

int plx_url_size(const struct plx_url *url, uint32_t block, uint64_t *size, struct plx_error *err)
{
    int ret = plx_parse_size(url->body, size);
    if (ret == -EINVAL)
        return plx_fail(err, ret, "%s names no size: one is a number of bytes, or of K, M, G or T, as in %s:1G",
                        url->name, url->scheme);
    if (ret || !*size || *size > INT64_MAX)
        return plx_fail(err, -ERANGE, "%s: the size is from one block to 8388607T", url->name);
    if (*size % block)
        return plx_fail(err, -EINVAL, "%s: the size is no multiple of the blocks, of %u bytes", url->name, block);
    return 0;
}

int plx_url_bool(const struct plx_url *url, const char *key, bool *value, struct plx_error *err)
{
    const char *text = plx_url_param(url, key);
    *value = false;
    if (!text || !strcmp(text, "0"))
        return 0;
    if (strcmp(text, "1"))
        return plx_fail(err, -EINVAL, "%s: %s=%.40s: the value is 0 or 1", url->name, key, text);
    *value = true;
    return 0;
}

/* ---- identity ---- */

int plx_url_uuid(const struct plx_url *url, const char *identity, uint8_t uuid[16], struct plx_error *err)
{
    const char *text = plx_url_param(url, "uuid");
    if (text && !plx_uuid_parse(text, uuid))
        return plx_fail(err, -EINVAL, "%s: uuid=%.40s: one looks like 01234567-89ab-cdef-0123-456789abcdef", url->name,
                        text);
    if (text && plx_uuid_nil(uuid))
        return plx_fail(err, -EINVAL, "%s: uuid=%.40s: the one of zeroes stands for none", url->name, text);
    if (text)
        return 0;
    memset(uuid, 0, 16);
    int ret = identity ? plx_uuid_from_name(identity, strlen(identity), uuid) : 0;
    return ret ? plx_fail(err, ret, "cannot make a UUID for the disk") : 0;
}

int plx_url_volatile(const struct plx_url *url, uint32_t *block, uint64_t *size, uint8_t uuid[16],
                     struct plx_error *err)
{
    int ret = plx_url_only(url, "block uuid", err);
    *block = 0;
    if (!ret)
        ret = plx_url_block(url, block, err);
    *block = *block ? *block : 512;
    if (!ret)
        ret = plx_url_size(url, *block, size, err);
    return ret ? ret : plx_url_uuid(url, NULL, uuid, err);
}
