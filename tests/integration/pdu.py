# SPDX-License-Identifier: BSD-3-Clause
"""NVMe/TCP PDUs to bytes and back (TCP transport 3.6.2). Encoding builds whatever it is told, however wrong; decoding
believes nothing."""

import struct

from crc32c import crc32c
from spec import DDGSTF, FLAGS, HDGSTF, HLEN, LAST, SUCCESS, Type

COMMON = struct.Struct("<BBBBI")  # type, flags, HLEN, PDO, PLEN
WITH_DATA = (Type.CMD, Type.H2C_DATA, Type.C2H_DATA)
TERM_MAX = 152  # PLEN of a terminate request at most (TCP 3.5)


class ProtocolError(AssertionError):
    """The peer sent what the specification forbids."""


class DigestError(ProtocolError):
    """A digest of the peer's is wrong."""


def digest(data):
    """The four bytes of a digest as they are sent."""
    return struct.pack("<I", crc32c(data))


def align(offset, dwords):
    """The next offset that HPDA or CPDA (0's based, in dwords) permits for data."""
    unit = 4 * (dwords + 1)
    return (offset + unit - 1) // unit * unit


class Layout:
    """What ICReq and ICResp settled: the digests, and the alignment of data that we send."""

    def __init__(self, hdgst=False, ddgst=False, pda=0):
        self.hdgst, self.ddgst, self.pda = hdgst, ddgst, pda


PLAIN = Layout()


def encode(kind, specific, data=b"", layout=PLAIN, flags=0, **wrong):
    """One PDU. specific: the header after the common part. data: goes after the padding that the layout asks for.

    wrong: fields to set to something else than is right: type, flags_exact, hlen, pdo, plen, hdgst, ddgst (the digests
    as 32-bit integers). Digests that are not given wrong are computed over the header as it is sent."""
    header_length = wrong.get("hlen", COMMON.size + len(specific))
    flags |= HDGSTF if layout.hdgst and FLAGS.get(kind, 0) & HDGSTF else 0
    flags |= DDGSTF if layout.ddgst and data else 0
    end = COMMON.size + len(specific) + (4 if flags & HDGSTF else 0)
    pdo = align(end, layout.pda) if data else 0
    plen = (pdo + len(data) + (4 if flags & DDGSTF else 0)) if data else end
    header = COMMON.pack(
        wrong.get("type", kind), wrong.get("flags_exact", flags), header_length, wrong.get("pdo", pdo),
        wrong.get("plen", plen)) + specific
    parts = [header]
    if flags & HDGSTF:
        parts.append(struct.pack("<I", wrong["hdgst"]) if "hdgst" in wrong else digest(header))
    if data:
        parts += [bytes(pdo - end), data]
        if flags & DDGSTF:
            parts.append(struct.pack("<I", wrong["ddgst"]) if "ddgst" in wrong else digest(data))
    return b"".join(parts)


def icreq(hpda=0, hdgst=False, ddgst=False, maxr2t=0, pfv=0, dgst=None, reserved=bytes(112), **wrong):
    bits = (HDGSTF if hdgst else 0) | (DDGSTF if ddgst else 0) if dgst is None else dgst
    return encode(Type.ICREQ, struct.pack("<HBBI", pfv, hpda, bits, maxr2t) + reserved, **wrong)


def icresp(cpda=0, dgst=0, maxh2cdata=131072):
    return encode(Type.ICRESP, struct.pack("<HBBI", 0, cpda, dgst, maxh2cdata) + bytes(112))


def command(sqe, data=b"", layout=PLAIN, **wrong):
    return encode(Type.CMD, sqe, data, layout, **wrong)


def response(cqe, layout=PLAIN):
    return encode(Type.RESP, cqe, b"", layout)


def h2c_data(cccid, ttag, offset, data, last, layout=PLAIN, datal=None, **wrong):
    specific = struct.pack("<HHIII", cccid, ttag, offset, len(data) if datal is None else datal, 0)
    return encode(Type.H2C_DATA, specific, data, layout, LAST if last else 0, **wrong)


def c2h_data(cccid, offset, data, last, success=False, layout=PLAIN):
    flags = (LAST if last else 0) | (SUCCESS if success else 0)
    return encode(Type.C2H_DATA, struct.pack("<HHIII", cccid, 0, offset, len(data), 0), data, layout, flags)


def r2t(cccid, ttag, offset, length, layout=PLAIN):
    return encode(Type.R2T, struct.pack("<HHIII", cccid, ttag, offset, length, 0), b"", layout)


def h2c_term(fes, fei=0, header=b"", **wrong):
    """A terminate request. Its data follows the header at once, with PDO reserved, and is never digested."""
    specific = struct.pack("<HI", fes, fei) + bytes(10)
    wrong.setdefault("plen", HLEN[Type.H2C_TERM] + len(header))
    return encode(Type.H2C_TERM, specific, **wrong) + header


class Pdu:
    """One received PDU: its common fields, those of its type, and its data."""

    def __init__(self, header, data=b""):
        self.header = header
        self.type, self.flags, self.hlen, self.pdo, self.plen = COMMON.unpack_from(header)
        self.data = data
        self.last = bool(self.flags & LAST)
        self.success = bool(self.flags & SUCCESS)
        decode = getattr(self, f"_{Type(self.type).name.lower()}", None)
        if decode:
            decode()

    def _icreq(self):
        self.pfv, self.hpda, self.dgst, self.maxr2t = struct.unpack_from("<HBBI", self.header, 8)

    def _icresp(self):
        self.pfv, self.cpda, self.dgst, self.maxh2cdata = struct.unpack_from("<HBBI", self.header, 8)
        _require(self.pfv == 0, "ICResp: PFV is not 0")
        _require(self.cpda <= 31, "ICResp: CPDA is above 31")
        _require(self.dgst & ~3 == 0, "ICResp: reserved bits in DGST")
        _require(self.maxh2cdata >= 4096 and self.maxh2cdata % 4 == 0, "ICResp: MAXH2CDATA")
        _require(not any(self.header[16:]), "ICResp: reserved bytes")

    def _c2h_term(self):
        self.fes, self.fei = struct.unpack_from("<HI", self.header, 8)
        _require(1 <= self.fes <= 6, "C2HTermReq: FES is reserved")
        _require(not any(self.header[14:24]), "C2HTermReq: reserved bytes")

    def _cmd(self):
        self.sqe = self.header[8:72]
        self.cid = struct.unpack_from("<H", self.sqe, 2)[0]

    def _resp(self):
        self.cqe = self.header[8:24]

    def _r2t(self):
        self.cccid, self.ttag, self.r2to, self.r2tl, reserved = struct.unpack_from("<HHIII", self.header, 8)
        _require(self.r2to % 4 == 0 and self.r2tl % 4 == 0 and self.r2tl, f"R2T of {self.r2tl} bytes at {self.r2to}")
        _require(reserved == 0, "R2T: reserved bytes")

    def _h2c_data(self):
        self.cccid, self.ttag, self.datao, self.datal, _ = struct.unpack_from("<HHIII", self.header, 8)

    def _c2h_data(self):
        self.cccid, reserved1, self.datao, self.datal, reserved2 = struct.unpack_from("<HHIII", self.header, 8)
        _require(reserved1 == reserved2 == 0, "C2HData: reserved bytes")
        _require(self.datal == len(self.data), f"C2HData: DATAL {self.datal}, but {len(self.data)} bytes")
        _require(self.last or not self.success, "C2HData: SUCCESS without LAST (TCP 3.3.2.1)")

    def __repr__(self):
        return f"<{Type(self.type).name} flags {self.flags:#x} plen {self.plen}>"


def _require(condition, message):
    if not condition:
        raise ProtocolError(message)


def check_common(header, layout, pda, maximum):
    """Checks the common header of a PDU from the controller; returns the length of its whole header with digest."""
    kind, flags, hlen, pdo, plen = COMMON.unpack_from(header)
    _require(kind in HLEN, f"unknown PDU type {kind:#x}")
    _require(hlen == HLEN[kind], f"{Type(kind).name}: HLEN {hlen}")
    _require(flags & ~FLAGS[kind] == 0, f"{Type(kind).name}: flags {flags:#x}")
    _require(bool(flags & HDGSTF) == bool(layout.hdgst and FLAGS[kind] & HDGSTF), f"{Type(kind).name}: HDGSTF")
    end = hlen + (4 if flags & HDGSTF else 0)
    _require(end <= plen <= maximum, f"{Type(kind).name}: PLEN {plen}")
    if kind in WITH_DATA:
        _require(bool(flags & DDGSTF) == bool(layout.ddgst and plen > end), f"{Type(kind).name}: DDGSTF")
        if plen > end:
            _require(pdo == align(end, pda), f"{Type(kind).name}: PDO {pdo}, not {align(end, pda)}")
    else:
        _require(pdo == 0, f"{Type(kind).name}: PDO {pdo} where it is reserved")
        if kind == Type.C2H_TERM:
            _require(plen <= TERM_MAX, f"C2HTermReq: PLEN {plen}")
        else:
            _require(plen == end, f"{Type(kind).name}: PLEN {plen}")
    return end


def read_pdu(read, layout=PLAIN, pda=0, maximum=1 << 26):
    """Reads one PDU with read(n), which returns exactly n bytes; checks it. pda: the alignment asked of the peer."""
    common = read(COMMON.size)
    end = check_common(common, layout, pda, maximum)
    kind, flags, hlen, pdo, plen = COMMON.unpack_from(common)
    rest = read(end - COMMON.size)
    header = common + rest[: hlen - COMMON.size]
    if flags & HDGSTF and rest[-4:] != digest(header):
        raise DigestError(f"{Type(kind).name}: header digest")
    if plen == end:
        return Pdu(header)
    body = memoryview(read(plen - end))
    if kind not in WITH_DATA:
        return Pdu(header, bytes(body))
    _require(not any(body[: pdo - end]), "padding is not zero")
    data = body[pdo - end:]
    if flags & DDGSTF:
        data, sent = data[:-4], data[-4:]
        if sent != digest(data):
            raise DigestError(f"{Type(kind).name}: data digest")
    return Pdu(header, bytes(data))
