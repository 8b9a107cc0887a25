/* SPDX-License-Identifier: BSD-3-Clause */
/* Pools of an attacker's making, before those who open them, and those who check and repair them: see pool_mutate.h. */
#include "pool_mutate.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    pool_mutate(data, size);
    return 0;
}
