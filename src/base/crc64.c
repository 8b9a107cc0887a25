/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/crc64.h"

#include "base/util.h"

#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#include <sys/auxv.h>
#endif

enum { SLICES = 8, LANES = 4, STEP = LANES * 16 };

static const uint64_t poly = 0x9a6c9329ac4bc9b5; /* reflected: x^63 is bit 0 */

static pthread_once_t once = PTHREAD_ONCE_INIT;
static uint64_t slices[SLICES][256];
static uint64_t fold_far[2], fold_near[2]; /* by STEP bytes, and by 16: of the first 8 bytes, and of the second */
static bool multiplies;

/* ---- what is computed once ---- */

static uint64_t times_x(uint64_t v)
{
    return v >> 1 ^ (v & 1 ? poly : 0);
}

/* x^n mod P. A product of two reflected numbers is theirs times x, which is why there is one less. */
static uint64_t power(unsigned n)
{
    uint64_t v = UINT64_C(1) << 63;
    while (--n)
        v = times_x(v);
    return v;
}

static bool cpu_multiplies(void)
{
#if defined(__x86_64__)
    return __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1");
#elif defined(__aarch64__)
    return getauxval(AT_HWCAP) & 1 << 4; /* PMULL */
#else
    return false;
#endif
}

static void crc64_begin(void)
{
    for (unsigned i = 0; i < 256; i++) {
        slices[0][i] = i;
        for (unsigned bit = 0; bit < 8; bit++)
            slices[0][i] = times_x(slices[0][i]);
    }
    for (unsigned s = 1; s < SLICES; s++)
        for (unsigned i = 0; i < 256; i++)
            slices[s][i] = slices[s - 1][i] >> 8 ^ slices[0][slices[s - 1][i] & 0xff];
    fold_far[0] = power(STEP * 8 + 64);
    fold_far[1] = power(STEP * 8);
    fold_near[0] = power(128 + 64);
    fold_near[1] = power(128);
    multiplies = cpu_multiplies();
}

/* ---- by tables: 8 bytes at a time ---- */

static uint64_t add_slices(uint64_t crc, const uint8_t *p, size_t len)
{
    for (; len >= SLICES; p += SLICES, len -= SLICES) {
        uint64_t v;
        memcpy(&v, p, sizeof v);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        v = __builtin_bswap64(v);
#endif
        v ^= crc;
        crc = 0;
        for (unsigned s = 0; s < SLICES; s++)
            crc ^= slices[SLICES - 1 - s][v >> 8 * s & 0xff];
    }
    for (; len; p++, len--)
        crc = crc >> 8 ^ slices[0][(crc ^ *p) & 0xff];
    return crc;
}

/* ---- by multiplication: what is ahead by some bytes is the same as so many bytes later, times a power of x ---- */

#if defined(__x86_64__)

#define TARGET __attribute__((target("pclmul,sse4.1")))
typedef __m128i lane;

static TARGET inline lane lane_load(const void *p)
{
    return _mm_loadu_si128(p);
}

static TARGET inline lane lane_first(uint64_t first)
{
    return _mm_cvtsi64_si128((long long)first);
}

static TARGET inline lane lane_pair(const uint64_t by[2])
{
    return _mm_set_epi64x((long long)by[1], (long long)by[0]);
}

static TARGET inline lane lane_xor(lane a, lane b)
{
    return _mm_xor_si128(a, b);
}

static TARGET inline lane lane_fold(lane a, lane by)
{
    return _mm_xor_si128(_mm_clmulepi64_si128(a, by, 0x00), _mm_clmulepi64_si128(a, by, 0x11));
}

static TARGET inline void lane_store(void *p, lane a)
{
    _mm_storeu_si128(p, a);
}

#elif defined(__aarch64__)

#define TARGET __attribute__((target("+crypto")))
typedef uint64x2_t lane;

static TARGET inline lane lane_load(const void *p)
{
    return vreinterpretq_u64_u8(vld1q_u8(p));
}

static TARGET inline lane lane_first(uint64_t first)
{
    return vcombine_u64(vcreate_u64(first), vcreate_u64(0));
}

static TARGET inline lane lane_pair(const uint64_t by[2])
{
    return vld1q_u64(by);
}

static TARGET inline lane lane_xor(lane a, lane b)
{
    return veorq_u64(a, b);
}

static TARGET inline lane lane_fold(lane a, lane by)
{
    const poly64x2_t pa = vreinterpretq_p64_u64(a), pby = vreinterpretq_p64_u64(by);
    return veorq_u64(
        vreinterpretq_u64_p128(vmull_p64((poly64_t)vgetq_lane_p64(pa, 0), (poly64_t)vgetq_lane_p64(pby, 0))),
        vreinterpretq_u64_p128(vmull_high_p64(pa, pby)));
}

static TARGET inline void lane_store(void *p, lane a)
{
    vst1q_u64(p, a);
}

#endif

#ifdef TARGET

/* At least STEP bytes. What is left in the end are 16 bytes, and the rest. */
static TARGET uint64_t add_lanes(uint64_t crc, const uint8_t *p, size_t len)
{
    const lane far = lane_pair(fold_far), near = lane_pair(fold_near);
    lane at[LANES];
    uint8_t left[16];
    for (unsigned i = 0; i < LANES; i++)
        at[i] = lane_load(p + i * sizeof(lane));
    at[0] = lane_xor(at[0], lane_first(crc));
    for (p += STEP, len -= STEP; len >= STEP; p += STEP, len -= STEP)
        for (unsigned i = 0; i < LANES; i++)
            at[i] = lane_xor(lane_fold(at[i], far), lane_load(p + i * sizeof(lane)));
    for (unsigned i = 1; i < LANES; i++)
        at[0] = lane_xor(lane_fold(at[0], near), at[i]);
    for (; len >= sizeof(lane); p += sizeof(lane), len -= sizeof(lane))
        at[0] = lane_xor(lane_fold(at[0], near), lane_load(p));
    lane_store(left, at[0]);
    return add_slices(add_slices(0, left, sizeof left), p, len);
}

#endif

/* ---- */

uint64_t plx_crc64_portable(uint64_t crc, const void *data, size_t len)
{
    pthread_once(&once, crc64_begin);
    return ~add_slices(~crc, data, len);
}

uint64_t plx_crc64(uint64_t crc, const void *data, size_t len)
{
    pthread_once(&once, crc64_begin);
#ifdef TARGET
    if (plx_likely(multiplies) && len >= STEP)
        return ~add_lanes(~crc, data, len);
#endif
    return ~add_slices(~crc, data, len);
}

bool plx_crc64_multiplies(void)
{
    pthread_once(&once, crc64_begin);
    return multiplies;
}
