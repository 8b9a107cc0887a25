/* SPDX-License-Identifier: BSD-3-Clause */
/* What is known of devices that do not do as the specification has it. */
#include "nvme/pcie_dev.h"

enum {
    ANY = 0xffff,
    INTEL = 0x8086,
    SAMSUNG = 0x144d,
    MEMBLAZE = 0x1c5f,
    HGST = 0x1c58,
    SEAGATE = 0x1bb1,
    HUAWEI = 0x19e5,
    LONG_QUEUE = 1024,
};

static const struct {
    uint16_t vendor, device;
    struct pcie_quirks is;
} known[] = {
    /* Their registers are not to be read for a while after a reset or a change of EN, or they stay as they are. */
    {SAMSUNG, 0xa821, {.open_ms = 2500, .rest_ms = 2300}},
    {SAMSUNG, 0xa822, {.open_ms = 2500, .rest_ms = 2300}},
    {SAMSUNG, 0xa826, {.open_ms = 2500}},
    {MEMBLAZE, 0x0540, {.open_ms = 2500, .rest_ms = 2300}},
    {HGST, 0x0003, {.rest_ms = 2300}},
    {HGST, 0x0023, {.rest_ms = 2300}},
    {SEAGATE, 0x0100, {.rest_ms = 2300}},
    /* They are two controllers in one, and slow across the two; and with short queues. */
    {INTEL, 0x0953, {.open_ms = 2000, .min_entries = LONG_QUEUE, .stripes = true}},
    {INTEL, 0x0a53, {.open_ms = 2000, .min_entries = LONG_QUEUE, .stripes = true}},
    {INTEL, 0x0a54, {.open_ms = 2000, .min_entries = LONG_QUEUE, .stripes = true}},
    {INTEL, 0x0a55, {.min_entries = LONG_QUEUE, .stripes = true}},
    {INTEL, 0x0b60, {.min_entries = LONG_QUEUE, .stripes = true}},
    /* They say that they take SGLs. */
    {HUAWEI, ANY, {.no_sgl = true}},
};

struct pcie_quirks pcie_quirks_of(uint16_t vendor, uint16_t device)
{
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(known); i++)
        if (known[i].vendor == vendor && (known[i].device == device || known[i].device == ANY))
            return known[i].is;
    return (struct pcie_quirks){0};
}
