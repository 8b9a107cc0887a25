# SPDX-License-Identifier: BSD-3-Clause
"""Data structures that a controller returns, by their names in the specifications (Base 5.1.12, 5.1.13; NVM 4.1.5)."""

import struct


class Fields:
    """A byte string whose named fields read as attributes. FIELDS: name -> (offset, size); int, or bytes above 8."""

    FIELDS = {}
    SIZE = 4096

    def __init__(self, data):
        assert len(data) == self.SIZE, f"{type(self).__name__} of {len(data)} bytes"
        self.raw = bytes(data)

    def __getattr__(self, name):
        try:
            offset, size = self.FIELDS[name]
        except KeyError:
            raise AttributeError(name) from None
        value = self.raw[offset:offset + size]
        return int.from_bytes(value, "little") if size <= 8 else value

    def field(self, name):
        """The bytes of a field."""
        offset, size = self.FIELDS[name]
        return self.raw[offset:offset + size]

    def text(self, name):
        """A NUL-terminated or space-padded string."""
        return self.field(name).split(b"\0")[0].decode("ascii").rstrip(" ")


class IdentifyController(Fields):
    FIELDS = {
        "vid": (0, 2), "ssvid": (2, 2), "sn": (4, 20), "mn": (24, 40), "fr": (64, 8), "rab": (72, 1), "ieee": (73, 3),
        "cmic": (76, 1), "mdts": (77, 1), "cntlid": (78, 2), "ver": (80, 4), "rtd3r": (84, 4), "rtd3e": (88, 4),
        "oaes": (92, 4), "ctratt": (96, 4), "rrls": (100, 2), "cntrltype": (111, 1), "fguid": (112, 16),
        "oacs": (256, 2), "acl": (258, 1), "aerl": (259, 1), "frmw": (260, 1), "lpa": (261, 1), "elpe": (262, 1),
        "npss": (263, 1), "avscc": (264, 1), "apsta": (265, 1), "wctemp": (266, 2), "cctemp": (268, 2), "kas": (320, 2),
        "anatt": (342, 1), "anacap": (343, 1), "anagrpmax": (344, 4), "nanagrpid": (348, 4), "sqes": (512, 1),
        "cqes": (513, 1), "maxcmd": (514, 2), "nn": (516, 4), "oncs": (520, 2), "fuses": (522, 2), "fna": (524, 1),
        "vwc": (525, 1), "awun": (526, 2), "awupf": (528, 2), "icsvscc": (530, 1), "nwpc": (531, 1), "acwu": (532, 2),
        "cdfs": (534, 2), "sgls": (536, 4), "mnan": (540, 4), "subnqn": (768, 256), "ioccsz": (1792, 4),
        "iorcsz": (1796, 4), "icdoff": (1800, 2), "fcatt": (1802, 1), "msdbd": (1803, 1), "ofcs": (1804, 2),
    }
    # ONCS (Base 5.1.13.2.1)
    COMPARE, DSM, WRITE_ZEROES, SAVE_SELECT, VERIFY, COPY = 1 << 0, 1 << 2, 1 << 3, 1 << 4, 1 << 7, 1 << 8

    def can(self, bits):
        return self.oncs & bits == bits

    @property
    def max_transfer(self):
        """Bytes that one command may move; CAP.MPSMIN is 0 in all our targets, so the unit is 4 KiB."""
        return 4096 << self.mdts if self.mdts else None

    @property
    def traffic_keep_alive(self):
        return bool(self.ctratt & 1 << 6)  # TBKAS

    @property
    def in_capsule(self):
        """Bytes of data that fit in an I/O command capsule."""
        return self.ioccsz * 16 - 64


class IdentifyNamespace(Fields):
    FIELDS = {
        "nsze": (0, 8), "ncap": (8, 8), "nuse": (16, 8), "nsfeat": (24, 1), "nlbaf": (25, 1), "flbas": (26, 1),
        "mc": (27, 1), "dpc": (28, 1), "dps": (29, 1), "nmic": (30, 1), "rescap": (31, 1), "fpi": (32, 1),
        "dlfeat": (33, 1), "nawun": (34, 2), "nawupf": (36, 2), "nacwu": (38, 2), "nabsn": (40, 2), "noiob": (46, 2),
        "npwg": (64, 2), "npwa": (66, 2), "npdg": (68, 2), "npda": (70, 2), "nows": (72, 2), "mssrl": (74, 2),
        "mcl": (76, 4), "msrc": (80, 1), "anagrpid": (92, 4), "nsattr": (99, 1), "nvmsetid": (100, 2),
        "endgid": (102, 2), "nguid": (104, 16), "eui64": (120, 8),
    }

    @property
    def block(self):
        """Bytes a logical block."""
        index = self.flbas & 0xF | (self.flbas >> 5 & 3) << 4
        return 1 << self.raw[128 + 4 * index + 2]

    @property
    def deallocated_reads_zero(self):
        return self.dlfeat & 7 == 1

    @property
    def deac(self):
        return bool(self.dlfeat & 8)


class ErrorLogEntry(Fields):
    SIZE = 64
    FIELDS = {"count": (0, 8), "sqid": (8, 2), "cid": (10, 2), "status_field": (12, 2), "location": (14, 2),
              "lba": (16, 8), "nsid": (24, 4), "trtype": (29, 1), "csi": (30, 1), "opc": (31, 1)}

    @property
    def status(self):
        return self.status_field >> 1 & 0x7FF


class HealthLog(Fields):
    SIZE = 512
    FIELDS = {"warning": (0, 1), "temperature": (1, 2), "spare": (3, 1), "spare_threshold": (4, 1), "used": (5, 1),
              "units_read": (32, 16), "units_written": (48, 16), "host_reads": (64, 16), "host_writes": (80, 16)}

    def number(self, name):
        return int.from_bytes(getattr(self, name), "little")


class DiscoveryEntry(Fields):
    SIZE = 1024
    FIELDS = {"trtype": (0, 1), "adrfam": (1, 1), "subtype": (2, 1), "treq": (3, 1), "portid": (4, 2), "cntlid": (6, 2),
              "asqsz": (8, 2), "eflags": (10, 2), "trsvcid": (32, 32), "subnqn": (256, 256), "traddr": (512, 256),
              "sectype": (768, 1)}


class DiscoveryLog:
    """The discovery log page (Base 5.1.12.3.1)."""

    def __init__(self, data):
        self.genctr, self.numrec, self.recfmt = struct.unpack_from("<QQH", data)
        body = data[1024:1024 * (self.numrec + 1)]
        self.entries = [DiscoveryEntry(body[i:i + 1024]) for i in range(0, len(body), 1024)]


def namespace_list(data):
    """The NSIDs of a namespace list, which must be ascending and zero-filled."""
    numbers = struct.unpack("<1024I", data)
    used = [nsid for nsid in numbers if nsid]
    assert used == sorted(set(used)) and not any(numbers[len(used):])
    return used


def descriptors(data):
    """Namespace identification descriptors (Base 5.1.13.2.4) as {type: value}."""
    result, offset = {}, 0
    while offset + 4 <= len(data) and data[offset + 1]:
        kind, length = data[offset], data[offset + 1]
        assert kind not in result, f"descriptor type {kind} twice"
        result[kind] = data[offset + 4:offset + 4 + length]
        offset += 4 + length
    assert not any(data[offset:])
    return result


def ana_groups(data):
    """The descriptors of an ANA log page (Base 5.1.12.1.13) as {group: (state, nsids)}."""
    _, count = struct.unpack_from("<QH", data)
    result, offset = {}, 16
    for _ in range(count):
        group, nsids, _, state = struct.unpack_from("<IIQB", data, offset)
        offset += 32
        result[group] = (state, list(struct.unpack_from(f"<{nsids}I", data, offset)))
        offset += 4 * nsids
    return result
