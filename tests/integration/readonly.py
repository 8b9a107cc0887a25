# SPDX-License-Identifier: BSD-3-Clause
"""Runs a command that is killed when it opens a file to write to it, or makes, renames or removes one:
readonly.py COMMAND..."""

import os
import platform
import sys

from seccomp import LOAD_WORD, JUMP_EQUAL, NUMBER_OFFSET, RET_ALLOW, RETURN, install, instruction

JUMP_ANY_BIT, RET_KILL = 0x45, 0x80000000  # BPF_JMP|BPF_JSET|BPF_K
# openat and its flags; mkdirat, unlinkat, renameat, renameat2, truncate, openat2 (whose flags no filter can see)
X86 = (257, (258, 263, 264, 316, 76, 437, 83, 84, 85, 87, 82))  # and mkdir, rmdir, creat, unlink, rename
ARM = (56, (34, 35, 38, 276, 45, 437))
OPEN_X86, FLAGS_OF_OPEN, FLAGS_OF_OPENAT = 2, 16 + 1 * 8, 16 + 2 * 8
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def main():
    openat, others = X86 if platform.machine() == "x86_64" else ARM
    code = [instruction(LOAD_WORD, 0, 0, NUMBER_OFFSET)]
    for number in others:
        code += [instruction(JUMP_EQUAL, 0, 1, number), instruction(RETURN, 0, 0, RET_KILL)]
    for number, flags in ((openat, FLAGS_OF_OPENAT), *(((OPEN_X86, FLAGS_OF_OPEN),) if openat == X86[0] else ())):
        code += [instruction(JUMP_EQUAL, 0, 4, number), instruction(LOAD_WORD, 0, 0, flags),
                 instruction(JUMP_ANY_BIT, 0, 1, WRITING), instruction(RETURN, 0, 0, RET_KILL),
                 instruction(RETURN, 0, 0, RET_ALLOW)]
    code.append(instruction(RETURN, 0, 0, RET_ALLOW))
    install(b"".join(code))
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
