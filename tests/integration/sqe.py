# SPDX-License-Identifier: BSD-3-Clause
"""Submission queue entries (Base 4.1, 5 and 6; NVM command set 3). The data pointer and the CID are filled in when the
command is submitted (nvmetcp.Queue.submit), unless a test sets them itself."""

import struct

from spec import (ALL_NAMESPACES, DISCOVERY_NQN, DYNAMIC, FABRICS, PSDT_SGL, SGL_IN_CAPSULE, SGL_TRANSPORT, Admin,
                  Fabrics, Io)

CID_OFFSET, SGL_OFFSET = 2, 24


def sgl(kind, length, address=0):
    """A 16-byte SGL descriptor; kind is descriptor type and sub type in one byte."""
    return struct.pack("<QI3xB", address, length, kind)


def transport_sgl(length):
    return sgl(SGL_TRANSPORT, length)


def in_capsule_sgl(length, offset=0):
    return sgl(SGL_IN_CAPSULE, length, offset)


def entry(opcode, nsid=0, cdw10=0, cdw11=0, cdw12=0, cdw13=0, cdw14=0, cdw15=0, fuse=0, psdt=PSDT_SGL, cid=0,
          dptr=bytes(16), cdw2=0, cdw3=0, mptr=0):
    """A submission queue entry, 64 bytes, that may be changed."""
    return bytearray(struct.pack(
        "<BBHIIIQ16sIIIIII", opcode, fuse | psdt << 6, cid, nsid, cdw2, cdw3, mptr, dptr,
        cdw10, cdw11, cdw12, cdw13, cdw14, cdw15))


def with_sgl(sqe, descriptor):
    """A copy of the entry with this SGL descriptor."""
    sqe = bytearray(sqe)
    sqe[SGL_OFFSET:SGL_OFFSET + 16] = descriptor
    return sqe


def with_cid(sqe, cid):
    sqe = bytearray(sqe)
    struct.pack_into("<H", sqe, CID_OFFSET, cid)
    return sqe


# -- Fabrics (Base 6) ------------------------------------------------------------------------------------------------


def fabrics(fctype, specific=b"", psdt=PSDT_SGL):
    """A Fabrics command; specific starts at byte 40. PSDT is 01b as Linux sends it, though Base has 00b and 10b."""
    sqe = bytearray(64)
    sqe[0], sqe[1], sqe[4] = FABRICS, psdt << 6, fctype
    sqe[40:40 + len(specific)] = specific
    return sqe


def connect(qid=0, sqsize=31, cattr=0, kato=120_000, recfmt=0):
    """Connect (6.3). sqsize is 0's based; kato in ms."""
    return fabrics(Fabrics.CONNECT, struct.pack("<HHHBBI", recfmt, qid, sqsize, cattr, 0, kato))


def _nqn(nqn):
    return nqn if isinstance(nqn, bytes) else nqn.encode()


def connect_data(subnqn=DISCOVERY_NQN, hostnqn="", hostid=bytes(16), cntlid=DYNAMIC):
    """The 1024 bytes of data of Connect. NQNs may be bytes, to be wrong in any way."""
    return struct.pack("<16sH238x256s256s256x", hostid, cntlid, _nqn(subnqn), _nqn(hostnqn))


def property_get(offset, size=4, **wrong):
    attrib = wrong.get("attrib", {4: 0, 8: 1}.get(size))
    return fabrics(Fabrics.PROPERTY_GET, struct.pack("<B3xI", attrib, offset))


def property_set(offset, value, size=4, **wrong):
    attrib = wrong.get("attrib", {4: 0, 8: 1}.get(size))
    return fabrics(Fabrics.PROPERTY_SET, struct.pack("<B3xIQ", attrib, offset, value))


def disconnect(recfmt=0):
    return fabrics(Fabrics.DISCONNECT, struct.pack("<H", recfmt))


# -- Admin (Base 5) --------------------------------------------------------------------------------------------------


def identify(cns, nsid=0, cntid=0, csi=0, cnssid=0, uuid=0):
    return entry(Admin.IDENTIFY, nsid, cns | cntid << 16, cnssid | csi << 24, cdw14=uuid)


def get_log(lid, length, offset=0, nsid=ALL_NAMESPACES, lsp=0, lsi=0, rae=False, numd=None, csi=0, offset_type=0):
    """Get Log Page of length bytes (5.1.12); numd overrides the 0's based number of dwords."""
    numd = length // 4 - 1 if numd is None else numd
    cdw10 = lid | lsp << 8 | int(rae) << 15 | (numd & 0xFFFF) << 16
    return entry(Admin.GET_LOG, nsid, cdw10, numd >> 16 | lsi << 16, offset & 0xFFFFFFFF, offset >> 32,
                 offset_type << 23 | csi << 24)


def get_features(fid, select=0, nsid=0, cdw11=0, uuid=0):
    return entry(Admin.GET_FEATURES, nsid, fid | select << 8, cdw11, cdw14=uuid)


def set_features(fid, cdw11=0, save=False, nsid=0, cdw12=0, cdw13=0, cdw14=0, cdw15=0):
    return entry(Admin.SET_FEATURES, nsid, fid | int(save) << 31, cdw11, cdw12, cdw13, cdw14, cdw15)


def aer():
    return entry(Admin.AER)


def keep_alive():
    return entry(Admin.KEEP_ALIVE)


def abort(cid, sqid=0):
    return entry(Admin.ABORT, cdw10=sqid | cid << 16)


# -- I/O (NVM 3) -----------------------------------------------------------------------------------------------------


def _range(opcode, nsid, slba, blocks, cdw12=0, **more):
    assert 1 <= blocks <= 65536
    return entry(opcode, nsid, slba & 0xFFFFFFFF, slba >> 32, (blocks - 1) | cdw12, **more)


def read(nsid, slba, blocks, **more):
    return _range(Io.READ, nsid, slba, blocks, **more)


def write(nsid, slba, blocks, fua=False, **more):
    return _range(Io.WRITE, nsid, slba, blocks, int(fua) << 30, **more)


def compare(nsid, slba, blocks, **more):
    return _range(Io.COMPARE, nsid, slba, blocks, **more)


def write_zeroes(nsid, slba, blocks, deac=False, fua=False, **more):
    return _range(Io.WRITE_ZEROES, nsid, slba, blocks, int(deac) << 25 | int(fua) << 30, **more)


def verify(nsid, slba, blocks, **more):
    return _range(Io.VERIFY, nsid, slba, blocks, **more)


def flush(nsid):
    return entry(Io.FLUSH, nsid)


def dsm(nsid, count, deallocate=True, **more):
    """Dataset Management of count ranges; attribute bit 2 is AD."""
    return entry(Io.DSM, nsid, count - 1, int(deallocate) << 2, **more)


def dsm_range(slba, blocks, attributes=0):
    return struct.pack("<IIQ", attributes, blocks, slba)


def copy(nsid, to, count, descriptor_format=0, **more):
    """Copy of count source ranges to the LBA `to` (NVM 3.3.2)."""
    return entry(Io.COPY, nsid, to & 0xFFFFFFFF, to >> 32, (count - 1) | descriptor_format << 8, **more)


def copy_range(slba, blocks):
    """A source range entry of descriptor format 0h."""
    return struct.pack("<8xQH14x", slba, blocks - 1)


# -- zones (ZNS 3.4) -------------------------------------------------------------------------------------------------


def append(nsid, zone, blocks, **more):
    return _range(Io.ZONE_APPEND, nsid, zone, blocks, **more)


def zone_send(nsid, slba, action, select_all=False):
    return entry(Io.ZONE_SEND, nsid, slba & 0xFFFFFFFF, slba >> 32, cdw13=action | int(select_all) << 8)


def zone_receive(nsid, slba, length, action=0, which=0, partial=False):
    return entry(Io.ZONE_RECEIVE, nsid, slba & 0xFFFFFFFF, slba >> 32, length // 4 - 1,
                 action | which << 8 | int(partial) << 16)


# -- reservations (Base 7.5 to 7.8): their data is keys() -------------------------------------------------------------


def keys(*numbers):
    """CRKEY; and NRKEY or PRKEY, where there is one."""
    return struct.pack(f"<{len(numbers)}Q", *numbers)


def resv_register(nsid, action=0, iekey=False, cptpl=0):
    return entry(Io.RESERVATION_REGISTER, nsid, action | int(iekey) << 3 | cptpl << 30)


def resv_acquire(nsid, action=0, kind=1, iekey=False):
    return entry(Io.RESERVATION_ACQUIRE, nsid, action | int(iekey) << 3 | kind << 8)


def resv_release(nsid, action=0, kind=1, iekey=False):
    return entry(Io.RESERVATION_RELEASE, nsid, action | int(iekey) << 3 | kind << 8)


def resv_report(nsid, length, eds=True):
    return entry(Io.RESERVATION_REPORT, nsid, length // 4 - 1, int(eds))
