/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * @file What every other public header stands on: visibility, version, errors in words, logging.  Two vocabularies of
 * errors are used throughout the library: control functions return 0 or a negative errno value (and put a sentence for
 * a person into a struct plx_error), commands to disks end with an NVMe status.
 */
#ifndef POLLUX_BASE_H
#define POLLUX_BASE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PLX_API __attribute__((visibility("default")))

/** The version of the library, such as "0.1.0". */
PLX_API const char *plx_version(void);

/** A circular doubly linked list, whose links live in its members. */
struct plx_list {
    struct plx_list *prev, *next;
};

/** One line that says what was wrong and what would be right. The caller owns it; it is only written on failure. */
struct plx_error {
    char text[320];
};

/**
 * Writes a sentence into err (which may be NULL) and returns ret, so that `return plx_fail(err, -EINVAL, ...)` reads
 * well.
 */
PLX_API int plx_fail(struct plx_error *err, int ret, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/**
 * Bytes of the character that text begins with, in UTF-8; 0 at its end, and where there is something that a terminal
 * must not get to see: a control character, or no UTF-8.
 */
PLX_API size_t plx_text_printable(const char *text);

/** Writes a text so that a shell takes it for one word. @return false when it is too long, or not printable */
PLX_API bool plx_text_quote(const char *text, char *out, size_t size);

enum plx_log_level {
    PLX_LOG_ERROR,
    PLX_LOG_WARN,
    PLX_LOG_INFO,
    PLX_LOG_DEBUG,
};

/**
 * Receives one finished line without a newline. Called on whichever thread logs, which is often a reactor's and must
 * not be blocked: see src/cli/log.c for a way.
 */
typedef void (*plx_log_fn)(void *arg, enum plx_log_level level, const char *line);

/**
 * Where the library's log lines go, and from which level on. Process-wide, as which disks there are; to
 * be set before the first reactor runs, and again when none does any more. By default nothing is logged. Of one message
 * about one peer or disk 10 lines are logged in 5 s; beyond that they are counted, and a line says how many they were.
 * What has not been told when this is called is told to the function set before.
 */
PLX_API void plx_log_set(plx_log_fn fn, void *arg, enum plx_log_level level);

/** Another level, at any time and from any thread. */
PLX_API void plx_log_set_level(enum plx_log_level level);
PLX_API enum plx_log_level plx_log_get_level(void);

/** Parses a size such as "4096", "64K", "1G" or "1.5T" (powers of 1024). Returns 0, -EINVAL or -ERANGE. */
PLX_API int plx_parse_size(const char *text, uint64_t *bytes);

/**
 * Parses a set of cores: a hex mask ("0x5", "[0x5]" too) or a list ("0-3,6").
 * @param cores receives up to max core numbers, ascending
 * @return how many, or -EINVAL with err filled
 */
PLX_API int plx_parse_cores(const char *text, int *cores, int max, struct plx_error *err);

struct sockaddr_storage;
/**
 * Parses a numeric address of a machine, perhaps with a port: "192.0.2.1", "192.0.2.1:4420", "::1", "[::1]:4420",
 * "[fe80::1%eth0]:4420". IPv4 in IPv6 becomes IPv4.
 * @param port where the text has none
 * @return 0, or -EINVAL with err filled
 */
PLX_API int plx_parse_addr(const char *text, uint16_t port, struct sockaddr_storage *addr, struct plx_error *err);

#ifdef __cplusplus
}
#endif
#endif
