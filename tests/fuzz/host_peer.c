/* SPDX-License-Identifier: BSD-3-Clause */
#include "host_peer.h"

#include "base/crc32c.h"
#include "nvme/tcp_qpair.h"

#include <assert.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    CUTS_MAX = 32, /* pieces that a PDU is cut in */
    SEND_TRIES = 100,
    GROUPS_MAX = 300,
    RECORDS = 3, /* of the discovery log */
    PAGE = 64 << 10,
    ACWU = 63,
};

struct peer peers[PEERS];
struct peer_says says;

static int listener = -1;
static uint8_t pattern[PEER_PERIOD + PEER_LARGEST];

const uint8_t *peer_content(uint64_t byte)
{
    return pattern + byte % PEER_PERIOD;
}

/* ---- what the host sends ---- */

struct peer_command *peer_find(struct peer *p, uint16_t cid)
{
    for (unsigned i = 0; i < p->ncommands; i++)
        if (p->commands[i].cid == cid)
            return &p->commands[i];
    return NULL;
}

void peer_forget(struct peer *p, struct peer_command *cmd)
{
    memmove(cmd, cmd + 1, (size_t)((uint8_t *)(p->commands + p->ncommands) - (uint8_t *)(cmd + 1)));
    p->ncommands--;
}

uint64_t peer_first_byte(const struct peer_command *cmd)
{
    return (plx_get32(cmd->sqe.cdw10) | (uint64_t)plx_get32(cmd->sqe.cdw11) << 32) * PEER_BLOCK;
}

static bool brings_content(const struct peer *p, const struct nvme_cmd *sqe)
{
    return p->qid && (sqe->opcode == NVME_IO_WRITE || sqe->opcode == NVME_IO_COMPARE);
}

static void took_command(struct peer *p)
{
    struct nvme_tcp_cmd pdu;
    memcpy(&pdu, p->hdr, sizeof pdu);
    struct peer_command cmd = {.sqe = pdu.cmd, .cid = plx_get16(pdu.cmd.cid), .len = plx_get32(pdu.cmd.sgl.length)};
    unsigned slot = cmd.cid & NVME_TCP_SLOT_MASK;
    cmd.got = p->l.data;
    assert(p->l.data == 0 || p->l.data == cmd.len);
    if (cmd.sqe.opcode == NVME_FABRICS && (plx_get32(cmd.sqe.nsid) & 0xff) == NVME_FABRICS_CONNECT) {
        struct nvme_connect_cmd connect;
        memcpy(&connect, &cmd.sqe, sizeof connect);
        p->qid = plx_get16(connect.qid);
    }
    /* A slot that is used again is none that may still be answered: raw bytes have done so. */
    for (unsigned i = 0; i < p->ncommands; i++) {
        if ((p->commands[i].cid & NVME_TCP_SLOT_MASK) == slot) {
            peer_forget(p, &p->commands[i]);
            break;
        }
    }
    if (slot < PEER_SLOTS)
        p->cids[slot] = cmd.cid;
    if (p->ncommands < PEER_COMMANDS)
        p->commands[p->ncommands++] = cmd;
}

/* What a TermReq PDU complains of it also shows: one that looks beyond the header must have found that one valid. */
static void check_term(const struct peer *p)
{
    const struct nvme_tcp_rules of_host = {.header_digest = p->rules.header_digest,
                                           .data_digest = p->rules.data_digest,
                                           .initialized = true,
                                           .max_data = NVME_MAX_TRANSFER};
    struct nvme_tcp_error err;
    struct nvme_tcp_term t;
    struct nvme_tcp_hdr shown;
    memcpy(&t, p->hdr, sizeof t);
    memcpy(&shown, p->hdr + sizeof t, sizeof shown);
    unsigned fes = plx_get16(t.fes);
    assert(fes > NVME_TCP_FES_NONE && fes < NVME_TCP_FES_COUNT && plx_get32(t.hdr.plen) >= sizeof t + sizeof shown);
    if (fes == NVME_TCP_FES_HEADER_DIGEST || fes == NVME_TCP_FES_OUT_OF_RANGE)
        assert(nvme_tcp_check(&shown, &of_host, &err) == NVME_TCP_FES_NONE);
}

static void took_pdu(struct peer *p)
{
    struct nvme_tcp_ic ic;
    struct nvme_tcp_data d;
    struct peer_command *cmd;
    memcpy(&ic, p->hdr, sizeof ic);
    memcpy(&d, p->hdr, sizeof d);
    p->have = p->need = 0;
    switch (d.hdr.type) {
    case NVME_TCP_ICREQ:
        p->ic_pending = p->rules.initialized = true;
        p->rules.header_digest = ic.dgst & NVME_TCP_DGST_HEADER;
        p->rules.data_digest = ic.dgst & NVME_TCP_DGST_DATA;
        break;
    case NVME_TCP_CMD:
        took_command(p);
        break;
    case NVME_TCP_H2C_DATA:
        cmd = peer_find(p, plx_get16(d.cccid));
        if (cmd)
            cmd->got = plx_get32(d.datao) + plx_get32(d.datal);
        break;
    default:
        check_term(p);
        break;
    }
}

/* Its header is whole. */
static void begin_pdu(struct peer *p)
{
    struct nvme_tcp_data d;
    struct nvme_tcp_cmd c;
    memcpy(&d, p->hdr, sizeof d);
    memcpy(&c, p->hdr, sizeof c);
    if (p->rules.header_digest && d.hdr.type >= NVME_TCP_CMD) {
        uint32_t crc = plx_crc32c(p->hdr, d.hdr.hlen);
        assert(memcmp(&crc, p->hdr + d.hdr.hlen, sizeof crc) == 0);
    }
    p->left = p->l.data;
    p->crc = (uint32_t)PLX_CRC32C_INIT;
    p->digest_have = 0;
    p->expected = NULL;
    if (d.hdr.type == NVME_TCP_H2C_DATA) {
        const struct peer_command *cmd = peer_find(p, plx_get16(d.cccid));
        uint64_t end = (uint64_t)plx_get32(d.datao) + plx_get32(d.datal);
        assert(plx_get32(d.datal) == p->l.data);
        assert(!cmd || end <= cmd->len);
        if (cmd && brings_content(p, &cmd->sqe))
            p->expected = peer_content(peer_first_byte(cmd) + plx_get32(d.datao));
    } else if (d.hdr.type == NVME_TCP_CMD && brings_content(p, &c.cmd)) {
        p->expected = peer_content(peer_first_byte(&(struct peer_command){.sqe = c.cmd}));
    }
}

static size_t take_header(struct peer *p, const uint8_t *b, size_t n)
{
    struct nvme_tcp_error err;
    struct nvme_tcp_hdr h;
    if (!p->need)
        p->need = sizeof h;
    size_t k = plx_min_u64(n, p->need - p->have);
    memcpy(p->hdr + p->have, b, k);
    p->have += (unsigned)k;
    if (p->have == sizeof h) {
        memcpy(&h, p->hdr, sizeof h);
        assert(nvme_tcp_check(&h, &p->rules, &err) == NVME_TCP_FES_NONE);
        p->l = nvme_tcp_layout(&h);
        p->need = p->l.header;
    }
    if (p->have == p->need)
        begin_pdu(p);
    return k;
}

static size_t take_data(struct peer *p, const uint8_t *b, size_t n)
{
    size_t k = plx_min_u64(n, p->left);
    if (p->expected) {
        bool zeroes = !b[0] && !memcmp(b, b + 1, k - 1);
        assert(memcmp(b, p->expected, k) == 0 || (zeroes && says.zeroes_expected));
        p->expected += k;
    }
    if (p->l.digest)
        p->crc = plx_crc32c_add(p->crc, b, k);
    p->left -= (uint32_t)k;
    return k;
}

static size_t take_digest(struct peer *p, const uint8_t *b, size_t n)
{
    size_t k = plx_min_u64(n, p->l.digest - p->digest_have);
    uint32_t crc = plx_crc32c_end(p->crc);
    memcpy(p->digest + p->digest_have, b, k);
    p->digest_have += (unsigned)k;
    assert(p->digest_have < p->l.digest || memcmp(p->digest, &crc, sizeof crc) == 0);
    return k;
}

static void take_stream(struct peer *p, const uint8_t *b, size_t n)
{
    while (n) {
        size_t k = !p->need || p->have < p->need ? take_header(p, b, n)
                   : p->left                     ? take_data(p, b, n)
                                                 : take_digest(p, b, n);
        b += k;
        n -= k;
        if (p->have == p->need && !p->left && p->digest_have == p->l.digest)
            took_pdu(p);
    }
}

/* ---- connections ---- */

struct sockaddr_in peers_begin(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const int window = 16 << 10; /* so that little is enough to find the host's socket full */
    socklen_t len = sizeof at;
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (listener < 0 || setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &window, sizeof window) ||
        bind(listener, (void *)&at, len) || listen(listener, PEERS) || getsockname(listener, (void *)&at, &len))
        __builtin_trap();
    for (unsigned i = 0; i < PEERS; i++)
        peers[i].fd = -1;
    for (size_t i = 0; i < sizeof pattern; i++)
        pattern[i] = (uint8_t)(i % PEER_PERIOD);
    return at;
}

/* With a reset, so that no port is left in TIME_WAIT: a run takes some, and there are not that many. */
void peer_hang_up(struct peer *p)
{
    const struct linger reset = {.l_onoff = 1};
    setsockopt(p->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    close(p->fd);
    p->fd = -1;
}

static int accept_all(void)
{
    const int on = 1;
    int n = 0;
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0; n++) {
        struct peer *p = peers;
        while (p < peers + PEERS - 1 && p->fd >= 0)
            p++;
        if (p->fd >= 0)
            peer_hang_up(p);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* else what was sent is not there at once */
        memset(p, 0, offsetof(struct peer, commands));
        p->fd = fd;
        p->rules = (struct nvme_tcp_rules){.target = true, .max_capsule_data = PEER_LARGEST, .max_data = PEER_LARGEST};
        for (unsigned i = 0; i < PEER_SLOTS; i++)
            p->cids[i] = (uint16_t)i;
    }
    return n;
}

void peers_hang_up(void)
{
    accept_all();
    for (struct peer *p = peers; p < peers + PEERS; p++)
        if (p->fd >= 0)
            peer_hang_up(p);
}

static int receive(struct peer *p)
{
    static uint8_t in[256 << 10];
    ssize_t n = recv(p->fd, in, sizeof in, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN)
        return 0;
    if (n <= 0)
        peer_hang_up(p);
    else
        take_stream(p, in, (size_t)n);
    return 1;
}

int peers_serve(void)
{
    int work = accept_all();
    for (struct peer *p = peers; p < peers + PEERS; p++)
        work += p->fd >= 0 && !p->deaf ? receive(p) : 0;
    return work;
}

/* Gives up a connection that takes no more for long. */
static void send_all(struct peer *p, const uint8_t *b, size_t n)
{
    for (int tries = 0; n && p->fd >= 0;) {
        ssize_t k = send(p->fd, b, n, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (k > 0) {
            b += k;
            n -= (size_t)k;
        } else if (errno != EAGAIN || ++tries == SEND_TRIES) {
            peer_hang_up(p);
        } else {
            peers_settle();
        }
    }
}

void peer_put(struct peer *p, const uint8_t *b, size_t n)
{
    size_t piece = p->cut ? plx_max_u64(p->cut, n / CUTS_MAX) : n;
    while (n && p->fd >= 0) {
        size_t k = plx_min_u64(n, piece);
        send_all(p, b, k);
        b += k;
        n -= k;
        if (n)
            peers_settle();
    }
}

/* `pdu` begins with a header in which type and the flags of that type are set; all else follows from what is there. */
static void send_pdu(struct peer *p, const void *pdu, uint8_t hlen, const uint8_t *data, uint32_t len, unsigned spoil)
{
    static uint8_t out[NVME_TCP_PDO_MAX + PEER_LARGEST + NVME_TCP_DIGEST];
    struct nvme_tcp_hdr h;
    memcpy(out, pdu, hlen);
    memcpy(&h, out, sizeof h);
    bool digests = h.type >= NVME_TCP_CMD;
    unsigned hd = p->rules.header_digest && digests ? NVME_TCP_DIGEST : 0;
    unsigned dd = p->rules.data_digest && digests && len ? NVME_TCP_DIGEST : 0, pdo = hlen + hd;
    h.flags |= (uint8_t)((hd ? NVME_TCP_HDGSTF : 0) | (dd ? NVME_TCP_DDGSTF : 0));
    h.hlen = hlen;
    h.pdo = len && digests ? (uint8_t)pdo : 0;
    h.plen = plx_put32(pdo + len + dd);
    memcpy(out, &h, sizeof h);
    uint32_t crc = plx_crc32c(out, hlen) ^ (spoil & SPOIL_HEADER);
    memcpy(out + hlen, &crc, hd);
    if (len)
        memcpy(out + pdo, data, len);
    crc = plx_crc32c(out + pdo, len) ^ (spoil & SPOIL_DATA);
    memcpy(out + pdo + len, &crc, dd);
    peer_put(p, out, pdo + len + dd);
}

void peer_send_resp(struct peer *p, uint16_t cid, struct nvme_cqe cqe, unsigned spoil)
{
    struct nvme_tcp_resp r = {.hdr.type = NVME_TCP_RESP, .cqe = cqe};
    r.cqe.cid = plx_put16(cid);
    send_pdu(p, &r, sizeof r, NULL, 0, spoil);
}

void peer_send_data(struct peer *p, uint16_t cid, uint8_t flags, uint32_t at, const uint8_t *data, uint32_t len,
                    unsigned spoil)
{
    const struct nvme_tcp_data d = {.hdr = {.type = NVME_TCP_C2H_DATA, .flags = flags},
                                    .cccid = plx_put16(cid),
                                    .datao = plx_put32(at),
                                    .datal = plx_put32(len)};
    send_pdu(p, &d, sizeof d, data, len, spoil);
}

void peer_send_r2t(struct peer *p, uint16_t cid, uint16_t tag, uint32_t at, uint32_t len)
{
    const struct nvme_tcp_r2t r = {.hdr.type = NVME_TCP_R2T,
                                   .cccid = plx_put16(cid),
                                   .ttag = plx_put16(tag),
                                   .r2to = plx_put32(at),
                                   .r2tl = plx_put32(len)};
    send_pdu(p, &r, sizeof r, NULL, 0, 0);
}

void peer_send_term(struct peer *p, uint16_t fes, const uint8_t *shown, uint32_t len)
{
    const struct nvme_tcp_term t = {.hdr.type = NVME_TCP_C2H_TERM, .fes = plx_put16(fes)};
    send_pdu(p, &t, sizeof t, shown, len, 0);
}

/* ---- a controller that does what it should ---- */

static void apply(const struct peer_patch *patch, void *to, size_t len)
{
    for (size_t i = 0; len && i < patch->n; i++)
        ((uint8_t *)to)[(patch->at + i) % len] = patch->bytes[i];
}

void peer_answer_ic(struct peer *p, const struct peer_patch *patch)
{
    struct nvme_tcp_ic ic = {.hdr = {.type = NVME_TCP_ICRESP},
                             .dgst = (uint8_t)((p->rules.header_digest ? NVME_TCP_DGST_HEADER : 0) |
                                               (p->rules.data_digest ? NVME_TCP_DGST_DATA : 0)),
                             .max = plx_put32(128 << 10)};
    p->ic_pending = false;
    apply(patch, &ic.pfv, sizeof ic - offsetof(struct nvme_tcp_ic, pfv));
    send_pdu(p, &ic, sizeof ic, NULL, 0, 0);
}

static void identify_ctrl(uint8_t *page)
{
    struct nvme_id_ctrl *id = (void *)page;
    id->cmic = 1 << 3;
    id->mdts = 5;
    id->cntrltype = 1;
    id->acl = 3;
    id->lpa = 1 << 2;
    id->oaes = plx_put32(1u << 31 | 1 << 11 | 1 << 8);
    id->nanagrpid = plx_put32(says.groups);
    id->oncs = plx_put16(0x10d); /* all that the host has a use for: nothing is done by reading and writing */
    id->fuses = plx_put16(1);
    id->acwu = plx_put16(ACWU);
    id->vwc = 1;
    id->ioccsz = plx_put32((sizeof(struct nvme_cmd) + 8192) / 16);
}

static void identify_ns(uint8_t *page)
{
    struct nvme_id_ns *ns = (void *)page;
    ns->nsze = ns->ncap = ns->nuse = plx_put64(1 << 20);
    ns->nsfeat = 3 << 4;
    ns->dlfeat = 1 | 1 << 3;
    ns->mssrl = plx_put16(UINT16_MAX);
    ns->mcl = plx_put32(UINT16_MAX);
    ns->anagrpid = plx_put32(says.groups);
    ns->nguid[0] = 1;
    ns->lbaf[0] = plx_put32(9 << 16);
}

/* From byte `at` on. */
static void ana_log(uint8_t *to, uint32_t at, uint32_t len)
{
    static uint8_t log[16 + 32 * GROUPS_MAX];
    log[8] = (uint8_t)says.groups;
    log[9] = (uint8_t)(says.groups >> 8);
    for (unsigned i = 0; i < GROUPS_MAX; i++) {
        plx_le32 id = plx_put32(i + 1);
        memcpy(log + 16 + 32 * i, &id, sizeof id);
        log[16 + 32 * i + 16] = says.ana;
    }
    if (at < sizeof log)
        memcpy(to, log + at, plx_min_u64(len, sizeof log - at));
}

static void discovery_log(uint8_t *to, uint32_t at, uint32_t len)
{
    static uint8_t log[1024 * (1 + RECORDS)];
    log[0] = 1; /* the generation */
    log[8] = RECORDS;
    for (unsigned i = 1; i <= RECORDS; i++) {
        struct nvme_discovery_entry *e = (void *)(log + 1024 * i);
        *e = (struct nvme_discovery_entry){.trtype = NVME_TRTYPE_TCP, .adrfam = NVME_ADRFAM_IPV4};
        memset(e->trsvcid, ' ', sizeof e->trsvcid);
        memset(e->traddr, 'x', sizeof e->traddr); /* all of it: no zero ends it */
        memset(e->subnqn, 'n', sizeof e->subnqn);
    }
    if (at < sizeof log)
        memcpy(to, log + at, plx_min_u64(len, sizeof log - at));
}

static void identify(const struct nvme_cmd *sqe, uint8_t *page)
{
    switch (plx_get32(sqe->cdw10) & 0xff) {
    case NVME_CNS_CTRL:
        identify_ctrl(page);
        break;
    case NVME_CNS_NS:
        identify_ns(page);
        break;
    case NVME_CNS_ACTIVE_NS:
        page[0] = 1;
        break;
    case NVME_CNS_NS_DESCRIPTORS: /* CSI, UUID, NGUID, EUI-64 */
        if (!says.nameless)
            memcpy(page, "\4\1\0\0\0\3\20\0\0abcdefghijklmnop\2\20\0\0ponmlkjihgfedcba\1\10\0\0abcdefgh", 57);
        break;
    case NVME_CNS_CSI_CTRL:
        ((struct nvme_id_ctrl_nvm *)(void *)page)->wzsl = 5;
        break;
    default:
        break;
    }
}

/* @return bytes of data that go to the host */
static uint32_t admin_data(const struct peer_command *cmd, uint8_t *page)
{
    uint8_t what = plx_get32(cmd->sqe.cdw10) & 0xff;
    uint32_t len = (uint32_t)plx_min_u64(cmd->len, PAGE), at = plx_get32(cmd->sqe.cdw12);
    if (cmd->sqe.opcode != NVME_ADMIN_IDENTIFY && cmd->sqe.opcode != NVME_ADMIN_GET_LOG_PAGE)
        return 0;
    memset(page, 0, plx_max_u64(len, NVME_PAGE));
    if (cmd->sqe.opcode == NVME_ADMIN_IDENTIFY)
        identify(&cmd->sqe, page);
    else if (what == NVME_LOG_ANA)
        ana_log(page, at, len);
    else if (what == NVME_LOG_DISCOVERY)
        discovery_log(page, at, len);
    return len;
}

static void fabrics(const struct nvme_cmd *sqe, struct nvme_cqe *cqe)
{
    struct nvme_property_cmd cmd;
    memcpy(&cmd, sqe, sizeof cmd);
    uint64_t v = 0;
    if (cmd.fctype == NVME_FABRICS_CONNECT)
        v = 1; /* the controller's ID */
    else if (cmd.fctype == NVME_FABRICS_PROPERTY_GET)
        v = plx_get32(cmd.offset) == NVME_PROP_CAP  ? UINT64_C(1) << 37 | 127
            : plx_get32(cmd.offset) == NVME_PROP_VS ? NVME_VERSION
                                                    : NVME_CSTS_RDY;
    cqe->dw0 = plx_put32(v);
    cqe->dw1 = plx_put32(v >> 32);
}

static bool awaits_data(const struct peer *p, const struct peer_command *cmd)
{
    return p->qid && cmd->sqe.opcode != NVME_IO_READ && cmd->got < cmd->len;
}

static bool ask_for_data(struct peer *p, struct peer_command *cmd)
{
    if (cmd->asked)
        return false;
    cmd->asked = true;
    peer_send_r2t(p, cmd->cid, 7, cmd->got, cmd->len - cmd->got);
    return true;
}

bool peer_answer(struct peer *p, struct peer_command *at, const struct peer_patch *patch)
{
    static uint8_t page[PAGE] __attribute__((aligned(8)));
    const struct peer_command cmd = *at;
    struct nvme_cqe cqe = {.status = plx_put16(0)};
    const uint8_t *data = page;
    uint32_t len = 0;
    if (!p->qid && cmd.sqe.opcode == NVME_ADMIN_ASYNC_EVENT && !patch->n)
        return false;
    if (awaits_data(p, at))
        return ask_for_data(p, at);
    peer_forget(p, at);
    if (cmd.sqe.opcode == NVME_FABRICS) {
        fabrics(&cmd.sqe, &cqe);
    } else if (!p->qid) {
        len = admin_data(&cmd, page);
        if (cmd.sqe.opcode == NVME_ADMIN_SET_FEATURES)
            cqe.dw0 = cmd.sqe.cdw11;
        apply(patch, page, len);
    } else if (cmd.sqe.opcode == NVME_IO_READ) {
        len = (uint32_t)plx_min_u64(cmd.len, PEER_LARGEST);
        data = peer_content(peer_first_byte(&cmd));
    }
    if (len) {
        peer_send_data(p, cmd.cid, NVME_TCP_LAST | (says.success_flag ? NVME_TCP_SUCCESS : 0), 0, data, len, 0);
        if (says.success_flag)
            return true;
    } else {
        apply(patch, &cqe, sizeof cqe);
    }
    peer_send_resp(p, cmd.cid, cqe, 0);
    return true;
}

bool peers_answer_any(void)
{
    static const struct peer_patch none;
    for (struct peer *p = peers; p < peers + PEERS; p++) {
        if (p->fd < 0)
            continue;
        if (p->ic_pending) {
            peer_answer_ic(p, &none);
            return true;
        }
        for (unsigned i = 0; i < p->ncommands; i++)
            if (peer_answer(p, &p->commands[i], &none))
                return true;
    }
    return false;
}
