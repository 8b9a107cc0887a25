# SPDX-License-Identifier: BSD-3-Clause
"""Pools that were made once, by scripts/pool-images, and are opened from then on."""
import gzip
import hashlib
import json
import pathlib

import pytest

from test_pool import run, told, volumes

POOLS = pathlib.Path(__file__).resolve().parent / "data" / "pools"
NAMES = sorted(path.name.removesuffix(".img.gz") for path in POOLS.glob("*.img.gz"))


def digest(tmp_path, disk, name):
    path = tmp_path / "content"
    path.unlink(missing_ok=True)
    run("cp", "-q", f"volume:{disk}?name={name}", path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_there_is_one_of_each():
    assert {"v1-plain", "v1-ghost", "v1-dying", "v1-log"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_pool_of_before_is_what_it_was(tmp_path, name):
    disk = tmp_path / "disk.img"
    disk.write_bytes(gzip.decompress((POOLS / f"{name}.img.gz").read_bytes()))
    found = told("pool", "check", disk)
    assert found["clean"]
    assert bool(found["log_pages"]) == name.endswith("-log")
    assert found["deleted"] == (name.endswith(("-ghost", "-dying")))
    expected = json.loads((POOLS / f"{name}.json").read_text())
    rows = volumes(disk)
    for row in expected:
        is_now = rows.pop(row["name"])
        assert {key: is_now[key] for key in row if key != "sha256"} == {k: v for k, v in row.items() if k != "sha256"}
        assert digest(tmp_path, disk, row["name"]) == row["sha256"]
    assert not rows
    run("volume", "snapshot", disk, "web", "today")
    run("volume", "rm", "--yes", disk, "web")
    assert told("pool", "check", disk)["clean"]
    assert digest(tmp_path, disk, "today") == next(row for row in expected if row["name"] == "web")["sha256"]
