# SPDX-License-Identifier: BSD-3-Clause
"""Names and numbers of NVM Express Base 2.1, NVM Command Set 1.1 and NVMe/TCP Transport 1.1 that the tests speak of."""

import enum

DISCOVERY_NQN = "nqn.2014-08.org.nvmexpress.discovery"
ALL_NAMESPACES = 0xFFFFFFFF
DYNAMIC = 0xFFFF  # CNTLID of a host that takes any controller (Base 6.3)


class Type(enum.IntEnum):
    """PDU types (TCP 3.3, figure 10). Bit 0 is the direction: 1 is controller to host."""

    ICREQ = 0x00
    ICRESP = 0x01
    H2C_TERM = 0x02
    C2H_TERM = 0x03
    CMD = 0x04
    RESP = 0x05
    H2C_DATA = 0x06
    C2H_DATA = 0x07
    R2T = 0x09


HLEN = {
    Type.ICREQ: 128, Type.ICRESP: 128, Type.H2C_TERM: 24, Type.C2H_TERM: 24, Type.CMD: 72,
    Type.RESP: 24, Type.H2C_DATA: 24, Type.C2H_DATA: 24, Type.R2T: 24,
}

# PDU header flags (TCP 3.6.2)
HDGSTF, DDGSTF, LAST, SUCCESS = 0x01, 0x02, 0x04, 0x08

FLAGS = {
    Type.ICREQ: 0, Type.ICRESP: 0, Type.H2C_TERM: 0, Type.C2H_TERM: 0, Type.CMD: HDGSTF | DDGSTF, Type.RESP: HDGSTF,
    Type.H2C_DATA: HDGSTF | DDGSTF | LAST, Type.C2H_DATA: HDGSTF | DDGSTF | LAST | SUCCESS, Type.R2T: HDGSTF,
}


class Fes(enum.IntEnum):
    """Fatal Error Status of a C2HTermReq (TCP 3.6.2.5)."""

    INVALID_HEADER = 1
    SEQUENCE = 2
    HEADER_DIGEST = 3
    OUT_OF_RANGE = 4
    LIMIT_EXCEEDED = 5
    UNSUPPORTED = 6


class Offset(enum.IntEnum):
    """Offsets of PDU header fields, as they stand in FEI."""

    TYPE, FLAGS, HLEN, PDO, PLEN = 0, 1, 2, 3, 4
    PFV, HPDA, DGST, MAXR2T = 8, 10, 11, 12
    CCCID, TTAG, DATAO, DATAL = 8, 10, 12, 16


class Fabrics(enum.IntEnum):
    """Fabrics command types (Base 6)."""

    PROPERTY_SET = 0x00
    CONNECT = 0x01
    PROPERTY_GET = 0x04
    AUTH_SEND = 0x05
    AUTH_RECEIVE = 0x06
    DISCONNECT = 0x08


FABRICS = 0x7F


class Admin(enum.IntEnum):
    """Admin command opcodes (Base 5)."""

    DELETE_SQ = 0x00
    CREATE_SQ = 0x01
    GET_LOG = 0x02
    DELETE_CQ = 0x04
    CREATE_CQ = 0x05
    IDENTIFY = 0x06
    ABORT = 0x08
    SET_FEATURES = 0x09
    GET_FEATURES = 0x0A
    AER = 0x0C
    FIRMWARE_COMMIT = 0x10
    FORMAT = 0x80
    KEEP_ALIVE = 0x18


class Io(enum.IntEnum):
    """I/O command opcodes (NVM 3, ZNS 3.4)."""

    FLUSH = 0x00
    WRITE = 0x01
    READ = 0x02
    WRITE_UNCORRECTABLE = 0x04
    COMPARE = 0x05
    WRITE_ZEROES = 0x08
    DSM = 0x09
    VERIFY = 0x0C
    RESERVATION_REGISTER = 0x0D
    RESERVATION_REPORT = 0x0E
    RESERVATION_ACQUIRE = 0x11
    RESERVATION_RELEASE = 0x15
    COPY = 0x19
    ZONE_SEND = 0x79
    ZONE_RECEIVE = 0x7A
    ZONE_APPEND = 0x7D


class Property(enum.IntEnum):
    """Property offsets (Base 3.1.4)."""

    CAP = 0x00
    VS = 0x08
    CC = 0x14
    CSTS = 0x1C
    NSSR = 0x20
    CRTO = 0x68


class Log(enum.IntEnum):
    """Log page identifiers (Base 5.1.12)."""

    SUPPORTED = 0x00
    ERROR = 0x01
    HEALTH = 0x02
    FIRMWARE = 0x03
    CHANGED_NS = 0x04
    EFFECTS = 0x05
    ANA = 0x0C
    FEATURES = 0x12
    DISCOVERY = 0x70
    RESERVATION = 0x80


class Feature(enum.IntEnum):
    """Feature identifiers (Base 5.1.25)."""

    ARBITRATION = 0x01
    POWER = 0x02
    TEMPERATURE = 0x04
    ERROR_RECOVERY = 0x05
    WRITE_CACHE = 0x06
    QUEUES = 0x07
    INTERRUPT_COALESCING = 0x08
    WRITE_ATOMICITY = 0x0A
    ASYNC_EVENTS = 0x0B
    KEEP_ALIVE = 0x0F
    HOST_BEHAVIOR = 0x16
    COMMAND_SETS = 0x19
    HOST_ID = 0x81
    RESERVATION_MASK = 0x82
    RESERVATION_PERSISTENCE = 0x83


# Fused operation (Base 4.1, bits 9:8 of dword 0) and data pointer (bits 15:14)
FUSE_FIRST, FUSE_SECOND = 1, 2
PSDT_PRP, PSDT_SGL, PSDT_SGL_MPTR_SGL = 0, 1, 2

# SGL descriptor types and sub types (TCP 3.3.2; Base 4.3.2)
SGL_IN_CAPSULE = 0x01  # data block, offset
SGL_TRANSPORT = 0x5A  # transport data block: moved with R2T and data PDUs


class Sc(enum.IntEnum):
    """Status: status code type in bits 10:8, status code in bits 7:0 (Base 4.2.3)."""

    SUCCESS = 0x000
    INVALID_OPCODE = 0x001
    INVALID_FIELD = 0x002
    ID_CONFLICT = 0x003
    DATA_TRANSFER_ERROR = 0x004
    INTERNAL = 0x006
    ABORT_REQUESTED = 0x007
    ABORTED_SQ_DELETION = 0x008
    FAILED_FUSED = 0x009
    MISSING_FUSED = 0x00A
    INVALID_NAMESPACE = 0x00B
    SEQUENCE = 0x00C
    INVALID_SGL_SEGMENT = 0x00D
    INVALID_SGL_COUNT = 0x00E
    SGL_LENGTH = 0x00F
    SGL_TYPE = 0x011
    SGL_OFFSET = 0x016
    HOST_ID_FORMAT = 0x018
    KEEP_ALIVE_EXPIRED = 0x019
    KEEP_ALIVE_INVALID = 0x01A
    PREEMPTED_AND_ABORTED = 0x01B
    SGL_GRANULARITY = 0x01E
    WRITE_PROTECTED = 0x020
    INTERRUPTED = 0x021
    TRANSIENT_TRANSPORT = 0x022
    HOST_ID_NOT_INITIALIZED = 0x027
    LBA_RANGE = 0x080
    CAPACITY = 0x081
    RESERVATION_CONFLICT = 0x083
    INVALID_QID = 0x101
    ABORT_LIMIT = 0x103
    AER_LIMIT = 0x105
    INVALID_LOG = 0x109
    FEATURE_NOT_SAVEABLE = 0x10D
    FEATURE_NOT_CHANGEABLE = 0x10E
    FEATURE_NOT_NAMESPACE = 0x10F
    INVALID_COMMAND_SET = 0x12C
    COMMAND_SET_REJECTED = 0x12B
    ZONE_BOUNDARY = 0x1B8
    ZONE_FULL = 0x1B9
    ZONE_READ_ONLY = 0x1BA
    ZONE_OFFLINE = 0x1BB
    ZONE_INVALID_WRITE = 0x1BC
    ZONES_ACTIVE = 0x1BD
    ZONES_OPEN = 0x1BE
    ZONE_TRANSITION = 0x1BF
    # The two tables of 180h and above: Fabrics commands, and I/O commands. A name says which.
    FABRICS_FORMAT = 0x180
    FABRICS_BUSY = 0x181
    CONNECT_INVALID = 0x182
    CONNECT_HOST = 0x184
    INVALID_QUEUE_TYPE = 0x185
    WRITE_FAULT = 0x280
    UNRECOVERED_READ = 0x281
    COMPARE = 0x285
    DEALLOCATED = 0x287
    ANA_INACCESSIBLE = 0x302


IO_CONFLICTING_ATTRIBUTES = 0x180
IO_READ_ONLY_RANGE = 0x182
IO_SIZE_LIMIT = 0x183
IO_OVERLAP = 0x187


def status_name(status):
    """A readable form of a status, for assertion messages."""
    try:
        return f"{status:03x}h {Sc(status).name}"
    except ValueError:
        return f"{status:03x}h"
