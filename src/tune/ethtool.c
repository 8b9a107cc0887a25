/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Settings of NICs that have no file: by the ethtool ioctl on a live machine, and in a tree by files
 * ethtool/IF/GROUP of lines "KEY VALUE". The groups are channels, rings, coalesce and features.
 */
#include "tune/machine.h"

#include <errno.h>
#include <limits.h>
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/util.h"

enum { FEATURE_NAMES = 256, FILE_SIZE = 8192 };

static int ethtool_call(const char *nic, void *data)
{
    struct ifreq r = {.ifr_data = data};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    snprintf(r.ifr_name, sizeof r.ifr_name, "%s", nic);
    int ret = ioctl(fd, SIOCETHTOOL, &r) < 0 ? -errno : 0;
    close(fd);
    return ret;
}

/* ---- numbers in structures ---- */

struct number {
    const char *group, *key;
    uint32_t get, set;
    size_t at;
};

#define CHANNEL(key, member)                                                                                           \
    {                                                                                                                  \
        "channels", key, ETHTOOL_GCHANNELS, ETHTOOL_SCHANNELS, offsetof(struct ethtool_channels, member)               \
    }
#define RING(key, member)                                                                                              \
    {                                                                                                                  \
        "rings", key, ETHTOOL_GRINGPARAM, ETHTOOL_SRINGPARAM, offsetof(struct ethtool_ringparam, member)               \
    }
#define COALESCE(key, member)                                                                                          \
    {                                                                                                                  \
        "coalesce", key, ETHTOOL_GCOALESCE, ETHTOOL_SCOALESCE, offsetof(struct ethtool_coalesce, member)               \
    }

static const struct number numbers[] = {
    CHANNEL("combined", combined_count),
    CHANNEL("combined-max", max_combined),
    CHANNEL("rx", rx_count),
    CHANNEL("rx-max", max_rx),
    RING("rx", rx_pending),
    RING("rx-max", rx_max_pending),
    RING("tx", tx_pending),
    RING("tx-max", tx_max_pending),
    COALESCE("rx-usecs", rx_coalesce_usecs),
    COALESCE("adaptive-rx", use_adaptive_rx_coalesce),
};

union number_data {
    struct ethtool_channels channels;
    struct ethtool_ringparam rings;
    struct ethtool_coalesce coalesce;
    char bytes[128];
};

static const struct number *find_number(const char *group, const char *key)
{
    for (size_t i = 0; i < PLX_ARRAY_SIZE(numbers); i++)
        if (strcmp(numbers[i].group, group) == 0 && strcmp(numbers[i].key, key) == 0)
            return &numbers[i];
    return NULL;
}

/* Reads all, and with a value, writes all with that changed. */
static int use_number(const char *nic, const struct number *n, const uint32_t *value, uint32_t *out)
{
    union number_data data = {0};
    memcpy(data.bytes, &n->get, sizeof n->get);
    int ret = ethtool_call(nic, &data);
    memcpy(out, data.bytes + n->at, sizeof *out);
    if (ret || !value)
        return ret;
    memcpy(data.bytes, &n->set, sizeof n->set);
    memcpy(data.bytes + n->at, value, sizeof *value);
    return ethtool_call(nic, &data);
}

/* ---- features: bits whose names the kernel tells ---- */

struct feature {
    unsigned bits, bit;
};

static int find_feature(const char *nic, const char *key, struct feature *out)
{
    union {
        struct ethtool_sset_info info;
        char room[sizeof(struct ethtool_sset_info) + sizeof(uint32_t)];
    } sset = {.info = {.cmd = ETHTOOL_GSSET_INFO, .sset_mask = UINT64_C(1) << ETH_SS_FEATURES}};
    static union {
        struct ethtool_gstrings head;
        char room[sizeof(struct ethtool_gstrings) + FEATURE_NAMES * ETH_GSTRING_LEN];
    } strings;
    int ret = ethtool_call(nic, &sset);
    unsigned n = sset.info.data[0];
    if (ret || !sset.info.sset_mask || n > FEATURE_NAMES)
        return ret ? ret : -EOPNOTSUPP;
    strings.head.cmd = ETHTOOL_GSTRINGS;
    strings.head.string_set = ETH_SS_FEATURES;
    strings.head.len = n;
    ret = ethtool_call(nic, &strings);
    for (unsigned i = 0; !ret && i < n; i++) {
        if (strncmp((const char *)strings.head.data + i * ETH_GSTRING_LEN, key, ETH_GSTRING_LEN) == 0) {
            *out = (struct feature){n, i};
            return 0;
        }
    }
    return ret ? ret : -EOPNOTSUPP;
}

static int look_at_feature(const char *nic, const char *key, char *value, size_t size)
{
    union {
        struct ethtool_gfeatures head;
        char room[sizeof(struct ethtool_gfeatures) + FEATURE_NAMES / 32 * sizeof(struct ethtool_get_features_block)];
    } got = {.head = {.cmd = ETHTOOL_GFEATURES, .size = FEATURE_NAMES / 32}};
    struct feature f;
    int ret = find_feature(nic, key, &f);
    if (!ret)
        ret = ethtool_call(nic, &got);
    if (ret)
        return ret;
    uint32_t bit = UINT32_C(1) << f.bit % 32;
    const struct ethtool_get_features_block *b = &got.head.features[f.bit / 32];
    if (!(b->active & bit) && (!(b->available & bit) || b->never_changed & bit))
        return -EOPNOTSUPP; /* off, and cannot be on */
    snprintf(value, size, "%s", b->active & bit ? "on" : "off");
    return 0;
}

static int switch_feature(const char *nic, const char *key, const char *value)
{
    union {
        struct ethtool_sfeatures head;
        char room[sizeof(struct ethtool_sfeatures) + FEATURE_NAMES / 32 * sizeof(struct ethtool_set_features_block)];
    } wanted = {.head = {.cmd = ETHTOOL_SFEATURES}};
    struct feature f;
    int ret = find_feature(nic, key, &f);
    if (ret)
        return ret;
    struct ethtool_set_features_block *b = &wanted.head.features[f.bit / 32];
    wanted.head.size = (f.bits + 31) / 32;
    b->valid = UINT32_C(1) << f.bit % 32;
    b->requested = strcmp(value, "on") == 0 ? b->valid : 0;
    return ethtool_call(nic, &wanted);
}

/* ---- trees ---- */

static int get_recorded(struct tune_machine *m, const char *nic, const char *group, const char *key, char *value,
                        size_t size)
{
    char text[FILE_SIZE];
    long n = tune_read(m, text, sizeof text, "/ethtool/%s/%s", nic, group);
    if (n < 0)
        return n == -ENOENT ? -EOPNOTSUPP : (int)n;
    for (char *save, *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        size_t len = strcspn(line, " ");
        if (strlen(key) != len || strncmp(line, key, len) != 0)
            continue;
        snprintf(value, size, "%s", line + len + (line[len] == ' '));
        return 0;
    }
    return -EOPNOTSUPP;
}

static int set_recorded(struct tune_machine *m, const char *nic, const char *group, const char *key, const char *value)
{
    char text[FILE_SIZE], path[PATH_MAX], out[FILE_SIZE];
    int at = 0;
    long n = tune_read(m, text, sizeof text, "/ethtool/%s/%s", nic, group);
    if (n < 0)
        return (int)n;
    for (char *save, *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        size_t len = strcspn(line, " ");
        bool this = strlen(key) == len && strncmp(line, key, len) == 0;
        int room = (int)sizeof out - at;
        at += this ? snprintf(out + at, (size_t)room, "%s %s\n", key, value)
                   : snprintf(out + at, (size_t)room, "%s\n", line);
        if (at >= (int)sizeof out)
            return -EFBIG;
    }
    snprintf(path, sizeof path, "/ethtool/%s/%s", nic, group);
    return tune_write(m, path, out);
}

/* ---- */

static bool is_switch(const char *key)
{
    return strncmp(key, "adaptive-", 9) == 0;
}

int tune_ethtool_get(struct tune_machine *m, const char *nic, const char *group, const char *key, char *value,
                     size_t size)
{
    const struct number *n = find_number(group, key);
    uint32_t got;
    if (!m->live)
        return get_recorded(m, nic, group, key, value, size);
    if (!n)
        return strcmp(group, "features") == 0 ? look_at_feature(nic, key, value, size) : -EINVAL;
    int ret = use_number(nic, n, NULL, &got);
    if (ret)
        return ret;
    if (is_switch(key))
        snprintf(value, size, "%s", got ? "on" : "off");
    else
        snprintf(value, size, "%u", got);
    return 0;
}

int tune_ethtool_set(struct tune_machine *m, const char *nic, const char *group, const char *key, const char *value)
{
    const struct number *n = find_number(group, key);
    if (!m->live)
        return set_recorded(m, nic, group, key, value);
    if (!n)
        return strcmp(group, "features") == 0 ? switch_feature(nic, key, value) : -EINVAL;
    uint32_t wanted = is_switch(key) ? strcmp(value, "on") == 0 : (uint32_t)strtoul(value, NULL, 10), was;
    return use_number(nic, n, &wanted, &was);
}
