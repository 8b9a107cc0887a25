# SPDX-License-Identifier: BSD-3-Clause
"""Runs a command that may not use io_uring, as containers do: seccomp.py EPERM|ENOSYS COMMAND...

A BPF filter lets io_uring_setup, io_uring_enter and io_uring_register fail with that error, and all else pass. It stays
over exec."""

import ctypes
import errno
import os
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
RET_ALLOW, RET_ERRNO = 0x7FFF0000, 0x00050000
LOAD_WORD, JUMP_EQUAL, JUMP_AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06  # BPF_LD|W|ABS, JMP|JEQ|K, JMP|JGE|K, RET|K
IO_URING_SETUP, IO_URING_REGISTER = 425, 427  # the same numbers on every architecture
NUMBER_OFFSET = 0  # of nr in struct seccomp_data


class Program(ctypes.Structure):
    """struct sock_fprog"""

    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def forbid_io_uring(error):
    def instruction(code, true, false, value):
        return struct.pack("<HBBI", code, true, false, value)

    code = b"".join((
        instruction(LOAD_WORD, 0, 0, NUMBER_OFFSET),
        instruction(JUMP_AT_LEAST, 0, 2, IO_URING_SETUP),
        instruction(JUMP_AT_LEAST, 1, 0, IO_URING_REGISTER + 1),
        instruction(RETURN, 0, 0, RET_ERRNO | error),
        instruction(RETURN, 0, 0, RET_ALLOW),
    ))
    buffer = ctypes.create_string_buffer(code, len(code))
    program = Program(len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
            PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    forbid_io_uring(getattr(errno, sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
