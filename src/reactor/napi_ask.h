/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PLX_REACTOR_NAPI_ASK_H
#define PLX_REACTOR_NAPI_ASK_H

#include <stdbool.h>

/*
 * Whether a NIC's queue leaves its interrupts off as long as who polls it finds packets (Linux 6.13). Where its
 * interrupts are put off as it is, and we may, it is made to: who does not ask for that sees nothing of it, so it stays
 * that way. Blocks: the kernel may be busy with the NIC.
 */
bool plx_napi_ask(unsigned id);

#endif
