/* SPDX-License-Identifier: BSD-3-Clause */
/* Addresses of sockets, from texts and to texts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/addr.h"

/* `port` is that of texts without one. */
static void parsed(const char *text, uint16_t port, const char *whole, const char *host)
{
    struct sockaddr_storage a;
    struct plx_error err = {""};
    char got[PLX_ADDR_TEXT];
    if (plx_parse_addr(text, port, &a, &err))
        fail_msg("%s: %s", text, err.text);
    plx_addr_format(&a, got);
    assert_string_equal(got, whole);
    plx_addr_host(&a, got);
    assert_string_equal(got, host);
    /* What is printed can be given again. */
    struct sockaddr_storage b;
    assert_int_equal(plx_parse_addr(whole, 0, &b, &err), 0);
    assert_memory_equal(&a, &b, sizeof a);
}

static void refused(const char *text, const char *word)
{
    struct sockaddr_storage a;
    struct plx_error err = {""};
    if (plx_parse_addr(text, 1, &a, &err) != -EINVAL || !strstr(err.text, word))
        fail_msg("%s: not refused for '%s' but '%s'", text, word, err.text);
}

static void addresses_with_and_without_a_port(void **state)
{
    (void)state;
    parsed("192.0.2.1", 4420, "192.0.2.1:4420", "192.0.2.1");
    parsed("192.0.2.1:0", 4420, "192.0.2.1:0", "192.0.2.1");
    parsed("192.0.2.1:65535", 4420, "192.0.2.1:65535", "192.0.2.1");
    parsed("2001:db8::1", 4420, "[2001:db8::1]:4420", "2001:db8::1");
    parsed("[2001:DB8:0::1]", 4420, "[2001:db8::1]:4420", "2001:db8::1");
    parsed("[::1]:8009", 4420, "[::1]:8009", "::1");
    parsed("[0:0::0]:1", 4420, "[::]:1", "::");
    parsed("0.0.0.0", 1, "0.0.0.0:1", "0.0.0.0");
    parsed("::ffff:192.0.2.1", 4420, "192.0.2.1:4420", "192.0.2.1"); /* the same address as without ::ffff: */
}

static void link_local_addresses_have_an_interface(void **state)
{
    (void)state;
    parsed("[fe80::1%lo]:4420", 1, "[fe80::1%lo]:4420", "fe80::1%lo");
    parsed("fe80::1%1", 4420, "[fe80::1%lo]:4420", "fe80::1%lo"); /* the loopback is always the first */
    refused("fe80::1", "is a link-local address");
    refused("[febf::1]:1", "[fe80::1%eth0]");
    refused("fe80::1%", "no such network interface");
    refused("fe80::1%nosuch", "no such network interface");
    refused("fe80::1%4294967295", "no such network interface");
    refused("fe80::1%4294967296", "no such network interface");
    refused("fe80::1%0", "no such network interface");
    refused("::1%lo", "only link-local");
}

static void an_interface_that_is_gone_has_its_number_for_a_name(void **state)
{
    struct sockaddr_storage a;
    struct plx_error err;
    char text[PLX_ADDR_TEXT];
    (void)state;
    assert_int_equal(plx_parse_addr("[fe80::1%lo]:1", 1, &a, &err), 0);
    ((struct sockaddr_in6 *)(void *)&a)->sin6_scope_id = UINT32_MAX;
    plx_addr_format(&a, text);
    assert_string_equal(text, "[fe80::1%4294967295]:1");
}

static void what_is_no_address_of_a_machine_is_refused(void **state)
{
    (void)state;
    refused("224.0.0.1", "multicast");
    refused("239.255.255.255:1", "multicast");
    refused("[ff02::1]:1", "multicast");
    refused("::ffff:224.0.0.1", "multicast");
    refused("255.255.255.255:1", "broadcast");
}

static void what_is_no_address_is_refused(void **state)
{
    (void)state;
    char text[400];
    refused("", "ADDR:PORT");
    refused(":1", "ADDR:PORT");
    refused("[]:1", "ADDR:PORT");
    refused("[::1]1", "ADDR:PORT");
    refused("[::1", "no ]");
    refused("[::1:4420", "no ]");
    refused("localhost", "\"localhost\" is not a numeric");
    refused("127.1", "not a numeric");
    refused("300.1.1.1:1", "not a numeric");
    refused("1:2:3", "not a numeric");
    refused("[::1::1]:1", "not a numeric");
    refused("127.0.0.1%lo", "not a numeric");
    refused("127.0.0.1:", "up to 65535");
    refused("127.0.0.1:65536", "up to 65535");
    refused("127.0.0.1:-1", "up to 65535");
    refused("127.0.0.1:+1", "up to 65535");
    refused("127.0.0.1: 1", "up to 65535");
    refused("127.0.0.1:1x", "up to 65535");
    refused("[::1]:000001", "up to 65535");
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = 0;
    refused(text, "ADDR:PORT");
    text[255] = 0;
    refused(text, "not a numeric");
    memset(text, ':', 100);
    refused(text, "not a numeric");
}

static void names_are_split_from_their_ports(void **state)
{
    (void)state;
    char host[PLX_ADDR_HOST];
    struct plx_error err;
    uint16_t port = 7;
    assert_int_equal(plx_addr_split("example.org", 11, host, &port, &err), 0);
    assert_string_equal(host, "example.org");
    assert_int_equal(port, 7); /* as it was */
    assert_int_equal(plx_addr_split("example.org:80,other", 14, host, &port, &err), 0);
    assert_string_equal(host, "example.org");
    assert_int_equal(port, 80);
    assert_int_equal(plx_addr_split("[fe80::1%eth0]:81", 17, host, &port, &err), 0);
    assert_string_equal(host, "fe80::1%eth0");
    assert_int_equal(port, 81);
}

static void what_has_no_family_has_a_text_too(void **state)
{
    (void)state;
    struct sockaddr_storage none = {0};
    char text[PLX_ADDR_TEXT];
    plx_addr_format(&none, text);
    assert_string_equal(text, "?:0");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(addresses_with_and_without_a_port),
        cmocka_unit_test(link_local_addresses_have_an_interface),
        cmocka_unit_test(an_interface_that_is_gone_has_its_number_for_a_name),
        cmocka_unit_test(what_is_no_address_of_a_machine_is_refused),
        cmocka_unit_test(what_is_no_address_is_refused),
        cmocka_unit_test(names_are_split_from_their_ports),
        cmocka_unit_test(what_has_no_family_has_a_text_too),
    };
    return cmocka_run_group_tests_name("addr", tests, NULL, NULL);
}
