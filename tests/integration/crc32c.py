# SPDX-License-Identifier: BSD-3-Clause
"""CRC32C as NVMe/TCP's digests use it (TCP transport 3.3.1.1): ISA-L when it is installed, else tables of our own."""

import ctypes
import struct

POLYNOMIAL = 0x82F63B78  # Castagnoli, bits reversed


def _tables():
    first = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (POLYNOMIAL if crc & 1 else 0)
        first.append(crc)
    tables = [first]
    for _ in range(7):
        tables.append([(crc >> 8) ^ first[crc & 0xFF] for crc in tables[-1]])
    return tables


_T0, _T1, _T2, _T3, _T4, _T5, _T6, _T7 = _tables()


def crc32c_tables(data):
    """Eight bytes a step: enough for a test, and needs nothing but this file."""
    crc = 0xFFFFFFFF
    whole = len(data) & ~7
    for low, high in struct.iter_unpack("<II", memoryview(data)[:whole]):
        low ^= crc
        crc = (
            _T7[low & 0xFF] ^ _T6[(low >> 8) & 0xFF] ^ _T5[(low >> 16) & 0xFF] ^ _T4[low >> 24]
            ^ _T3[high & 0xFF] ^ _T2[(high >> 8) & 0xFF] ^ _T1[(high >> 16) & 0xFF] ^ _T0[high >> 24]
        )
    for byte in memoryview(data)[whole:]:
        crc = (crc >> 8) ^ _T0[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _isal():
    for name in ("libisal.so.2", "libisal.so"):
        try:
            function = ctypes.CDLL(name).crc32_iscsi
        except (OSError, AttributeError):
            continue
        function.restype = ctypes.c_uint32
        function.argtypes = (ctypes.c_char_p, ctypes.c_int, ctypes.c_uint32)
        return lambda data: function(bytes(data), len(data), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return None


crc32c = _isal() or crc32c_tables
