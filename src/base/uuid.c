/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/uuid.h"

#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void stamp(uint8_t uuid[16], unsigned version)
{
    uuid[6] = (uint8_t)((uuid[6] & 0x0f) | version << 4);
    uuid[8] = (uint8_t)((uuid[8] & 0x3f) | 0x80);
}

int plx_uuid_random(uint8_t uuid[16])
{
    if (RAND_bytes(uuid, 16) != 1)
        return -ENOMEM;
    stamp(uuid, 4);
    return 0;
}

static size_t machine_id(char *out, size_t size)
{
    int fd = open("/etc/machine-id", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t len = read(fd, out, size);
    close(fd);
    return len > 0 ? (size_t)len : 0;
}

int plx_uuid_from_name(const void *name, size_t len, uint8_t uuid[16])
{
    static const char salt[] = "pollux";
    char machine[64];
    uint8_t hash[EVP_MAX_MD_SIZE];
    size_t machine_len = machine_id(machine, sizeof machine);
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    int ok = ctx && EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) && EVP_DigestUpdate(ctx, salt, sizeof salt) &&
             EVP_DigestUpdate(ctx, machine, machine_len) && EVP_DigestUpdate(ctx, name, len) &&
             EVP_DigestFinal_ex(ctx, hash, NULL);
    EVP_MD_CTX_free(ctx);
    if (!ok)
        return -ENOMEM;
    memcpy(uuid, hash, 16);
    stamp(uuid, 8);
    return 0;
}

bool plx_uuid_parse(const char *text, uint8_t uuid[16])
{
    for (int i = 0; i < 16; i++) {
        if ((i == 4 || i == 6 || i == 8 || i == 10) && *text == '-')
            text++;
        int high = plx_hex(text[0]), low = high < 0 ? -1 : plx_hex(text[1]);
        if (low < 0)
            return false;
        uuid[i] = (uint8_t)(high << 4 | low);
        text += 2;
    }
    return !*text;
}

bool plx_uuid_nil(const uint8_t uuid[16])
{
    static const uint8_t nil[16];
    return memcmp(uuid, nil, sizeof nil) == 0;
}

void plx_uuid_format(const uint8_t uuid[16], char text[PLX_UUID_TEXT])
{
    snprintf(text, PLX_UUID_TEXT, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", uuid[0],
             uuid[1], uuid[2], uuid[3], uuid[4], uuid[5], uuid[6], uuid[7], uuid[8], uuid[9], uuid[10], uuid[11],
             uuid[12], uuid[13], uuid[14], uuid[15]);
}
