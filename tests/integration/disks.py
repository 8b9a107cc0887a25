# SPDX-License-Identifier: BSD-3-Clause
"""The namespaces of the target that most tests share (conftest.target), and their block sizes."""

MIB = 1 << 20

RAM, RAM4K, FILE, NULL = 1, 2, 3, 4
BLOCK = {RAM: 512, RAM4K: 4096, FILE: 512, NULL: 512}
