# SPDX-License-Identifier: BSD-3-Clause
"""Runs a command that may not use io_uring, as containers do: seccomp.py EPERM|ENOSYS [sync] COMMAND...

A BPF filter lets io_uring_setup, io_uring_enter and io_uring_register fail with that error, and all else pass; with
"sync" fdatasync, and pwritev2 with RWF_DSYNC, fail with EIO. It stays over exec."""

import ctypes
import errno
import os
import platform
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
RET_ALLOW, RET_ERRNO = 0x7FFF0000, 0x00050000
LOAD_WORD, JUMP_EQUAL, JUMP_AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06  # BPF_LD|W|ABS, JMP|JEQ|K, JMP|JGE|K, RET|K
IO_URING_SETUP, IO_URING_REGISTER = 425, 427  # the same numbers on every architecture
NUMBER_OFFSET, FLAGS_OFFSET = 0, 16 + 5 * 8  # of nr and args[5] in struct seccomp_data
FDATASYNC, PWRITEV2 = {"x86_64": (75, 328)}.get(platform.machine(), (83, 287))
RWF_DSYNC = 2


class Program(ctypes.Structure):
    """struct sock_fprog"""

    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def instruction(code, true, false, value):
    return struct.pack("<HBBI", code, true, false, value)


def install(code):
    """Has this process, and what it executes, run under a BPF program."""
    buffer = ctypes.create_string_buffer(code, len(code))
    program = Program(len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
            PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def forbid(error, sync):
    code = b"".join((
        instruction(LOAD_WORD, 0, 0, NUMBER_OFFSET),
        instruction(JUMP_AT_LEAST, 0, 2, IO_URING_SETUP),
        instruction(JUMP_AT_LEAST, 1, 0, IO_URING_REGISTER + 1),
        instruction(RETURN, 0, 0, RET_ERRNO | error),
        *((
            instruction(JUMP_EQUAL, 3, 0, FDATASYNC),
            instruction(JUMP_EQUAL, 0, 3, PWRITEV2),
            instruction(LOAD_WORD, 0, 0, FLAGS_OFFSET),
            instruction(JUMP_EQUAL, 0, 1, RWF_DSYNC),
            instruction(RETURN, 0, 0, RET_ERRNO | errno.EIO),
        ) if sync else ()),
        instruction(RETURN, 0, 0, RET_ALLOW),
    ))
    install(code)


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sync = sys.argv[2] == "sync"
    forbid(getattr(errno, sys.argv[1]), sync)
    command = sys.argv[2 + sync:]
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
