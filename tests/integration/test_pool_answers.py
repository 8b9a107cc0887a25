# SPDX-License-Identifier: BSD-3-Clause
"""What a server says of a pool is looked at before anything is made of it: what cannot be ends in one sentence."""
import base64
import contextlib
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import pytest

from test_pool import MIB, disk_of, run, told

LIAR = pathlib.Path(__file__).resolve().parent / "pool_liar.py"
UUID = "01234567-89ab-4def-8123-456789abcdef"
HUGE = (1 << 63) - 1


def volume(**more):
    return {"name": "web", "uuid": UUID, "size": 8 * MIB, "mapped": MIB, "snapshot": True, "thick": False, "parent": "",
            "children": 0, "created": 1700000000, "open": False} | more


def described(uuid, *volumes, **more):
    return {"name": "shop", "uuid": uuid, "disk": "d", "lvstore": "", "unit": 4096, "cluster": MIB, "size": 64 * MIB,
            "usable": 60 * MIB, "free": 50 * MIB, "set_aside": 0, "beyond": 0, "checksums": False, "checksum_errors": 0,
            "freeing": False, "broken": 0, "volumes": list(volumes) or [volume()]} | more


def differences(*extents, size=8 * MIB, after=8 * MIB):
    return {"size": size, "next": after, "extents": list(extents)}


def checked(of, *findings, **more):
    return {"name": "shop", "uuid": of, "generation": 3, "size": 64 * MIB, "used": MIB, "volumes": 1, "snapshots": 0,
            "deleted": 0, "nodes": 4, "log_pages": 0, "data_bytes": 0, "notes": 0, "wastes": 0, "damages": 0,
            "findings": list(findings)} | more


@pytest.fixture
def disk(tmp_path):
    path = disk_of(tmp_path)
    run("pool", "create", path)
    return path


@contextlib.contextmanager
def answering(disk, **answers):
    """While somebody has the disk, and answers so."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="pollux-liar-"))
    (folder / "answers").write_text(json.dumps(answers), encoding="utf-8")
    words = [sys.executable, LIAR, "-r", folder / "control", disk, folder / "answers"]
    with subprocess.Popen([*map(str, words)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            yield
        finally:
            process.kill()
            shutil.rmtree(folder)


@pytest.fixture
def uuid(disk):
    return told("pool", "status", disk)["uuid"]


def test_what_can_be_is_shown(disk, uuid):
    with answering(disk, pollux_pool_get=described(uuid)):
        assert "shop" in run("pool", "status", disk) and "web" in run("volume", "ls", disk)


def test_what_was_mended_is_told(disk, uuid):
    with answering(disk, pollux_pool_get=described(uuid, checksums=True, checksum_errors=3, checksum_mended=2)):
        assert "3 that were read since it was opened were wrong\n           2 of them were mended" in run(
            "pool", "status", disk)
        assert json.loads(run("pool", "status", "--json", disk))["checksum_mended"] == 2


def without(answer, key):
    return {k: v for k, v in answer.items() if k != key}


@pytest.mark.parametrize("key", ["name", "uuid", "lvstore", "unit", "cluster", "size", "usable", "free", "set_aside",
                                 "beyond", "checksums", "checksum_errors", "freeing", "broken", "volumes"])
def test_nothing_of_a_pool_is_missing_or_of_another_type(disk, uuid, key):
    right = described(uuid)
    for wrong in (without(right, key), right | {key: None}, right | {key: {"a": 1}}, right | {key: 1.5},
                  right | {key: -1}, right | {key: [7]}):
        with answering(disk, pollux_pool_get=wrong):
            for words in ("pool", "status"), ("volume", "ls"):
                said = run(*words, disk, status=1)
                assert f'"{key}"' in said or (key == "volumes" and '"name"' in said), said


@pytest.mark.parametrize("key, value", [
    ("size", 0), ("free", 65 * MIB), ("set_aside", 15 * MIB), ("usable", HUGE), ("unit", 12288), ("unit", 1 << 40),
    ("cluster", MIB + 512), ("cluster", 1 << 32), ("broken", 1 << 16), ("lost", -1), ("lost", "x"),
    ("checksum_mended", 1), ("checksum_mended", "x"),
    ("name", "a\x1b[2Jb"), ("name", "a\nb"),
    ("name", "n" * 64), ("lvstore", "l" * 200), ("lvstore", "\x07"), ("uuid", UUID), ("uuid", "x")])
def test_nothing_of_a_pool_is_what_it_cannot_be(disk, uuid, key, value):
    with answering(disk, pollux_pool_get=described(uuid) | {key: value}):
        assert f'"{key}"' in run("pool", "status", disk, status=1)


@pytest.mark.parametrize("key, value", [
    ("name", ""), ("name", 7), ("name", "a\x1b[2Jb"), ("name", "n" * 64), ("parent", None), ("parent", "\x08"),
    ("uuid", "x"), ("uuid", UUID.upper()), ("size", 0), ("size", "8"), ("size", -8), ("mapped", 1.5), ("children", -1),
    ("created", -1), ("snapshot", 1), ("thick", "no")])
def test_nothing_of_a_volume_is_what_it_cannot_be(disk, uuid, key, value):
    with answering(disk, pollux_pool_get=described(uuid, volume(), volume(name="db") | {key: value})):
        assert f'"{key}"' in run("volume", "ls", disk, status=1)


@pytest.mark.parametrize("answer", [
    None, [], 7, "text", differences([0, 0, True]), differences([-4096, 4096, True]), differences([0, 4096]),
    differences([0, 4096, 1]), differences([8 * MIB, 4096, True]), differences([0, 9 * MIB, True]),
    differences([4096, 4096, True], [0, 4096, True]), differences([0, 8192, True], [4096, 4096, True]),
    differences([512, 4096, True]), differences([0, 100, True]), differences([0, HUGE, True]),
    differences(*[[i * 4096, 4096, True] for i in range(4097)], size=64 * MIB, after=64 * MIB),
    differences(after=0), differences(after=9 * MIB), differences(size=0, after=0), differences(size=-1), {"size": 8}])
def test_differences_are_in_order_and_come_to_an_end(disk, uuid, answer):
    with answering(disk, pollux_pool_get=described(uuid), pollux_pool_diff=answer):
        assert "pollux_pool_diff" in run("volume", "diff", disk, "web", status=1)


@pytest.mark.parametrize("data", ["", "AAAA", "*" * 5464, "=" * 5464, "AA==" * 1366, 7, None])
def test_data_is_as_much_as_was_asked_for(tmp_path, disk, uuid, data):
    with answering(disk, pollux_pool_get=described(uuid), pollux_pool_diff=differences([0, 4096, True]),
                   pollux_pool_read={"data": data}):
        assert "pollux_pool_read" in run("volume", "export", disk, "web", tmp_path / "stream", status=1)
    with answering(disk, pollux_pool_get=described(uuid), pollux_pool_diff=differences([0, 4096, True]),
                   pollux_pool_read={"data": base64.b64encode(b"\xfb\xff" * 2048).decode()}):
        run("volume", "export", disk, "web", tmp_path / "whole")
    assert b"\xfb\xff" * 2048 in (tmp_path / "whole").read_bytes()


def test_what_is_exported_is_of_its_size(tmp_path, disk, uuid):
    with answering(disk, pollux_pool_get=described(uuid), pollux_pool_diff=differences(size=16 * MIB, after=16 * MIB)):
        assert "another size" in run("volume", "export", disk, "web", tmp_path / "stream", status=1)


FINDING = {"severity": "note", "text": "all is well", "volume": None, "number": -1, "unit": -1, "offset": -1,
           "repairable": False}


@pytest.mark.parametrize("more", [
    {"generation": -1}, {"nodes": "4"}, {"damages": None}, {"findings": {}}, {"name": "\x1b"}, {"uuid": 4},
    {"findings": [FINDING | {"severity": "joke"}]}, {"findings": [FINDING | {"text": 7}]}, {"findings": ["x"]},
    {"findings": [FINDING | {"number": None}]}, {"findings": [FINDING | {"repairable": 1}]}, {"volumes": 1 << 32}])
def test_nothing_of_a_check_is_what_it_cannot_be(disk, uuid, more):
    with answering(disk, pollux_pool_get=described(uuid), pollux_pool_check=checked(uuid, **more)):
        assert "pollux_pool_check" in run("pool", "check", disk, status=8)


def test_findings_are_shown_without_what_terminals_obey(disk, uuid):
    with answering(disk, pollux_pool_get=described(uuid),
                   pollux_pool_check=checked(uuid, FINDING | {"text": "of a\x1b[2Jb", "volume": "a\x07"})):
        assert "note: of a?[2Jb" in run("pool", "check", disk)


@pytest.mark.parametrize("answers", [{}, {"pollux_pool_get": {"error": {"code": -19, "message": "No such device"}}},
                                     {"pollux_pool_get": {"error": 7}}])
def test_who_does_not_answer_is_named(disk, answers):
    with answering(disk, **answers):
        assert "is in use by process" in run("volume", "ls", disk, status=2)


def test_a_server_that_goes_is_told_of_once(disk, uuid):
    with answering(disk, pollux_pool_get=described(uuid)):
        for words in (("rename", disk, "web", "www"), ("diff", disk, "web"), ("snapshot", disk, "web", "s"),
                      ("rm", "--yes", disk, "web")):
            assert "disconnected" in run("volume", *words, status=2)
        assert "disconnected" in run("pool", "check", disk, status=8)


def test_an_error_is_one_line(disk, uuid):
    with answering(disk, pollux_pool_get=described(uuid),
                   pollux_pool_change={"error": {"code": -22, "message": "no\x1b[2J\nsuch\nluck"}}):
        assert "no?[2J?such?luck" in run("volume", "rename", disk, "web", "www", status=2)
