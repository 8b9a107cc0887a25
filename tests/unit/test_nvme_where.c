/* SPDX-License-Identifier: BSD-3-Clause */
/* How controllers, hosts and subsystems are named. */
#include "nvme/host.h"

#include <pollux/nvme.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NQN "nqn.2014-08.org.nvmexpress:t"

static struct nvme_where w;
static struct plx_error err;

/* The files of nvme-cli's are the test's. Linked with --wrap=open64. */
static char hostnqn_file[64] = "/nowhere";
int __wrap_open64(const char *path, int flags, ...);
int __real_open64(const char *path, int flags, ...);

int __wrap_open64(const char *path, int flags, ...)
{
    return __real_open64(strcmp(path, "/etc/nvme/hostnqn") == 0 ? hostnqn_file : path, flags);
}

static void accepted(const char *url)
{
    if (nvme_where_parse(&w, url, &err))
        fail_msg("%s: %s", url, err.text);
}

static void refused(const char *url, const char *word)
{
    memset(&err, 0, sizeof err);
    if (!nvme_where_parse(&w, url, &err) || !strstr(err.text, word))
        fail_msg("%s: not refused for '%s' but '%s'", url, word, err.text);
}

static void addresses_and_ports(void **state)
{
    (void)state;
    accepted("nvme+tcp://192.0.2.1:1234/" NQN);
    assert_string_equal(w.paths[0].list[0].name, "192.0.2.1:1234");
    assert_string_equal(w.o.subnqn, NQN);
    accepted("nvme+tcp://192.0.2.1/" NQN);
    assert_string_equal(w.paths[0].list[0].name, "192.0.2.1:4420");
    accepted("nvme+tcp://[2001:db8::1]:1/" NQN);
    assert_string_equal(w.paths[0].list[0].name, "[2001:db8::1]:1");
    accepted("nvme+tcp://[::1]/" NQN);
    assert_string_equal(w.paths[0].list[0].name, "[::1]:4420");
    accepted("nvme+tcp://192.0.2.1:1,[::1]:2,192.0.2.2/" NQN);
    assert_int_equal(w.npaths, 3);
    assert_string_equal(w.paths[1].list[0].name, "[::1]:2");
    assert_string_equal(w.o.addrs.list[0].name, "192.0.2.1:1");
    assert_string_equal(nvme_where_opts(&w, 2).addrs.list[0].name, "192.0.2.2:4420");
}

static void all_addresses_of_a_name_are_one_path(void **state)
{
    (void)state;
    accepted("nvme+tcp://[::1+192.0.2.1+192.0.2.2]:1234,192.0.2.3:1/" NQN); /* see names.c */
    assert_int_equal(w.npaths, 2);
    assert_int_equal(w.paths[0].n, 3);
    assert_string_equal(w.paths[0].list[0].name, "[::1]:1234");
    assert_string_equal(w.paths[0].list[1].name, "192.0.2.1:1234");
    assert_string_equal(w.paths[0].list[2].name, "192.0.2.2:1234");
    assert_int_equal(nvme_where_opts(&w, 0).addrs.n, 3);
    assert_int_equal(nvme_where_opts(&w, 1).addrs.n, 1);
    accepted("nvme+tcp://192.0.2.1+192.0.2.2+192.0.2.3+192.0.2.4+192.0.2.5/" NQN);
    assert_int_equal(w.paths[0].n, NVME_ADDRS_MAX);
}

static void link_local_addresses_have_an_interface(void **state)
{
    (void)state;
    accepted("nvme+tcp://[fe80::1%lo]:1/" NQN);
    assert_string_equal(w.paths[0].list[0].name, "[fe80::1%lo]:1");
    assert_int_equal(((const struct sockaddr_in6 *)(const void *)&w.paths[0].list[0].addr)->sin6_scope_id, 1);
    refused("nvme+tcp://[fe80::1]:1/" NQN, "[fe80::1]:1 is a link-local address");
    refused("nvme+tcp://[fe80::1%nosuch]:1/" NQN, "no such network interface");
    /* Of a name's addresses, those that can be connected to: see names.c. */
    accepted("nvme+tcp://[fe80::1+224.0.0.1+192.0.2.1]/" NQN);
    assert_int_equal(w.paths[0].n, 1);
    assert_string_equal(w.paths[0].list[0].name, "192.0.2.1:4420");
}

static void what_is_no_address_of_a_machine_is_refused(void **state)
{
    (void)state;
    refused("nvme+tcp://224.0.0.1/" NQN, "224.0.0.1:4420 is a multicast address");
    refused("nvme+tcp://[ff02::1%lo]/" NQN, "multicast");
    refused("nvme+tcp://255.255.255.255/" NQN, "broadcast");
}

static void bare_ipv6_addresses_have_no_port(void **state)
{
    (void)state;
    nvme_where_init(&w);
    assert_int_equal(nvme_where_addr(&w, "2001:db8::1", 11, 8009, &err), 0);
    assert_string_equal(w.paths[0].list[0].name, "[2001:db8::1]:8009");
}

static void parameters(void **state)
{
    (void)state;
    accepted("nvme+tcp://192.0.2.1/" NQN "?nsid=7&hdgst=1&ddgst=1&queues=4&depth=64&kato=10&timeout=3&connect_timeout=2"
             "&reconnect_deadline=60&policy=round-robin&hostnqn=nqn.2014-08.org.nvmexpress:me%3f&sqflow=1");
    assert_int_equal(w.o.nsid, 7);
    assert_true(w.o.hdgst && w.o.ddgst && w.o.sq_flow && w.round_robin);
    assert_int_equal(w.o.queues, 4);
    assert_int_equal(w.o.depth, 64);
    assert_int_equal(w.o.kato_ms, 10000);
    assert_int_equal(w.o.timeout_ms, 3000);
    assert_int_equal(w.o.connect_timeout_ms, 2000);
    assert_int_equal(w.reconnect_deadline_ms, 60000);
    assert_string_equal(w.o.hostnqn, "nqn.2014-08.org.nvmexpress:me?");
}

static void a_disk_s_uuid_is_no_matter_of_the_controller(void **state)
{
    (void)state;
    accepted("nvme+tcp://192.0.2.1/" NQN "?uuid=01234567-89ab-cdef-0123-456789abcdef&nsid=7");
    assert_int_equal(w.o.nsid, 7);
}

static void defaults(void **state)
{
    (void)state;
    accepted("nvme+tcp://192.0.2.1/" NQN);
    assert_true(!w.o.hdgst && !w.o.ddgst && !w.o.sq_flow && !w.round_robin);
    assert_int_equal(w.o.nsid, 0);
    assert_int_equal(w.o.queues, 1);
    assert_int_equal(w.o.depth, NVME_DEPTH_DEFAULT);
    assert_int_equal(w.o.kato_ms, 5000);
    assert_int_equal(w.o.timeout_ms, 30000);
    assert_int_equal(w.reconnect_deadline_ms, 0);
}

static void hosts_are_the_same_every_time(void **state)
{
    (void)state;
    accepted("nvme+tcp://192.0.2.1/" NQN);
    struct nvme_opts first = w.o;
    assert_int_equal(strncmp(first.hostnqn, "nqn.", 4), 0);
    accepted("nvme+tcp://192.0.2.1/" NQN);
    assert_string_equal(w.o.hostnqn, first.hostnqn);
    assert_memory_equal(w.o.hostid, first.hostid, 16);
    accepted("nvme+tcp://192.0.2.1/" NQN "?hostnqn=nqn.2014-08.org.nvmexpress:other");
    assert_memory_not_equal(w.o.hostid, first.hostid, 16);
}

static void the_host_identifier_is_that_in_the_name(void **state)
{
    (void)state;
    const uint8_t id[16] = {0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef,
                            0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef};
    accepted("nvme+tcp://192.0.2.1/" NQN
             "?hostnqn=nqn.2014-08.org.nvmexpress:uuid:01234567-89ab-cdef-0123-456789abcdef");
    assert_memory_equal(w.o.hostid, id, 16);
    accepted("nvme+tcp://192.0.2.1/" NQN "?hostid=01234567-89ab-cdef-0123-456789abcdef");
    assert_memory_equal(w.o.hostid, id, 16);
}

static void write_hostnqn(const char *text)
{
    snprintf(hostnqn_file, sizeof hostnqn_file, "/tmp/test_nvme_where.XXXXXX");
    int fd = mkstemp(hostnqn_file);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
}

static void the_first_line_of_the_file_with_the_host_s_name_and_no_more_is_its_name(void **state)
{
    static const char rest[NVME_NQN_FIELD];
    const size_t len = sizeof NQN "host" - 1;
    (void)state;
    write_hostnqn(NQN "host\nand what else there is");
    accepted("nvme+tcp://192.0.2.1/" NQN);
    assert_string_equal(w.o.hostnqn, NQN "host");
    assert_memory_equal(w.o.hostnqn + len, rest, NVME_NQN_FIELD - len); /* which Connect sends */
    unlink(hostnqn_file);
}

static void a_file_with_a_wrong_name_of_the_host_is_named(void **state)
{
    (void)state;
    write_hostnqn("nqn.2014-08.org.nvmexpress:uuid:x\n");
    refused("nvme+tcp://192.0.2.1/" NQN, "/etc/nvme/hostnqn: nqn.2014-08.org.nvmexpress:uuid:x has no UUID");
    accepted("nvme+tcp://192.0.2.1/" NQN "?hostnqn=nqn.2014-08.org.nvmexpress:other");
    unlink(hostnqn_file);
    write_hostnqn("# none yet\n");
    accepted("nvme+tcp://192.0.2.1/" NQN);
    assert_memory_equal(w.o.hostnqn, NVME_NQN_UUID, sizeof NVME_NQN_UUID - 1);
    unlink(hostnqn_file);
    write_hostnqn("\n");
    accepted("nvme+tcp://192.0.2.1/" NQN);
    assert_memory_equal(w.o.hostnqn, NVME_NQN_UUID, sizeof NVME_NQN_UUID - 1);
    unlink(hostnqn_file);
}

static void names_that_cannot_be_looked_up_now_are_told_from_wrong_ones(void **state)
{
    (void)state;
    assert_int_equal(nvme_where_parse(&w, "nvme+tcp://again/" NQN, &err), -EAGAIN);
    assert_int_equal(nvme_where_parse(&w, "nvme+tcp://memory/" NQN, &err), -EAGAIN);
    assert_int_equal(nvme_where_parse(&w, "nvme+tcp://descriptors/" NQN, &err), -EMFILE);
    assert_non_null(strstr(err.text, strerror(EMFILE)));
    assert_int_equal(nvme_where_parse(&w, "nvme+tcp://nobody/" NQN, &err), -EINVAL);
}

static void what_is_wrong_is_named(void **state)
{
    (void)state;
    refused("file:x", "nvme+tcp://");
    refused("nvme+tcp:x", "named like");
    refused("nvme+tcp://192.0.2.1", "named like");
    refused("nvme+tcp://192.0.2.1/", "NQN");
    refused("nvme+tcp:///" NQN, "ADDR:PORT");
    refused("nvme+tcp://:1/" NQN, "ADDR:PORT");
    refused("nvme+tcp://[::1/" NQN, "no ]");
    refused("nvme+tcp://[::1]1/" NQN, "ADDR:PORT");
    refused("nvme+tcp://192.0.2.1:/" NQN, "port");
    refused("nvme+tcp://192.0.2.1:0/" NQN, "port");
    refused("nvme+tcp://192.0.2.1:65536/" NQN, "port");
    refused("nvme+tcp://192.0.2.1:12x/" NQN, "port");
    refused("nvme+tcp://1,2,3,4,5,6,7,8,9/" NQN, "at most 8");
    refused("nvme+tcp://192.0.2.1/" NQN "?nsid", "NAME=VALUE");
    refused("nvme+tcp://192.0.2.1/" NQN "?nsid=", "number");
    refused("nvme+tcp://192.0.2.1/" NQN "?nsid=4294967295", "number");
    refused("nvme+tcp://192.0.2.1/" NQN "?queues=129", "1 to 128");
    refused("nvme+tcp://192.0.2.1/" NQN "?hdgst=yes", "0 or 1");
    refused("nvme+tcp://192.0.2.1/" NQN "?kato=1000001", "seconds from 0 to 1000000");
    refused("nvme+tcp://192.0.2.1/" NQN "?nsid=1&hdgst=1&nsid=2", "nsid= is given twice");
    refused("nvme+tcp://192.0.2.1/" NQN "?queues=0", "nvme+tcp://192.0.2.1/" NQN ": queues=0: takes");
    refused("nvme+tcp://192.0.2.1/" NQN "?hostid=00000000-0000-0000-0000-000000000000", "hostid");
    refused("nvme+tcp://192.0.2.1/" NQN "?hostnqn=%zz", "hex");
    refused("nvme+tcp://192.0.2.1/" NQN "?hostnqn=nqn.x", "hostnqn=nqn.x has no year");
    refused("nvme+tcp://192.0.2.1/" NQN "?no=1", "there are");
    refused("nvme+tcp://192.0.2.1/" NQN "?&nsid=1", "'' is no setting");
    refused("nvme+tcp://192.0.2.1/" NQN "?=1", "'=1' is no setting");
    refused("nvme+tcp://192.0.2.1/" NQN "?reconnect_deadline_seconds=1",
            "no setting reconnect_deadline_s...=; there are");
}

static void names_are_judged(void **state)
{
    (void)state;
    static const char *const good[] = {"nqn.2014-08.org.nvmexpress:uuid:01234567-89ab-cdef-0123-456789abcdef",
                                       "nqn.2014-08.org.nvmexpress:uuid:01234567-89AB-CDEF-0123-456789ABCDEF",
                                       "nqn.2014-08.org.nvmexpress:NVMf:uuid:x", "nqn.2024-12.x:a",
                                       "nqn.2024-01.com.example:größe:1"};
    static const struct {
        const char *nqn, *word;
    } bad[] = {
        {"", "begin with"},
        {"NQN.2024-01.com.example:x", "begin with"},
        {"iqn.2024-01.com.example:x", "begin with"},
        {"nqn.2024-01.com.example:a b", "a blank"},
        {"nqn.2024-01.com.example:a\n", "a control character"},
        {"nqn.2024-01.com.example:a\xc2\x9b", "a control character"},
        {"nqn.2024-01.com.example:\xff", "not UTF-8"},
        {"nqn.2024-01.com.example:\xc3", "not UTF-8"},
        {"nqn.2024-00.com.example:x", "month from 01"},
        {"nqn.2024-13.com.example:x", "month from 01"},
        {"nqn.2024-1.com.example:x", "no year"},
        {"nqn.24-01.com.example:x", "no year"},
        {"nqn.2024-01", "no year"},
        {"nqn.", "no year"},
        {"nqn.com.example:x", "no year"},
        {"nqn.2024-01.com.example", "no colon"},
        {"nqn.2024-01.com.example:", "no colon"},
        {"nqn.2024-01.:x", "no domain"},
        {"nqn.2014-08.org.nvmexpress.discovery", "every discovery controller"},
        {"nqn.2014-08.org.nvmexpress:uuid:", "no UUID"},
        {"nqn.2014-08.org.nvmexpress:uuid:x", "no UUID"},
        {"nqn.2014-08.org.nvmexpress:uuid:0123456789abcdef0123456789abcdef", "no UUID"},
        {"nqn.2014-08.org.nvmexpress:uuid:01234567-89ab-cdef-0123-456789abcdefg", "no UUID"},
        {"nqn.2014-08.org.nvmexpress:uuid:01234567-89ab-cdef-0123-456789abcdeg", "no UUID"},
    };
    char longest[NVME_NQN_MAX + 2];
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        if (plx_nvme_nqn_problem(good[i]))
            fail_msg("%s %s", good[i], plx_nvme_nqn_problem(good[i]));
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        const char *problem = plx_nvme_nqn_problem(bad[i].nqn);
        if (!problem || !strstr(problem, bad[i].word))
            fail_msg("%s: '%s'", bad[i].nqn, problem ? problem : "good");
    }
    memset(longest, 'x', sizeof longest);
    memcpy(longest, "nqn.2024-01.com.example:", 24);
    longest[sizeof longest - 1] = 0;
    assert_non_null(strstr(plx_nvme_nqn_problem(longest), "longer than 223"));
    longest[sizeof longest - 2] = 0;
    assert_null(plx_nvme_nqn_problem(longest));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(addresses_and_ports),
        cmocka_unit_test(all_addresses_of_a_name_are_one_path),
        cmocka_unit_test(link_local_addresses_have_an_interface),
        cmocka_unit_test(what_is_no_address_of_a_machine_is_refused),
        cmocka_unit_test(bare_ipv6_addresses_have_no_port),
        cmocka_unit_test(parameters),
        cmocka_unit_test(a_disk_s_uuid_is_no_matter_of_the_controller),
        cmocka_unit_test(defaults),
        cmocka_unit_test(hosts_are_the_same_every_time),
        cmocka_unit_test(the_host_identifier_is_that_in_the_name),
        cmocka_unit_test(the_first_line_of_the_file_with_the_host_s_name_and_no_more_is_its_name),
        cmocka_unit_test(a_file_with_a_wrong_name_of_the_host_is_named),
        cmocka_unit_test(names_that_cannot_be_looked_up_now_are_told_from_wrong_ones),
        cmocka_unit_test(what_is_wrong_is_named),
        cmocka_unit_test(names_are_judged),
    };
    return cmocka_run_group_tests_name("where", tests, NULL, NULL);
}
