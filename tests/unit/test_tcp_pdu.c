/* SPDX-License-Identifier: BSD-3-Clause */
#include "nvme/tcp_pdu.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static const struct nvme_tcp_rules open_rules = {
    .target = true, .initialized = true, .max_capsule_data = 8192, .max_data = 1 << 20};

static struct nvme_tcp_hdr hdr(uint8_t type, uint8_t flags, uint8_t hlen, uint8_t pdo, uint32_t plen)
{
    return (struct nvme_tcp_hdr){type, flags, hlen, pdo, plx_put32(plen)};
}

static void passes(struct nvme_tcp_hdr h, const struct nvme_tcp_rules *rules, struct nvme_tcp_layout want)
{
    struct nvme_tcp_error err;
    assert_int_equal(nvme_tcp_check(&h, rules, &err), NVME_TCP_FES_NONE);
    struct nvme_tcp_layout l = nvme_tcp_layout(&h);
    assert_int_equal(l.header, want.header);
    assert_int_equal(l.data, want.data);
    assert_int_equal(l.digest, want.digest);
}

static void fails(struct nvme_tcp_hdr h, const struct nvme_tcp_rules *rules, enum nvme_tcp_fes fes, uint32_t fei)
{
    struct nvme_tcp_error err = {0};
    assert_int_equal(nvme_tcp_check(&h, rules, &err), fes);
    assert_int_equal(err.fes, fes);
    assert_int_equal(err.fei, fei);
}

static void a_capsule_with_and_without_data_passes(void **state)
{
    (void)state;
    passes(hdr(NVME_TCP_CMD, 0, 72, 0, 72), &open_rules, (struct nvme_tcp_layout){72, 0, 0});
    passes(hdr(NVME_TCP_CMD, 0, 72, 72, 72 + 4096), &open_rules, (struct nvme_tcp_layout){72, 4096, 0});
    passes(hdr(NVME_TCP_CMD, 0, 72, 128, 128 + 8192), &open_rules, (struct nvme_tcp_layout){128, 8192, 0});
}

static void digests_are_part_of_the_layout(void **state)
{
    (void)state;
    struct nvme_tcp_rules rules = open_rules;
    rules.header_digest = rules.data_digest = true;
    passes(hdr(NVME_TCP_CMD, NVME_TCP_HDGSTF, 72, 0, 76), &rules, (struct nvme_tcp_layout){76, 0, 0});
    passes(hdr(NVME_TCP_CMD, NVME_TCP_HDGSTF | NVME_TCP_DDGSTF, 72, 76, 76 + 512 + 4), &rules,
           (struct nvme_tcp_layout){76, 512, 4});
    passes(hdr(NVME_TCP_H2C_DATA, NVME_TCP_HDGSTF | NVME_TCP_DDGSTF | NVME_TCP_LAST, 24, 28, 28 + 512 + 4), &rules,
           (struct nvme_tcp_layout){28, 512, 4});
}

static void digest_flags_must_be_what_was_agreed(void **state)
{
    (void)state;
    struct nvme_tcp_rules rules = open_rules;
    fails(hdr(NVME_TCP_CMD, NVME_TCP_HDGSTF, 72, 0, 76), &rules, NVME_TCP_FES_INVALID_HEADER, 1);
    rules.header_digest = true;
    fails(hdr(NVME_TCP_CMD, 0, 72, 0, 72), &rules, NVME_TCP_FES_INVALID_HEADER, 1);
    rules.data_digest = true;
    fails(hdr(NVME_TCP_CMD, NVME_TCP_HDGSTF, 72, 76, 76 + 512), &rules, NVME_TCP_FES_INVALID_HEADER, 1);
}

static void each_wrong_field_is_named_by_its_offset(void **state)
{
    (void)state;
    fails(hdr(0x55, 0, 72, 0, 72), &open_rules, NVME_TCP_FES_INVALID_HEADER, 0);
    fails(hdr(NVME_TCP_C2H_DATA, 0, 24, 24, 32), &open_rules, NVME_TCP_FES_INVALID_HEADER, 0);
    fails(hdr(NVME_TCP_CMD, 0x80, 72, 0, 72), &open_rules, NVME_TCP_FES_INVALID_HEADER, 1);
    fails(hdr(NVME_TCP_CMD, 0, 71, 0, 72), &open_rules, NVME_TCP_FES_INVALID_HEADER, 2);
    fails(hdr(NVME_TCP_CMD, 0, 72, 71, 72 + 512), &open_rules, NVME_TCP_FES_INVALID_HEADER, 3);
    fails(hdr(NVME_TCP_CMD, 0, 72, 74, 74 + 512), &open_rules, NVME_TCP_FES_INVALID_HEADER, 3);
    fails(hdr(NVME_TCP_CMD, 0, 72, 0, 71), &open_rules, NVME_TCP_FES_INVALID_HEADER, 4);
    fails(hdr(NVME_TCP_CMD, 0, 72, 72, 72 + 8193), &open_rules, NVME_TCP_FES_INVALID_HEADER, 4);
    fails(hdr(NVME_TCP_CMD, 0, 72, 72, UINT32_MAX), &open_rules, NVME_TCP_FES_INVALID_HEADER, 4);
}

static void data_must_reach_beyond_its_offset_and_stay_within_limits(void **state)
{
    (void)state;
    fails(hdr(NVME_TCP_H2C_DATA, 0, 24, 24, 24), &open_rules, NVME_TCP_FES_INVALID_HEADER, 4);
    passes(hdr(NVME_TCP_H2C_DATA, 0, 24, 24, 24 + (1 << 20)), &open_rules, (struct nvme_tcp_layout){24, 1 << 20, 0});
    fails(hdr(NVME_TCP_H2C_DATA, 0, 24, 24, 25 + (1 << 20)), &open_rules, NVME_TCP_FES_LIMIT_EXCEEDED, 0);
}

static void initialization_comes_once_and_first(void **state)
{
    (void)state;
    struct nvme_tcp_rules rules = open_rules;
    fails(hdr(NVME_TCP_ICREQ, 0, 128, 0, 128), &rules, NVME_TCP_FES_SEQUENCE, 0);
    rules.initialized = false;
    passes(hdr(NVME_TCP_ICREQ, 0, 128, 0, 128), &rules, (struct nvme_tcp_layout){128, 0, 0});
    fails(hdr(NVME_TCP_CMD, 0, 72, 0, 72), &rules, NVME_TCP_FES_SEQUENCE, 0);
}

static void a_host_takes_what_a_target_sends(void **state)
{
    (void)state;
    struct nvme_tcp_rules rules = open_rules;
    rules.target = false;
    passes(hdr(NVME_TCP_C2H_DATA, NVME_TCP_LAST | NVME_TCP_SUCCESS, 24, 24, 24 + 4096), &rules,
           (struct nvme_tcp_layout){24, 4096, 0});
    passes(hdr(NVME_TCP_RESP, 0, 24, 0, 24), &rules, (struct nvme_tcp_layout){24, 0, 0});
    passes(hdr(NVME_TCP_R2T, 0, 24, 0, 24), &rules, (struct nvme_tcp_layout){24, 0, 0});
    fails(hdr(NVME_TCP_CMD, 0, 72, 0, 72), &rules, NVME_TCP_FES_INVALID_HEADER, 0);
    rules.pda = 15; /* 64 byte alignment was asked for */
    fails(hdr(NVME_TCP_C2H_DATA, NVME_TCP_LAST, 24, 24, 24 + 4096), &rules, NVME_TCP_FES_INVALID_HEADER, 3);
    passes(hdr(NVME_TCP_C2H_DATA, NVME_TCP_LAST, 24, 64, 64 + 4096), &rules, (struct nvme_tcp_layout){64, 4096, 0});
}

static void a_term_request_has_a_size_of_its_own(void **state)
{
    (void)state;
    passes(hdr(NVME_TCP_H2C_TERM, 0, 24, 0, 152), &open_rules, (struct nvme_tcp_layout){152, 0, 0});
    fails(hdr(NVME_TCP_H2C_TERM, 0, 24, 0, 153), &open_rules, NVME_TCP_FES_INVALID_HEADER, 4);
    fails(hdr(NVME_TCP_H2C_TERM, 0, 24, 0, 23), &open_rules, NVME_TCP_FES_INVALID_HEADER, 4);
}

static void the_body_of_icreq_is_checked(void **state)
{
    (void)state;
    struct nvme_tcp_error err;
    struct nvme_tcp_ic ic = {.pda = 31, .dgst = 3};
    assert_int_equal(nvme_tcp_check_ic(&ic, &open_rules, &err), NVME_TCP_FES_NONE);
    ic.pda = 32;
    assert_int_equal(nvme_tcp_check_ic(&ic, &open_rules, &err), NVME_TCP_FES_INVALID_HEADER);
    assert_int_equal(err.fei, 10);
    ic.pda = 0;
    ic.dgst = 4;
    assert_int_equal(nvme_tcp_check_ic(&ic, &open_rules, &err), NVME_TCP_FES_INVALID_HEADER);
    assert_int_equal(err.fei, 11);
    ic.pfv = plx_put16(1);
    assert_int_equal(nvme_tcp_check_ic(&ic, &open_rules, &err), NVME_TCP_FES_UNSUPPORTED);
    assert_int_equal(err.fei, 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_capsule_with_and_without_data_passes),
        cmocka_unit_test(digests_are_part_of_the_layout),
        cmocka_unit_test(digest_flags_must_be_what_was_agreed),
        cmocka_unit_test(each_wrong_field_is_named_by_its_offset),
        cmocka_unit_test(data_must_reach_beyond_its_offset_and_stay_within_limits),
        cmocka_unit_test(initialization_comes_once_and_first),
        cmocka_unit_test(a_host_takes_what_a_target_sends),
        cmocka_unit_test(a_term_request_has_a_size_of_its_own),
        cmocka_unit_test(the_body_of_icreq_is_checked),
    };
    return cmocka_run_group_tests_name("tcp_pdu", tests, NULL, NULL);
}
