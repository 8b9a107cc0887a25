/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What belongs to a reactor is touched on the thread that runs it, or polls it at present, and on no other. Asserted in
 * debug and sanitizer builds, which define PLX_CHECK_OWNER.
 */
#ifndef PLX_REACTOR_OWNER_H
#define PLX_REACTOR_OWNER_H

#include <pollux/reactor.h>

#ifdef PLX_CHECK_OWNER
#include <assert.h>
bool plx_reactor_is_here(const struct plx_reactor *r);
#define plx_assert_here(r) assert(plx_reactor_is_here(r))
#else
#define plx_assert_here(r) ((void)(r))
#endif

#endif
