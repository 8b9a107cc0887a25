/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * NVMe as the specifications write it: NVMe Base 2.1, NVM Command Set 1.1. Structures here are what lies on the wire;
 * integers are little-endian types of their own, read and written with plx_get*() and plx_put*().
 */
#ifndef PLX_NVME_SPEC_H
#define PLX_NVME_SPEC_H

#include "base/le.h"

#include <pollux/nvme_status.h>

enum { NVME_VERSION = 0x00020100 }; /* 2.1.0 */

/* ---- submission and completion queue entries: Base 4.1, 4.2 ---- */

/* SGL descriptor: Base 4.3.2; the transport descriptor of NVMe/TCP: TCP 3.5 */
struct nvme_sgl {
    plx_le64 address; /* of a data block with the offset subtype: where the data begins in the capsule */
    plx_le32 length;
    uint8_t reserved[3];
    uint8_t type; /* type in bits 7:4, subtype in bits 3:0 */
};

enum nvme_sgl_type {
    NVME_SGL_DATA_BLOCK_OFFSET = 0x01, /* data in the capsule */
    NVME_SGL_TRANSPORT_DATA = 0x5a,    /* data by the transport's own means */
};

struct nvme_cmd {
    uint8_t opcode;
    uint8_t flags; /* fused in bits 1:0, PSDT in bits 7:6 */
    plx_le16 cid;
    plx_le32 nsid; /* Fabrics commands: the command type in the first byte */
    plx_le32 cdw2, cdw3;
    plx_le64 mptr;
    struct nvme_sgl sgl;
    plx_le32 cdw10, cdw11, cdw12, cdw13, cdw14, cdw15;
};

struct nvme_cqe {
    plx_le32 dw0, dw1;
    plx_le16 sqhd;
    plx_le16 sqid;
    plx_le16 cid;
    plx_le16 status; /* status field in bits 15:1 */
};

_Static_assert(sizeof(struct nvme_cmd) == 64, "a submission queue entry is 64 bytes");
_Static_assert(sizeof(struct nvme_cqe) == 16, "a completion queue entry is 16 bytes");

enum {
    NVME_FUSE_MASK = 0x03,
    NVME_FUSE_FIRST = 0x01,
    NVME_FUSE_SECOND = 0x02,
    NVME_PSDT_MASK = 0xc0,
    NVME_PSDT_SGL = 0x40,
    NVME_STATUS_DNR = 0x4000, /* do not retry, as in the status field shifted down by one */
    NVME_NSID_ALL = 0xffffffff,
};

enum nvme_admin_opcode {
    NVME_ADMIN_GET_LOG_PAGE = 0x02,
    NVME_ADMIN_IDENTIFY = 0x06,
    NVME_ADMIN_ABORT = 0x08,
    NVME_ADMIN_SET_FEATURES = 0x09,
    NVME_ADMIN_GET_FEATURES = 0x0a,
    NVME_ADMIN_ASYNC_EVENT = 0x0c,
    NVME_ADMIN_KEEP_ALIVE = 0x18,
    NVME_FABRICS = 0x7f,
};

enum nvme_io_opcode {
    NVME_IO_FLUSH = 0x00,
    NVME_IO_WRITE = 0x01,
    NVME_IO_READ = 0x02,
    NVME_IO_COMPARE = 0x05,
    NVME_IO_WRITE_ZEROES = 0x08,
    NVME_IO_DSM = 0x09,
    NVME_IO_VERIFY = 0x0c,
    NVME_IO_RESV_REGISTER = 0x0d,
    NVME_IO_RESV_REPORT = 0x0e,
    NVME_IO_RESV_ACQUIRE = 0x11,
    NVME_IO_RESV_RELEASE = 0x15,
    NVME_IO_COPY = 0x19,
    NVME_IO_ZONE_MANAGE = 0x79, /* ZNS 3.4.3, */
    NVME_IO_ZONE_REPORT = 0x7a, /* 3.4.2: Zone Management Receive, */
    NVME_IO_ZONE_APPEND = 0x7d, /* 3.4.1 */
};

/* NVM Command Set 3.2 and 3.3: command dwords of the I/O commands */
enum {
    NVME_RW_PRINFO_MASK = 0x3c000000, /* cdw12: protection information */
    NVME_RW_FUA = 0x40000000,
    NVME_RW_DEAC = 0x02000000, /* write zeroes: deallocate */
    NVME_DSM_AD = 0x04,        /* cdw11: deallocate */
};

struct nvme_dsm_range {
    plx_le32 attributes;
    plx_le32 nlb;
    plx_le64 slba;
};

/* Copy source range, descriptor format 0 */
struct nvme_copy_range {
    uint8_t reserved0[8];
    plx_le64 slba;
    plx_le16 nlb; /* 0's based */
    uint8_t reserved18[14];
};

/* ---- Fabrics commands: Base 6 ---- */

enum nvme_fabrics_type {
    NVME_FABRICS_PROPERTY_SET = 0x00,
    NVME_FABRICS_CONNECT = 0x01,
    NVME_FABRICS_PROPERTY_GET = 0x04,
    NVME_FABRICS_DISCONNECT = 0x08,
};

enum {
    NVME_NQN_MAX = 223, /* bytes without the terminating zero: Base 4.7 */
    NVME_NQN_FIELD = 256,
    NVME_CNTLID_DYNAMIC = 0xffff,
    NVME_CNTLID_MAX = 0xffef,
    NVME_CONNECT_NO_SQ_FLOW = 0x04, /* CATTR: SQ flow control disabled */
};

#define NVME_DISCOVERY_NQN "nqn.2014-08.org.nvmexpress.discovery"
#define NVME_NQN_UUID "nqn.2014-08.org.nvmexpress:uuid:"

struct nvme_connect_cmd {
    uint8_t opcode;
    uint8_t flags;
    plx_le16 cid;
    uint8_t fctype;
    uint8_t reserved5[19];
    struct nvme_sgl sgl;
    plx_le16 recfmt;
    plx_le16 qid;
    plx_le16 sqsize; /* 0's based */
    uint8_t cattr;
    uint8_t reserved47;
    plx_le32 kato; /* milliseconds */
    uint8_t reserved52[12];
};

struct nvme_connect_data {
    uint8_t hostid[16];
    plx_le16 cntlid;
    uint8_t reserved18[238];
    char subnqn[NVME_NQN_FIELD];
    char hostnqn[NVME_NQN_FIELD];
    uint8_t reserved768[256];
};

struct nvme_property_cmd {
    uint8_t opcode;
    uint8_t flags;
    plx_le16 cid;
    uint8_t fctype;
    uint8_t reserved5[35];
    uint8_t attrib; /* bits 2:0: 0 for 4 bytes, 1 for 8 */
    uint8_t reserved41[3];
    plx_le32 offset;
    plx_le64 value;
    uint8_t reserved56[8];
};

_Static_assert(sizeof(struct nvme_connect_cmd) == 64 && sizeof(struct nvme_property_cmd) == 64, "");
_Static_assert(sizeof(struct nvme_connect_data) == 1024, "");

/* ---- controller properties: Base 3.1.4 ---- */

enum nvme_property {
    NVME_PROP_CAP = 0x00,
    NVME_PROP_VS = 0x08,
    NVME_PROP_CC = 0x14,
    NVME_PROP_CSTS = 0x1c,
};

enum {
    NVME_CAP_CSS_NVM_SHIFT = 37,
    NVME_CAP_CSS_ALL_SHIFT = 43,
    NVME_CC_EN = 1 << 0,
    NVME_CC_CSS_SHIFT = 4,
    NVME_CC_CSS_ALL = 6, /* all I/O command sets that there are; 0 is the NVM command set */
    NVME_CC_MPS_SHIFT = 7,
    NVME_CC_AMS_SHIFT = 11,
    NVME_CC_SHN_SHIFT = 14,
    NVME_CC_IOSQES_SHIFT = 16,
    NVME_CC_IOCQES_SHIFT = 20,
    NVME_CSTS_RDY = 1 << 0,
    NVME_CSTS_CFS = 1 << 1,
    NVME_CSTS_SHST_MASK = 3 << 2,
    NVME_CSTS_SHST_COMPLETE = 2 << 2,
};

/* ---- features, log pages, identify ---- */

enum nvme_feature {
    NVME_FEAT_ARBITRATION = 0x01,
    NVME_FEAT_POWER_MANAGEMENT = 0x02,
    NVME_FEAT_TEMPERATURE_THRESHOLD = 0x04,
    NVME_FEAT_ERROR_RECOVERY = 0x05,
    NVME_FEAT_WRITE_CACHE = 0x06,
    NVME_FEAT_NUMBER_OF_QUEUES = 0x07,
    NVME_FEAT_WRITE_ATOMICITY = 0x0a,
    NVME_FEAT_ASYNC_EVENT = 0x0b,
    NVME_FEAT_KEEP_ALIVE = 0x0f,
    NVME_FEAT_HOST_BEHAVIOR = 0x16,
    NVME_FEAT_COMMAND_SET_PROFILE = 0x19,
    NVME_FEAT_HOST_ID = 0x81,
    NVME_FEAT_RESV_MASK = 0x82,
    NVME_FEAT_RESV_PERSIST = 0x83,
};

/* Types of asynchronous events: Base 5.1.2 */
enum {
    NVME_EVENT_NOTICE = 2,
    NVME_EVENT_IO_SET = 6, /* specific to I/O command sets */
};

enum nvme_log_page {
    NVME_LOG_SUPPORTED = 0x00,
    NVME_LOG_ERROR = 0x01,
    NVME_LOG_HEALTH = 0x02,
    NVME_LOG_FIRMWARE = 0x03,
    NVME_LOG_CHANGED_NS = 0x04,
    NVME_LOG_EFFECTS = 0x05,
    NVME_LOG_ANA = 0x0c,
    NVME_LOG_FEATURES = 0x12,
    NVME_LOG_DISCOVERY = 0x70,
    NVME_LOG_RESERVATION = 0x80,
};

enum nvme_cns {
    NVME_CNS_NS = 0x00,
    NVME_CNS_CTRL = 0x01,
    NVME_CNS_ACTIVE_NS = 0x02,
    NVME_CNS_NS_DESCRIPTORS = 0x03,
    NVME_CNS_CSI_NS = 0x05,
    NVME_CNS_CSI_CTRL = 0x06,
    NVME_CNS_CSI_ACTIVE_NS = 0x07,
    NVME_CNS_CSI_NS_FORMATS = 0x09,
    NVME_CNS_CSI_INDEPENDENT_NS = 0x08,
    NVME_CNS_ALLOCATED_NS = 0x10,
    NVME_CNS_ALLOCATED_NS_DATA = 0x11,
    NVME_CNS_CTRL_LIST_OF_NS = 0x12,
    NVME_CNS_CTRL_LIST = 0x13,
    NVME_CNS_NS_GRANULARITY = 0x16,
    NVME_CNS_COMMAND_SETS = 0x1c,
};

struct nvme_power_state {
    plx_le16 max_power;
    uint8_t reserved2[30];
};

/* Identify Controller: Base 5.1.13.2.1 */
struct nvme_id_ctrl {
    plx_le16 vid, ssvid;
    char sn[20], mn[40], fr[8];
    uint8_t rab, ieee[3], cmic, mdts;
    plx_le16 cntlid;
    plx_le32 ver, rtd3r, rtd3e, oaes, ctratt;
    plx_le16 rrls;
    uint8_t bpcap, reserved103;
    plx_le32 nssl;
    uint8_t reserved108[2];
    uint8_t plsi, cntrltype, fguid[16];
    plx_le16 crdt[3];
    uint8_t crcap, reserved135[118], nvmsr, vwci, mec;
    plx_le16 oacs; /* byte 256 */
    uint8_t acl, aerl, frmw, lpa, elpe, npss, avscc, apsta;
    plx_le16 wctemp, cctemp, mtfa;
    plx_le32 hmpre, hmmin;
    uint8_t tnvmcap[16], unvmcap[16];
    plx_le32 rpmbs;
    plx_le16 edstt;
    uint8_t dsto, fwug;
    plx_le16 kas, hctma, mntmt, mxtmt;
    plx_le32 sanicap, hmminds;
    plx_le16 hmmaxd, nsetidmax, endgidmax;
    uint8_t anatt, anacap;
    plx_le32 anagrpmax, nanagrpid, pels;
    plx_le16 domainid;
    uint8_t kpioc, reserved359;
    plx_le16 mptfawr;
    uint8_t reserved362[6], megcap[16], tmpthha, reserved385[127];
    uint8_t sqes, cqes; /* byte 512 */
    plx_le16 maxcmd;
    plx_le32 nn;
    plx_le16 oncs, fuses;
    uint8_t fna, vwc;
    plx_le16 awun, awupf;
    uint8_t icsvscc, nwpc;
    plx_le16 acwu, cdfs;
    plx_le32 sgls, mnan;
    uint8_t maxdna[16];
    plx_le32 maxcna, oaqd;
    uint8_t rhiri, hirt;
    plx_le16 cmmrtd, nmmrtd;
    uint8_t minmrtg, maxmrtg, trattr, reserved577;
    plx_le16 mcudmq, mnsudmq, mcmr, nmcmr, mcdqpc;
    uint8_t reserved588[180];
    char subnqn[NVME_NQN_FIELD]; /* byte 768 */
    uint8_t reserved1024[768];
    plx_le32 ioccsz, iorcsz; /* byte 1792, in units of 16 bytes */
    plx_le16 icdoff;
    uint8_t fcatt, msdbd;
    plx_le16 ofcs;
    uint8_t dctype, ccrl, reserved1808[240];
    struct nvme_power_state psd[32];
    uint8_t vendor[1024];
};

/* Identify Namespace, NVM command set: NVM 4.1.5.1 */
struct nvme_id_ns {
    plx_le64 nsze, ncap, nuse;
    uint8_t nsfeat, nlbaf, flbas, mc, dpc, dps, nmic, rescap, fpi, dlfeat;
    plx_le16 nawun, nawupf, nacwu, nabsn, nabo, nabspf, noiob;
    uint8_t nvmcap[16];
    plx_le16 npwg, npwa, npdg, npda, nows, mssrl;
    plx_le32 mcl;
    uint8_t msrc, kpios, nulbaf, reserved83;
    plx_le32 kpiodaag;
    uint8_t reserved88[4];
    plx_le32 anagrpid; /* byte 92 */
    uint8_t reserved96[3], nsattr;
    plx_le16 nvmsetid, endgid;
    uint8_t nguid[16], eui64[8];
    plx_le32 lbaf[64]; /* data size as a power of two in bits 23:16 */
    uint8_t vendor[3712];
};

/* I/O command set independent namespace data: Base 5.1.13.2.8 */
struct nvme_id_ns_independent {
    uint8_t nsfeat, nmic, rescap, fpi;
    plx_le32 anagrpid;
    uint8_t nsattr, reserved9;
    plx_le16 nvmsetid, endgid;
    uint8_t nstat, kpios;
    plx_le16 maxkt;
    plx_le16 reserved18;
    plx_le32 rgrpid;
    uint8_t reserved24[4072];
};

/* NVM command set specific controller data: NVM 4.1.5.3 */
struct nvme_id_ctrl_nvm {
    uint8_t vsl, wzsl, wusl, dmrl;
    plx_le32 dmrsl;
    plx_le64 dmsl;
    uint8_t kpiocap, wzdsl;
    plx_le16 aocs;
    plx_le32 ver;
    uint8_t lbamqf, reserved25[4071];
};

/* Identify Namespace, zoned namespaces: ZNS 4.1.5.1 */
struct nvme_id_ns_zoned {
    plx_le16 zoc, ozcs;
    plx_le32 mar, mor; /* 0's based; all ones: no limit */
    uint8_t reserved12[2804];
    struct {
        plx_le64 zsze; /* blocks */
        uint8_t zdes, reserved9[7];
    } lbafe[64]; /* of each LBA format */
    uint8_t vendor[256];
};

enum { NVME_CSI_NVM = 0, NVME_CSI_ZONED = 2 };

enum {
    NVME_ZOC_VARIABLE_CAPACITY = 1 << 0,
    NVME_ZOC_EXCURSIONS = 1 << 1,
    NVME_OZCS_READ_ACROSS = 1 << 0,
};

/* Identify Controller, zoned namespaces: ZNS 4.1.5.2 */
struct nvme_id_ctrl_zoned {
    uint8_t zasl, reserved1[4095];
};

/* Zone Management Send and Receive: ZNS 3.4.2, 3.4.3 */
enum {
    NVME_ZONE_ALL = 1 << 8,         /* Send, dword 13: Select All, */
    NVME_ZONE_SEND_OPTION = 1 << 9, /* Zone Send Action Specific Option */
    NVME_ZONE_REPORT = 0,           /* Receive, dword 13: Zone Receive Action, */
    NVME_ZONE_REPORT_SHIFT = 8,     /* Zone Receive Action Specific Field */
    NVME_ZONE_PARTIAL = 1 << 16,    /* and of that, Partial Report */
    NVME_ZONE_BYTES = 64,           /* of a zone's descriptor, and of what comes before them */
};

/* NVM command set specific namespace data: NVM 4.1.5.3 */
struct nvme_id_ns_nvm {
    plx_le64 lbstm;
    uint8_t pic, pifa, reserved10[2];
    plx_le32 elbaf[64]; /* storage tag size in bits 6:0, protection information format in bits 8:7 */
    uint8_t reserved268[3828];
};

_Static_assert(sizeof(struct nvme_id_ns_zoned) == 4096 && offsetof(struct nvme_id_ns_zoned, lbafe) == 2816, "");
_Static_assert(sizeof(struct nvme_id_ns_nvm) == 4096, "");
_Static_assert(sizeof(struct nvme_id_ctrl) == 4096, "");
_Static_assert(offsetof(struct nvme_id_ctrl, oacs) == 256 && offsetof(struct nvme_id_ctrl, sqes) == 512, "");
_Static_assert(offsetof(struct nvme_id_ctrl, subnqn) == 768 && offsetof(struct nvme_id_ctrl, ioccsz) == 1792, "");
_Static_assert(offsetof(struct nvme_id_ctrl, kas) == 320 && offsetof(struct nvme_id_ctrl, anatt) == 342, "");
_Static_assert(offsetof(struct nvme_id_ctrl, sgls) == 536 && offsetof(struct nvme_id_ctrl, cntrltype) == 111, "");
_Static_assert(sizeof(struct nvme_id_ns) == 4096, "");
_Static_assert(offsetof(struct nvme_id_ns, anagrpid) == 92 && offsetof(struct nvme_id_ns, nguid) == 104, "");
_Static_assert(offsetof(struct nvme_id_ns, mssrl) == 74 && offsetof(struct nvme_id_ns, lbaf) == 128, "");
_Static_assert(sizeof(struct nvme_id_ns_independent) == 4096 && sizeof(struct nvme_id_ctrl_nvm) == 4096, "");

/* Namespace identification descriptor: Base 5.1.13.2.3 */
enum nvme_nidt {
    NVME_NIDT_EUI64 = 1,
    NVME_NIDT_NGUID = 2,
    NVME_NIDT_UUID = 3,
    NVME_NIDT_CSI = 4,
};

/* Error Information log entry: Base 5.1.12.1.2 */
struct nvme_error_entry {
    plx_le64 count;
    plx_le16 sqid, cid, status, location;
    plx_le64 lba;
    plx_le32 nsid;
    uint8_t vs, trtype, csi, opcode;
    plx_le64 command_info;
    plx_le16 transport_info;
    uint8_t reserved42[21], version;
};

/* SMART / Health Information: Base 5.1.12.1.3 */
struct nvme_health_log {
    uint8_t critical_warning;
    plx_le16 temperature __attribute__((packed));
    uint8_t spare, spare_threshold, used, egcws, reserved7[25];
    uint8_t data_units_read[16], data_units_written[16], host_reads[16], host_writes[16], busy_time[16];
    uint8_t power_cycles[16], power_on_hours[16], unsafe_shutdowns[16], media_errors[16], error_entries[16];
    uint8_t reserved192[320];
} __attribute__((packed));

_Static_assert(sizeof(struct nvme_error_entry) == 64 && sizeof(struct nvme_health_log) == 512, "");

/* ---- reservations: Base 7.5 to 7.8, 8.1.22 ---- */

enum nvme_resv_type {
    NVME_RESV_NONE = 0,
    NVME_RESV_WRITE_EXCLUSIVE = 1,
    NVME_RESV_EXCLUSIVE_ACCESS = 2,
    NVME_RESV_WRITE_EXCLUSIVE_REGISTRANTS = 3,
    NVME_RESV_EXCLUSIVE_ACCESS_REGISTRANTS = 4,
    NVME_RESV_WRITE_EXCLUSIVE_ALL = 5,
    NVME_RESV_EXCLUSIVE_ACCESS_ALL = 6,
};

/* Actions, in bits 2:0 of dword 10: RREGA, RACQA, RRELA. */
enum {
    NVME_RREGA_REGISTER = 0,
    NVME_RREGA_UNREGISTER = 1,
    NVME_RREGA_REPLACE = 2,
    NVME_RACQA_ACQUIRE = 0,
    NVME_RACQA_PREEMPT = 1,
    NVME_RACQA_PREEMPT_AND_ABORT = 2,
    NVME_RRELA_RELEASE = 0,
    NVME_RRELA_CLEAR = 1,
};

/* CPTPL: bits 31:30 of a Reservation Register's dword 10 */
enum {
    NVME_CPTPL_KEEP = 0,
    NVME_CPTPL_RESERVED = 1,
    NVME_CPTPL_CLEAR = 2,
    NVME_CPTPL_PERSIST = 3,
};

/* The data of Reservation Register, Acquire and, with the first of the keys alone, Release. */
struct nvme_resv_keys {
    plx_le64 current, other; /* CRKEY; NRKEY or PRKEY */
};

/* Reservation Status, extended: a header and its registrants (Base 7.8) */
struct nvme_resv_status {
    plx_le32 gen;
    uint8_t rtype;
    uint8_t registrants[2]; /* a number, not aligned */
    uint8_t reserved7[2], ptpls, reserved10[54];
};

struct nvme_resv_registrant {
    plx_le16 cntlid;
    uint8_t rcsts; /* bit 0: holds the reservation */
    uint8_t reserved3[5];
    plx_le64 rkey;
    uint8_t hostid[16], reserved32[32];
};

/* Reservation Notification log: Base 5.1.12, 8.1.22 */
enum nvme_resv_notice {
    NVME_RESV_NOTICE_EMPTY = 0,
    NVME_RESV_NOTICE_REGISTRATION_PREEMPTED = 1,
    NVME_RESV_NOTICE_RELEASED = 2,
    NVME_RESV_NOTICE_PREEMPTED = 3,
};

struct nvme_resv_log {
    plx_le64 count;
    uint8_t type, available, reserved10[2];
    plx_le32 nsid;
    uint8_t reserved16[48];
};

_Static_assert(sizeof(struct nvme_resv_status) == 64 && offsetof(struct nvme_resv_status, ptpls) == 9, "");
_Static_assert(sizeof(struct nvme_resv_registrant) == 64 && sizeof(struct nvme_resv_log) == 64, "");

/* Discovery log: Base 5.1.12.3.1 */
struct nvme_discovery_header {
    plx_le64 genctr, numrec;
    plx_le16 recfmt;
    uint8_t reserved18[1006];
};

struct nvme_discovery_entry {
    uint8_t trtype, adrfam, subtype, treq;
    plx_le16 portid, cntlid, asqsz, eflags;
    uint8_t reserved12[20];
    char trsvcid[32];
    uint8_t reserved64[192];
    char subnqn[NVME_NQN_FIELD];
    char traddr[256];
    uint8_t tsas[256]; /* TCP: the first byte is the security type */
};

_Static_assert(sizeof(struct nvme_discovery_header) == 1024 && sizeof(struct nvme_discovery_entry) == 1024, "");

enum {
    NVME_TRTYPE_TCP = 3,
    NVME_ADRFAM_IPV4 = 1,
    NVME_ADRFAM_IPV6 = 2,
    NVME_SUBTYPE_DISCOVERY = 1, /* another one, that hosts are referred to */
    NVME_SUBTYPE_NVM = 2,
    NVME_SUBTYPE_CURRENT_DISCOVERY = 3,
};

#endif
