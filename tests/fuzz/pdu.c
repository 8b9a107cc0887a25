/* SPDX-License-Identifier: BSD-3-Clause */
/* The PDU header validator: whatever it lets pass has a layout that is consistent, and within the rules. */
#include "nvme/tcp_pdu.h"

#include <assert.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct nvme_tcp_hdr hdr;
    struct nvme_tcp_error err = {0};
    struct nvme_tcp_ic ic;
    if (size < 4 + sizeof hdr)
        return 0;
    struct nvme_tcp_rules rules = {.target = data[0] & 1,
                                   .header_digest = data[0] & 2,
                                   .data_digest = data[0] & 4,
                                   .initialized = data[0] & 8,
                                   .pda = data[1] & 31,
                                   .max_capsule_data = 1u << (data[2] & 31),
                                   .max_data = 1u << (data[3] & 31)};
    memcpy(&hdr, data + 4, sizeof hdr);
    if (nvme_tcp_check(&hdr, &rules, &err) != NVME_TCP_FES_NONE) {
        assert(err.fes >= 1 && err.fes <= 6 && err.fei < sizeof hdr);
        return 0;
    }
    struct nvme_tcp_layout l = nvme_tcp_layout(&hdr);
    assert((uint64_t)l.header + l.data + l.digest == plx_get32(hdr.plen));
    assert(l.header >= hdr.hlen && l.header <= NVME_TCP_PDO_MAX);
    assert(l.data <= rules.max_capsule_data || l.data <= rules.max_data);
    if (size >= 4 + sizeof ic) {
        memcpy(&ic, data + 4, sizeof ic);
        if (nvme_tcp_check_ic(&ic, &rules, &err) == NVME_TCP_FES_NONE)
            assert(ic.pda <= NVME_TCP_HPDA_MAX);
    }
    return 0;
}
