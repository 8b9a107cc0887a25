/* SPDX-License-Identifier: BSD-3-Clause */
/* Which of several ways this CPU has us go: `pollux version --cpu`. What was chosen, not what would be. */
#include "tune/advice.h"

#include "base/crc32c.h"
#include "base/crc64.h"
#include "base/util.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#if defined(__aarch64__)
/* libgcc's, for -moutline-atomics, which is the default: found out at start. */
extern _Bool __aarch64_have_lse_atomics __attribute__((visibility("hidden")));
#endif

#if defined(__x86_64__)
/* Where code leads to that is nothing but a jump: of a function with several ways, or of a PLT. NULL: it is none */
static const uint8_t *jump_from(const uint8_t *code)
{
    static const uint8_t landing[] = {0xf3, 0x0f, 0x1e, 0xfa}, jump[] = {0xff, 0x25}; /* endbr64, jmp *at(%rip) */
    int32_t at;
    const uint8_t *to;
    if (memcmp(code, landing, sizeof landing) == 0)
        code += sizeof landing;
    code += *code == 0xf2; /* bnd */
    if (memcmp(code, jump, sizeof jump) != 0)
        return NULL;
    memcpy(&at, code + sizeof jump, sizeof at);
    memcpy(&to, code + sizeof jump + sizeof at + at, sizeof to);
    return to;
}
#endif

/* What ISA-L has chosen, once its function for all CPUs has been called. NULL: not to be seen */
static const void *crc32c_function(void)
{
    const void *chosen = NULL;
    (void)plx_crc32c("123456789", 9);
#if defined(__aarch64__)
    const void *info = dlsym(RTLD_DEFAULT, "crc32_iscsi_dispatcher_info");
    if (info)
        memcpy(&chosen, info, sizeof chosen);
#elif defined(__x86_64__)
    const uint8_t *code = dlsym(RTLD_DEFAULT, "crc32_iscsi");
    for (int i = 0; code && i < 4; i++) {
        chosen = i ? code : NULL;
        code = jump_from(code);
    }
#endif
    return chosen;
}

static void crc32c_way(char *out, size_t size)
{
    static const struct {
        const char *function, *by;
    } ways[] = {
        {"crc32_iscsi_base", "tables"},
        {"crc32_iscsi_00", "crc32 and pclmulqdq"},
        {"crc32_iscsi_01", "crc32 and pclmulqdq"},
        {"crc32_iscsi_by16_10", "vpclmulqdq of 512 bits"},
        {"crc32_iscsi_crc_ext", "crc32c"},
        {"crc32_iscsi_3crc_fold", "crc32c, three at a time, and pmull"},
        {"crc32_iscsi_refl_pmull", "pmull"},
    };
    Dl_info info = {.dli_sname = NULL};
    const void *chosen = crc32c_function();
    const char *by = "not known";
    if (chosen)
        dladdr(chosen, &info);
    const char *name = info.dli_sname && info.dli_saddr == chosen ? info.dli_sname : "?";
    for (size_t i = 0; i < PLX_ARRAY_SIZE(ways); i++)
        if (strcmp(name, ways[i].function) == 0)
            by = ways[i].by;
    snprintf(out, size, "%s (ISA-L: %s)", by, name);
}

unsigned tune_ways(struct tune_way out[TUNE_WAYS])
{
#if defined(__aarch64__)
    const char *atomics = __aarch64_have_lse_atomics ? "LSE" : "exclusive loads and stores", *waiting = "isb";
#else
    const char *atomics = "locked instructions", *waiting = "pause";
#endif
    const struct tune_way ways[] = {
        {.what = "CRC32C"},
        {.what = "CRC64", .how = plx_crc64_multiplies() ? "carry-less multiplication" : "tables"},
        {.what = "atomics", .how = atomics},
        {.what = "waiting", .how = waiting},
        {.what = "page"}};
    _Static_assert(PLX_ARRAY_SIZE(ways) <= TUNE_WAYS, "");
    memcpy(out, ways, sizeof ways);
    crc32c_way(out[0].text, sizeof out[0].text);
    out[0].how = out[0].text;
    snprintf(out[4].text, sizeof out[4].text, "%ld bytes", sysconf(_SC_PAGESIZE));
    out[4].how = out[4].text;
    return PLX_ARRAY_SIZE(ways);
}
