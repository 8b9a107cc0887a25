/* SPDX-License-Identifier: BSD-3-Clause */
/* Logging for the library's own rooms; where lines go is set by plx_log_set(). */
#ifndef PLX_BASE_LOG_H
#define PLX_BASE_LOG_H

#include <pollux/base.h>

void plx_log(enum plx_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define plx_error(...) plx_log(PLX_LOG_ERROR, __VA_ARGS__)
#define plx_warn(...) plx_log(PLX_LOG_WARN, __VA_ARGS__)
#define plx_info(...) plx_log(PLX_LOG_INFO, __VA_ARGS__)
#define plx_debug(...) plx_log(PLX_LOG_DEBUG, __VA_ARGS__)

#endif
