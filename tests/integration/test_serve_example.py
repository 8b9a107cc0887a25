# SPDX-License-Identifier: BSD-3-Clause
"""`pollux serve --example vm`: what it prints is understood by a shell and by `pollux serve`, and is made for the QEMU
that there is. That a machine boots with it is for tests/vm/test_vhost.py to show."""
import os
import platform
import re
import shlex
import subprocess

import pytest
from target import binary, wait_until
from vhost import IN, OK, Frontend

QEMU = f"qemu-system-{platform.machine()}"
CPUS = min(4, len(os.sched_getaffinity(0)))

pytestmark = pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="there is no example for it")


def run(*words, path=None, cwd=None, status=0):
    env = dict(os.environ) | ({"PATH": str(path)} if path else {})
    done = subprocess.run([binary(), "serve", *map(str, words)], capture_output=True, text=True, env=env, cwd=cwd,
                          check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == status and "runtime error" not in done.stderr, done
    return done


def example(*words, **more):
    done = run("--example", "vm", *words, **more)
    assert done.stderr == ""
    return done.stdout


def commands(text):
    """What a shell makes of it: lists of words."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def qemu_of(text):
    [words] = [words for words in commands(text) if words[0].startswith("qemu")]
    return words


def values(words, option):
    return [words[i + 1] for i, word in enumerate(words) if word == option]


def pretend(folder, version):
    """A QEMU that only says which it is."""
    fake = folder / QEMU
    fake.write_text(f"#!/bin/sh\necho 'QEMU emulator version {version}'\necho 'Copyright'\n")
    fake.chmod(0o755)
    return folder


@pytest.mark.parametrize("version, reconnect", [
    ("7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)", "reconnect=1"), ("9.1.3", "reconnect=1"), ("9.2.0", "reconnect-ms=100"),
    ("10.0.2", "reconnect-ms=100"), ("8.10.0", "reconnect=1")])
def test_how_this_qemu_connects_again(tmp_path, version, reconnect):
    text = example(path=pretend(tmp_path, version))
    [chardev] = values(qemu_of(text), "-chardev")
    assert chardev.split(",")[-1] == reconnect and "not installed" not in text


@pytest.mark.parametrize("says", [None, "of nothing at all"])
def test_without_qemu_both_ways_are_told(tmp_path, says):
    if says:
        pretend(tmp_path, says)
    text = example(path=tmp_path)
    assert "reconnect-ms=100" in qemu_of(text)[qemu_of(text).index("-chardev") + 1]
    assert "is not installed here" in text and "reconnect=1" in text


def test_a_machine_as_this_one_can_have(tmp_path):
    text = example("--vhost", tmp_path, "ram:64M")
    words = qemu_of(text)
    kvm = os.access("/dev/kvm", os.R_OK | os.W_OK)
    [machine] = values(words, "-machine")
    assert words[0] == QEMU and f"accel={'kvm' if kvm else 'tcg'}" in machine.split(",")
    assert "memory-backend=mem" in machine.split(",")
    assert values(words, "-cpu") == ["host" if kvm else "max"] and ("/dev/kvm" in text) != kvm
    assert values(words, "-object") == [f"memory-backend-memfd,id=mem,size={values(words, '-m')[0]},share=on"]
    assert values(words, "-device") == [f"vhost-user-blk-pci,chardev=c0,num-queues={CPUS}"]
    assert values(words, "-smp") == [str(CPUS)]


def test_no_kvm_is_told_of(tmp_path):
    if os.geteuid():
        pytest.skip("needs root, who can take it away")
    hide = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs none /dev && exec "$@"', "sh")
    done = subprocess.run([*hide, binary(), "serve", "--example", "vm"], capture_output=True, text=True, check=False)
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(f"nothing can be mounted here: {done.stderr}")
    words = qemu_of(done.stdout)
    assert "accel=tcg" in values(words, "-machine")[0].split(",") and values(words, "-cpu") == ["max"]
    assert "# /dev/kvm: No such file or directory." in done.stdout


def test_the_server_line_is_what_was_asked_for(tmp_path):
    sockets = tmp_path / "of, it's"
    sockets.mkdir()
    (tmp_path / "a b.img").touch()
    given = ["--vhost", str(sockets), "-m", "0", "--serial", "S 1", "a b.img", "ram:64M?block=4096", "ram:1M"]
    for option in (["--example", "vm"], ["--example=vm"], ["--exam", "vm"]):
        text = run(*given[:4], *option, *given[4:], cwd=tmp_path).stdout
        assert commands(text)[0] == ["pollux", "serve", *given]
        assert [re.sub(",,", ",", c) for c in values(qemu_of(text), "-chardev")] == [
            re.sub(",reconnect.*", "", f"socket,id=c{n},path={sockets}/{name},reconnect") + c[c.rindex(",reconnect"):]
            for n, (name, c) in enumerate(zip(("a b.img", "ram0", "ram1"), values(qemu_of(text), "-chardev")))]


def test_what_is_missing_is_made(tmp_path):
    """A directory, and a disk."""
    text = example(cwd=tmp_path)
    lines = commands(text)
    where = lines[-2][lines[-2].index("--vhost") + 1]
    if not os.path.exists(where):
        assert lines[0] == ["mkdir", "-p", where]
    assert lines[-3] == ["truncate", "-s", "4G", "disk.img"] and lines[-2][-1] == "disk.img"
    (tmp_path / "disk.img").touch()
    assert "truncate" not in example(cwd=tmp_path)


def test_the_server_lines_work(tmp_path):
    """Pasted, with a directory that is not there yet, whose name a shell would take apart."""
    text = example("--vhost", "a place/for it", cwd=tmp_path)
    script = text.partition("# In another")[0].replace("pollux serve", f"exec {shlex.quote(binary())} serve")
    with subprocess.Popen(["sh", "-ec", script], cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL) as server:
        try:
            path = tmp_path / "a place/for it/disk.img"
            assert wait_until(path.exists)
            [chardev] = values(qemu_of(text), "-chardev")
            assert tmp_path / chardev.split(",")[2].removeprefix("path=") == path

            def served():
                try:
                    with Frontend(path) as front:
                        return front.start().run(IN, into=512)[0] == OK
                except ConnectionRefusedError:
                    return False
            assert wait_until(served)
        finally:
            server.terminate()
    assert server.returncode == 0 and os.path.getsize(tmp_path / "disk.img") == 4 << 30


@pytest.mark.parametrize("words, says", [
    (("--example", "host"), "there is one of vm"), (("--example",), "needs a value"),
    (("--example", "vm", "--socket-group", "no-such-group"), "no such group"),
    (("--example", "vm", "a\nb"), "cannot be printed"), (("--example", "vm", "--nonsense"), "--nonsense")])
def test_what_is_wrong_is_said_in_one_line(words, says):
    done = run(*words, status=2)
    assert says in done.stderr and done.stderr.count("\n") == 1 and done.stdout == ""
