# SPDX-License-Identifier: BSD-3-Clause
"""The command lines of all subcommands: whatever is wrong with one is told in one true line, with status 2."""

import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import tempfile

import pytest

import expect
import sqe
from host import Controller
from spec import Sc
from target import Target, binary, wait_until

REFUSED = 2
LIMIT = 30
HOSTNQN = "nqn.2014-08.org.nvmexpress:uuid:00000000-0000-4000-8000-706f6c6c7578"
OTHER = HOSTNQN[:-1] + "9"
NOBODY = f"nvme+tcp://127.0.0.1:1/{HOSTNQN}"  # a port where nobody listens


def run(*words, **more):
    return subprocess.run([binary(), *map(str, words)], capture_output=True, text=True, timeout=LIMIT, check=False,
                          stdin=subprocess.DEVNULL, **more)


def refused(*words, **more):
    """Runs a command line that is wrong; returns the one line that says what."""
    result = run(*words, **more)
    assert result.returncode == REFUSED, f"exit status {result.returncode}\n{result.stdout}{result.stderr}"
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("pollux: "), result.stderr
    return lines[0][len("pollux: "):]


# -- words and options -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words,told", [
    (["serve", "--verbose=1", "ram:1M"], "--verbose takes no value"),
    (["serve", "--allow-any-host=yes", "ram:1M"], "--allow-any-host takes no value"),
    (["perf", "--verify=1", "ram:1M"], "--verify takes no value"),
    (["cp", "--quiet=1", "a", "b"], "--quiet takes no value"),
    (["identify", "--json=1", NOBODY], "--json takes no value"),
    (["discover", "--watch=1", "::1"], "--watch takes no value"),
    (["serve", "-vx", "ram:1M"], "there is no option -x;"),
    (["serve", "--quiet", "-xv", "ram:1M"], "there is no option -x;"),
    (["serve", "--poll=busy", "-x", "ram:1M"], "there is no option -x;"),
    (["perf", "--nope=1", "ram:1M"], "there is no option --nope=1;"), (["identify", "-x"], "there is no option -x;"),
    (["serve", "-vl"], "--listen needs a value;"), (["cp", "--depth"], "--depth needs a value;"),
    (["discover", "--hostnqn"], "--hostnqn needs a value;"), (["perf", "ram:1M", "-q"], "--queue-depth needs a value;"),
    (["cp", "-v", "a", "b"], "there is no option -v;"), (["cp", "-d", "1", "a", "b"], "there is no option -d;"),
    (["discover", "-q", "127.0.0.1"], "there is no option -q;"), (["discover", "-j", "::1"], "there is no option -j;"),
    (["nvme", "list", "--json=1"], "--json takes no value"), (["nvme", "bind", "--driver"], "--driver needs a value;"),
    (["nvme", "bind", "--json", "x"], "--json is for nvme list"),
    (["nvme", "list", "--dry-run"], "--dry-run is for nvme bind and nvme unbind"),
    (["nvme", "unbind", "--driver", "vfio-pci", "x"], "--driver is for nvme bind"),
    (["nvme", "unbind", "--allow-content", "S1", "x"], "--allow-content is for nvme bind"),
    (["nvme", "bind", "--driver", "igb_uio", "x"], 'there is no driver "igb_uio" for this'),
    (["nvme", "bind", "nobody's"], "there is no NVMe device with the PCI address or the serial number \"nobody's\";"),
    (["nvme", "unbind", "0000:ff:1f.7"], "there is no NVMe device with the PCI address"),
    (["nvme"], "nvme takes a verb: list, bind or unbind;"), (["nvme", "bnid"], 'there is no verb "bnid"'),
    (["nvme", "bind"], "nvme bind takes devices,"), (["nvme", "unbind"], "nvme unbind takes devices,"),
    (["discover", "-w", "::1"], "there is no option -w;"), (["identify", "-j", NOBODY], "there is no option -j;"),
    (["perf", "-P", "129", "-q", "129", NOBODY], "--qpairs 129: a remote disk takes at most 128 for each core"),
    (["serve", "--quiet", "-v", "ram:1M"], "--quiet and --verbose contradict each other"),
    (["serve", "-m", "4096", "ram:1M"], "--cores 4096: cores are numbers up to 4095, in a list such as 0-3,6"),
    (["serve", "-n", HOSTNQN, "ram:1M", "-n", OTHER], f"--nqn {OTHER}: no disk is named after it"),
    (["serve", "-n", HOSTNQN, "-n", OTHER, "ram:1M"],
     f"--nqn {HOSTNQN}: no disk is named after it, and before the next one"),
])
def test_a_wrong_option_is_told(words, told):
    assert refused(*words).startswith(told)


@pytest.mark.parametrize("command,option,values", [
    ("serve", "poll", ("busy", "sleep")), ("serve", "cores", ("0", "0")), ("serve", "serial", ("A", "B")),
    ("serve", "max-io-size", ("64K", "1M")), ("serve", "queue-depth", ("2", "4")), ("serve", "max-queues", ("1", "2")),
    ("serve", "in-capsule", ("0", "4K")), ("serve", "peer-timeout", ("1", "2")), ("perf", "queue-depth", ("1", "2")),
    ("serve", "nic-poll", ("0", "9")),
    ("perf", "io-size", ("512", "4K")), ("perf", "workload", ("rw", "read")), ("perf", "read-percent", ("1", "2")),
    ("perf", "time", ("1", "2")), ("perf", "qpairs", ("1", "2")), ("perf", "cores", ("0", "0")),
    ("perf", "rate", ("1", "2")),
    ("perf", "count", ("1", "2")), ("perf", "json", ("-", "-")), ("perf", "poll", ("busy", "sleep")),
    ("cp", "depth", ("1", "2")), ("cp", "chunk", ("64K", "1M")), ("discover", "hostnqn", (HOSTNQN, HOSTNQN)),
    ("nvme", "driver", ("vfio-pci", "vfio-pci"))])
def test_an_option_that_is_given_twice_is_told(command, option, values):
    one, two = values
    assert refused(command, f"--{option}", one, "ram:1M", f"--{option}={two}", "ram:1M") == f"--{option} is given twice"


def test_what_may_be_given_several_times_may():
    with Target("-n", HOSTNQN, "ram:1M", "-n", OTHER, "ram:1M", listen=["127.0.0.1:0", "127.0.0.1:0"],
                options=["--allow", HOSTNQN, "--allow", OTHER, "-v", "-v"]):
        pass


@pytest.mark.parametrize("words,told", [
    (["help", "serve", "perf"], '"perf" is a word too many'), (["--help", "serve", "-v"], '"-v" is a word too many'),
    (["--version", "serve"], '"serve" is a word too many'), (["version", "-v"], '"-v" is a word too many'),
    (["help", "sevre"], 'no command "sevre"'), (["identify", NOBODY, "x"], "one controller"),
    (["discover", "127.0.0.1", "127.0.0.2"], "one address"), (["cp", "a", "b", "c"], "two disks"),
    (["nvme", "list", "x"], '"x" is a word too many'), (["sevre"], '"sevre"')])
def test_a_word_too_many_is_told(words, told):
    assert told in refused(*words)


@pytest.mark.parametrize("words,told", [
    (["serve", "--max-io-size", "8M"], "--max-io-size 8M: takes a size from 4K to 4M, a power of two"),
    (["serve", "--max-io-size", "96K"], "--max-io-size 96K: takes a size from 4K to 4M, a power of two"),
    (["serve", "--in-capsule", "65K"], "--in-capsule 65K: takes a size from 0 to 64K, a multiple of 512"),
    (["serve", "--in-capsule", "100"], "--in-capsule 100: takes a size from 0 to 64K, a multiple of 512"),
    (["serve", "--peer-timeout", "3601"], "--peer-timeout 3601: takes seconds from 1 to 3600"),
    (["serve", "--nic-poll", "1001"], "--nic-poll 1001: takes microseconds from 0 to 1000"),
    (["serve", "--queue-depth", "1K"], "--queue-depth 1K: takes a number from 2 to 1024"),
    (["perf", "-o", "17M"], "--io-size 17M: takes a size from 512 to 16M, a multiple of 512"),
    (["perf", "-t", "0x10"], "--time 0x10: takes seconds from 0.001 to 100000"),
    (["perf", "--rate", "0"], "--rate 0: takes requests a second from 1 to 1000000000"),
    (["cp", "--chunk", "2M", "a", "b"], "--chunk 2M: takes a size from 64K to 1M, a power of two"),
    (["cp", "--depth", "0.1K", "a", "b"], "--depth 0.1K: takes a number from 1 to 256"),
])
def test_a_value_out_of_range_is_told_the_range_and_its_unit(words, told):
    assert refused(*words, "ram:1M") == told


def test_help_explains_itself():
    result = run("help", "help")
    assert result.returncode == 0 and result.stdout == run("help").stdout


@pytest.mark.parametrize("scheme", ["nvme+tcp", "tcp"])
def test_discover_takes_an_address_and_no_disk(scheme):
    for address in ("127.0.0.1:8009", "[::1]"):
        told = refused("discover", f"{scheme}://{address}/{HOSTNQN}")
        assert told == f'discover takes an address alone: "{address}", and not "{scheme}://{address}/{HOSTNQN}"'


def test_a_host_name_may_have_what_separates_settings():
    hostnqn = "nqn.2014-08.org.example:50%&hdgst=1%20"
    with Target("ram:1M", options=["--allow", hostnqn]) as target:
        told = run("discover", "--hostnqn", hostnqn, f"127.0.0.1:{target.port}")
        assert told.returncode == 0 and f"subnqn:  {target.nqn}" in told.stdout, told.stderr


STEERING = [b"\a", b"\b", b"\t", b"\n", b"\r", b"\x1b[2J", b"\x7f", b"\x9b2J", b"\xc2\x9b2J", b"\xff", b"\xc3",
            "\u2028".encode(), "\u202e".encode()]


@pytest.mark.parametrize("words", [
    [b"%s"], [b"help", b"%s"], [b"--version", b"%s"], [b"serve", b"--%s"], [b"serve", b"-%s"],
    [b"serve", b"--poll", b"%s"], [b"serve", b"-l", b"%s"], [b"serve", b"-n", b"nqn.2014-08.org.example:%s"],
    [b"serve", b"--serial", b"%s", b"ram:1M"],
    [b"serve", b"/nowhere/%s"], [b"serve", b"ram:%s"], [b"serve", b"tape%s:x"], [b"serve", b"ram:1M?%s=1"],
    [b"perf", b"-q", b"%s"], [b"perf", b"--json", b"/nowhere/%s", b"ram:1M"], [b"cp", b"/nowhere/%s", b"/nowhere/x"],
    [b"cp", b"ram:1M", b"/nowhere/%s"], [b"identify", b"nvme+tcp://127.0.0.1:1/%s?nsid=0"], [b"discover", b"[%s"],
    [b"discover", b"--hostnqn", b"%s", b"::1"],
], ids=lambda words: b" ".join(words).decode())
def test_what_was_typed_does_not_steer_the_terminal(words):
    for text in STEERING:
        result = subprocess.run([binary(), *(word.replace(b"%s", b"a" + text + b"b") for word in words)],
                                capture_output=True, timeout=LIMIT, check=False, stdin=subprocess.DEVNULL)
        assert result.returncode == REFUSED and result.stdout == b"", result.stderr
        assert result.stderr.endswith(b"\n") and result.stderr[:-1].decode().isprintable(), result.stderr


@pytest.mark.parametrize("words", [["größe"], ["serve", "--poll", "größe"], ["perf", "/nowhere/größe"]], ids=" ".join)
def test_what_was_typed_in_utf8_is_told_in_it(words):
    assert "größe" in refused(*words)


# -- addresses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address,words", [
    ("224.0.0.1:4420", "224.0.0.1 is a multicast address"), ("[ff02::1]:4420", "ff02::1 is a multicast address"),
    ("255.255.255.255", "255.255.255.255 is the broadcast address"),
    # Of a network, which only the kernel knows.
    ("127.255.255.255:4420", "127.255.255.255:4420 is a broadcast address"),
    ("[fe80::1]:4420", "fe80::1 is a link-local address"), ("[fe80::1%nosuch]:4420", "no such network interface"),
    ("[fe80::1%999999]", "no such network interface"), ("[::1%lo]:4420", "only link-local"),
    ("[::1", "[::1 has no ]"), ("[::1:4420", "[::1:4420 has no ]"),
    ("", '"": an address is'), ("localhost", '"localhost" is not a numeric'), ("127.0.0.1:", "a port is"),
])
def test_a_listener_at_what_is_no_address_of_a_machine_is_refused(address, words):
    assert words in refused("serve", "--allow-any-host", "-l", address, "ram:1M")


@pytest.mark.parametrize("one,two", [
    ("127.0.0.1:{}", "127.0.0.1:{}"), ("127.0.0.1:{}", "[::ffff:127.0.0.1]:{}"), ("0.0.0.0:{}", "127.0.0.1:{}"),
    ("127.0.0.1:{}", "0.0.0.0:{}"), ("[::1]:{}", "[0:0::1]:{}"), ("[::]:{}", "[::1]:{}")])
def test_two_listeners_at_one_address_are_refused(one, two):
    with Target("ram:1M") as target:
        port = target.port  # is free afterwards
    told = refused("serve", "--allow-any-host", "-l", one.format(port), "-l", two.format(port), "ram:1M")
    assert "there is a listener at" in told and f"port {port} already" in told


def test_listeners_at_different_addresses_share_a_port():
    with Target("ram:1M") as target:
        port = target.port
    with Target("ram:1M", listen=[f"127.0.0.1:{port}", f"127.0.0.2:{port}", f"[::1]:{port}"]) as target:
        assert target.addresses == [("127.0.0.1", port), ("127.0.0.2", port), ("::1", port)]


def test_any_free_port_may_be_asked_for_twice():
    with Target("ram:1M", listen=["127.0.0.1:0", "127.0.0.1:0"]) as target:
        assert len(set(target.ports)) == 2


def link_local():
    """An address of this machine, with its interface, or None."""
    with open("/proc/net/if_inet6", encoding="ascii") as lines:
        for address, _, _, scope, _, name in map(str.split, lines):
            if scope == "20":
                return ":".join(address[i:i + 4] for i in range(0, 32, 4)) + "%" + name
    return None


def test_link_local_addresses_work_with_their_interface():
    """To itself, this machine sends over its loopback."""
    address = link_local()
    if not address:
        pytest.skip("no interface here has a link-local address")
    with Target("ram:1M", listen=f"[{address}]:0", options=["--allow", HOSTNQN]) as target:
        where = f"[{target.address[0]}]:{target.port}"
        assert target.address[0].startswith("fe80::") and target.address[0].endswith(address[address.index("%"):])
        url = f"nvme+tcp://{where}/{target.nqn}?hostnqn={HOSTNQN}"
        result = run("perf", "-w", "write", "--count", 10, url)
        assert result.returncode == 0, result.stderr
        result = run("discover", "--hostnqn", HOSTNQN, where)
        assert result.returncode == 0 and f"at {where}" in result.stdout
        # The name of the link is ours alone.
        assert f"traddr:  {target.address[0].partition('%')[0]}\n" in result.stdout


@pytest.mark.parametrize("words", [["perf"], ["cp", "ram:1M"], ["identify"], ["discover"], ["serve"]],
                         ids=lambda words: words[0])
@pytest.mark.parametrize("address,told", [
    ("[fe80::1]:1", "[fe80::1]:1 is a link-local address"), ("[fe80::1%nosuch]:1", "no such network interface"),
    ("224.0.0.1:1", "multicast"), ("255.255.255.255:1", "broadcast"), ("[::1", "has no ]"),
    ("127.0.0.1:0", "1 to 65535")])
def test_hosts_refuse_what_is_no_address_of_a_machine(words, address, told):
    name = address if words == ["discover"] else f"nvme+tcp://{address}/{HOSTNQN}"
    assert told in refused(*words, name)


# -- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nqn,told", [
    ("nqn.2014-08.org.nvmexpress.discovery", "is the name of every discovery controller"),
    (b"nqn.2014-08.org.example:\xff", "not UTF-8"), ("nqn.2014-08.org.example:\x1b[2J", "a control character"),
    ("nqn.2014-13.org.example:a", "month from 01 to 12"), ("nqn.2014-08.org.example", "no colon"),
    ("nqn.2014-08.org.nvmexpress:uuid:1234", "no UUID"), ("disk.img", 'does not begin with "nqn."'),
    ("", 'does not begin with "nqn."'), ("nqn.2014-08.org.example:" + "x" * 200, "longer than 223"),
])
@pytest.mark.parametrize("words", [["serve", "--nqn"], ["serve", "--allow"], ["discover", "--hostnqn"]], ids=" ".join)
def test_what_is_no_nqn_is_refused(words, nqn, told):
    line = subprocess.run([binary(), *words, nqn, "127.0.0.1:1"], capture_output=True, timeout=LIMIT, check=False,
                          stdin=subprocess.DEVNULL)
    assert line.returncode == REFUSED and line.stdout == b"" and line.stderr.count(b"\n") == 1
    assert told in line.stderr.decode() and words[1].strip("-").encode() in line.stderr


def test_an_nqn_without_disks_that_is_a_disk_is_told():
    """What was forgotten is the name between the two."""
    assert refused("serve", "--nqn", "disk.img") == (
        '--nqn "disk.img" does not begin with "nqn.", as in nqn.2024-01.com.example:disk')


@pytest.mark.parametrize("setting", ["hostnqn=nqn.2014-13.org.example:a", "hostnqn=somebody"])
def test_a_host_of_no_name_does_not_connect(setting):
    assert refused("perf", f"{NOBODY}?{setting}").startswith(f"{NOBODY}: {setting} ")


# -- identities ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("disk", ["ram:1M", "null:1M"])
def test_the_uuid_of_zeroes_is_refused(disk):
    assert "stands for none" in refused("serve", f"{disk}?uuid=00000000-0000-0000-0000-000000000000")


UUIDS = ["01234567-89ab-cdef-0123-456789abcdef", "01234567-89ab-cdef-0123-456789abcdee"]


@pytest.mark.parametrize("disks", [["ram:1M", "ram:2M"], ["null:1M", "ram:1M?block=4096"], [NOBODY, "ram:1M"]],
                         ids=lambda disks: disks[0][:4])
def test_two_disks_of_one_uuid_are_not_served_in_one_subsystem(disks):
    with Target("ram:1M") as upstream:
        disks = [disk.replace(NOBODY, f"nvme+tcp://127.0.0.1:{upstream.port}/{upstream.nqn}") for disk in disks]
        one, two = (disk + ("&" if "?" in disk else "?") + f"uuid={UUIDS[0]}" for disk in disks)
        told = refused("serve", "-l", "127.0.0.1:0", one, two)
        assert "have one UUID" in told and "uuid=" in told
        with Target(one, two.replace(*UUIDS)), Target("-n", HOSTNQN, one, "-n", OTHER, two):
            pass  # in two subsystems they may be


def default_nqn(*disks):
    with Target(*disks) as target:
        return target.nqn


def test_the_default_nqn_follows_the_disks_and_their_settings(tmp_path):
    """The same on the same machine at every start, another for other disks or settings."""
    path, other = tmp_path / "disk.img", tmp_path / "other.img"
    for name in (path, other):
        name.write_bytes(bytes(1 << 20))
    lines = [[disk] for disk in (
        "ram:1M", "ram:2M", "null:1M", "null:1M?block=4096", "ram:1M?block=4096", f"ram:1M?uuid={UUIDS[0]}",
        f"ram:1M?uuid={UUIDS[1]}", str(path), str(other), f"file:{path}?block=4096", f"file:{path}?block=512",
        f"file:{path}?direct=0", f"file:{path}?uuid={UUIDS[0]}&direct=0", f"file:{path}?uuid={UUIDS[1]}&direct=0")]
    lines += [["ram:1M", "ram:1M"], ["ram:1M", "null:1M"], ["null:1M", "ram:1M"]]
    told = [default_nqn(*line) for line in lines]
    assert len(set(told)) == len(lines)
    assert [default_nqn(*line) for line in lines] == told
    assert default_nqn(f"{tmp_path}/./disk.img") == default_nqn(f"file://{path}") == told[lines.index([str(path)])]


def test_the_default_nqn_of_as_many_disks_as_can_be_is_made_from_all():
    disks = ["ram:1M?block=4096"] * 255
    one = default_nqn(*disks, "ram:1M?block=4096")
    assert default_nqn(*disks, "ram:1M?block=4096") == one
    assert default_nqn(*disks, "ram:1M?block=8192") != one


# -- disks and their settings ----------------------------------------------------------------------------------------


def memory():
    """Bytes of RAM and swap."""
    with open("/proc/meminfo", encoding="ascii") as lines:
        told = {name: int(value.split()[0]) * 1024 for name, value in (line.split(":") for line in lines)}
    return told["MemTotal"] + told["SwapTotal"]


@pytest.mark.parametrize("words", [["serve"], ["perf"], ["cp", "ram:1M"]], ids=lambda words: words[0])
@pytest.mark.parametrize("disk,told", [
    ("ram:1G?block=100", "ram:1G: block=100: a block has 512 bytes to 64K, a power of two"),
    ("null:1G?uuid=1", "null:1G: uuid=1: one looks like 01234567-"),
    ("ram:1G?ro=1", "ram:1G: there is no setting ro=; there are: block uuid"),
    ("ram:1G?block=512&block=512", "ram:1G: block= is given twice"),
    ("null:1G?block", "null:1G: 'block' is no setting; one is NAME=VALUE"),
    ("file:/dev/null?ro=2", "/dev/null: ro=2: the value is 0 or 1"),
    ("file:/dev/null?block=8191", "/dev/null: block=8191: a block has 512 or 4096 bytes"),
    (f"{NOBODY}?queues=129", f"{NOBODY}: queues=129: takes a number from 1 to 128"),
    (f"{NOBODY}?kato=never", f"{NOBODY}: kato=never: takes seconds from 0 to 1000000"),
    (f"{NOBODY}?nsid=1&nsid=2", f"{NOBODY}: nsid= is given twice"),
    ("ram:1Q", "ram:1Q names no size: one is a number of bytes, or of K, M, G or T, as in ram:1G"),
    ("ram:0", "ram:0: the size is from one block to 8388607T"),
    ("null:8388608T", "null:8388608T: the size is from one block to 8388607T"),
    ("ram:99999999999999999999", "ram:99999999999999999999: the size is from one block to 8388607T"),
    ("ram:100", "ram:100: the size is no multiple of the blocks, of 512 bytes"),
    ("ram:1000T", "ram:1000T is more than the"),
])
def test_a_wrong_disk_is_refused_by_its_name(words, disk, told):
    assert refused(*words, disk).startswith(told)


@pytest.mark.parametrize("setting,told", [
    ("queues=0", f"{NOBODY}: queues=0: takes a number from 1 to 128"),
    ("nsid=1&nsid=2", f"{NOBODY}: nsid= is given twice"),
    ("block=512", f"{NOBODY}: there is no setting block=; there are: nsid "),
    ("nsid", f"{NOBODY}: 'nsid' is no setting")])
def test_a_wrong_setting_of_a_controller_is_refused_by_its_name(setting, told):
    assert refused("identify", f"{NOBODY}?{setting}").startswith(told)


@pytest.mark.parametrize("words", [["serve", "-l", "127.0.0.1:0"], ["perf", "-w", "read", "--count", "1"], ["cp"]],
                         ids=lambda words: words[0])
def test_ram_disks_that_together_exceed_memory_are_refused(words):
    size = memory() // 2 // 4096 * 4096
    told = refused(*words, f"ram:{size + 4096}", f"ram:{size + 8192}")
    assert told.startswith("the RAM disks have") and "GiB of memory" in told


# -- what is suggested -----------------------------------------------------------------------------------------------


ODD_NAMES = ["plain.img", "two words.img", "it's.img", "$(touch here).img", "größe.img", "a%b.img", "-rf.img",
             "a;b&c|d.img"]


def shell(command, **more):
    return subprocess.run(["sh", "-ec", command], capture_output=True, text=True, timeout=LIMIT, check=False, **more)


def suggestion(line, before):
    """What stands at the end of a line, after the words `before`."""
    assert before in line, line
    return line.partition(before)[2]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_suggested_command_makes_the_file(tmp_path, name):
    command = suggestion(refused("serve", tmp_path / name), "to make one: ")
    assert shell(command, cwd=tmp_path).returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == [name]
    (tmp_path / name).write_bytes(b"")
    assert suggestion(refused("perf", tmp_path / name), "to give it a size: ") == command
    (tmp_path / name).write_bytes(bytes(1000))
    assert shell(suggestion(refused("serve", tmp_path / name), "to lengthen it: ")).returncode == 0
    assert (tmp_path / name).stat().st_size == 1024
    assert not (tmp_path / "here").exists()


def test_a_name_that_no_shell_should_see_is_not_suggested(tmp_path):
    told = refused("serve", tmp_path / "a\nb")
    assert told == f"there is no file {tmp_path}/a?b; to make one: truncate -s 10G FILE"


def nobody():
    """Runs what follows as somebody who is not root, so that files can be forbidden."""
    setpriv = shutil.which("setpriv")
    if os.geteuid() or not setpriv:
        pytest.skip("needs root and setpriv")
    words = [setpriv, "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"]
    if subprocess.run([*words, "test", "-x", binary()], check=False).returncode:
        pytest.skip("nobody may not run the binary where it is")
    return words


@pytest.fixture
def forbidden():
    """Makes files that nobody may write to, by name, with settings behind."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)

        def make(name):
            path = pathlib.Path(directory, name)
            path.write_bytes(bytes(1 << 20))
            path.chmod(0o444)
            return path

        yield make


@pytest.mark.parametrize("name", ODD_NAMES)
@pytest.mark.parametrize("setting", ["", "block=4096"])
def test_a_suggested_name_reads_what_cannot_be_written(forbidden, name, setting):
    path = forbidden(name)
    words = [*nobody(), binary(), "perf", "--count", "1"]
    disk = f"file:{str(path).replace('%', '%25')}?{setting}" if setting else path
    result = subprocess.run([*words, disk], capture_output=True, text=True, timeout=LIMIT, check=False)
    assert result.returncode == REFUSED and len(result.stderr.splitlines()) == 1
    word = suggestion(result.stderr, "to only read it, its name is ").rstrip("\n")
    again = shell(f"{shlex.join(words)} {word}")
    assert again.returncode == 0 and setting in again.stdout, again.stderr


def test_settings_behind_a_plain_path_are_told_from_its_name(tmp_path):
    path = tmp_path / "a b.img"
    path.write_bytes(bytes(1 << 20))
    word = suggestion(refused("perf", f"{path}?block=4096"), "with settings after the ?, the name is ")
    result = shell(f"{binary()} perf --count 1 {word}")
    assert result.returncode == 0 and "block=4096" in result.stdout, result.stderr


def test_the_command_to_connect_is_one_for_a_shell():
    nqn = "nqn.2014-08.org.example:it's;$(reboot)"
    with subprocess.Popen([binary(), "serve", "-l", "127.0.0.1:0", "-n", nqn, "ram:1M"], stdout=subprocess.PIPE,
                          text=True) as process:
        line = next(line for line in process.stdout if "nvme connect" in line)
        process.terminate()
        process.stdout.read()
    assert shlex.split(line)[-2:] == ["-n", nqn]
    assert shell(f"nvme() {{ printf %s \"$9\"; }}; {line}").stdout == nqn


@pytest.mark.parametrize("name", [b"\x1b[2J.img", b"\xff\xfe.img", b"\xc2\x9b.img", "größe 1%.img".encode(),
                                  b"a\nb.img"])
def test_the_name_of_a_disk_is_printed_so_that_it_can_be_typed(tmp_path, name):
    path = os.path.join(bytes(tmp_path), name)
    with open(path, "wb") as file:
        file.truncate(1 << 20)
    result = subprocess.run([binary(), "perf", "--count", "1", "--json", "-", path], capture_output=True, timeout=LIMIT,
                            check=False)
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)["disks"][0]["disk"]
    assert told.isprintable()
    with subprocess.Popen([binary(), "serve", "-l", "127.0.0.1:0", told], stdout=subprocess.PIPE) as process:
        lines = [process.stdout.readline().decode() for _ in range(3)]
        process.terminate()
        process.stdout.read()
    assert lines[1].startswith(f"  namespace 1: {told}, 1 MiB") and all(line[:-1].isprintable() for line in lines)


# -- cp --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["{}", "file:{}", "file://{}?block=4096"])
def test_cp_is_told_what_there_is_to_copy(tmp_path, form):
    """And not how to make a file to copy from."""
    source, copy = tmp_path / "source.img", tmp_path / "copy.img"
    assert refused("cp", form.format(source), copy) == f"there is no file {source} to copy"
    source.touch()
    assert refused("cp", form.format(source), copy) == f"{source} is empty: there is nothing to copy"
    assert not copy.exists()


@pytest.mark.parametrize("disk,told", [
    ("file:new.img?block=4095", "block=4095"), ("file:new.img?ro=1", "is read-only"),
    ("file:new.img?blok=1", "no setting blok="), ("file:new.img?ro", "'ro' is no setting")])
def test_a_destination_that_is_refused_leaves_no_file(tmp_path, disk, told):
    assert told in refused("cp", "ram:1M", disk, cwd=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", ["{}", "file:{}", "file://{}?block=4096"])
def test_a_destination_that_is_empty_is_as_new(tmp_path, form):
    source, copy = tmp_path / "source.img", tmp_path / "copy.img"
    source.write_bytes(os.urandom(1 << 20) + bytes(1 << 20))
    copy.touch()
    assert run("cp", source, form.format(copy)).returncode == 0
    assert copy.read_bytes() == source.read_bytes() and copy.stat().st_blocks * 512 < 3 << 19


def test_a_destination_that_is_empty_and_refused_is_empty_still(tmp_path):
    (tmp_path / "new.img").touch()
    assert "is read-only" in refused("cp", "ram:1M", "file:new.img?ro=1", cwd=tmp_path)
    assert (tmp_path / "new.img").stat().st_size == 0


def test_a_source_may_begin_with_two_slashes(tmp_path):
    source, copy = tmp_path / "source.img", tmp_path / "copy.img"
    source.write_bytes(os.urandom(1 << 20))
    result = run("cp", f"/{source}", copy)
    assert result.returncode == 0 and copy.read_bytes() == source.read_bytes(), result.stderr


def test_a_destination_that_is_larger_than_files_may_be_leaves_no_file(tmp_path):
    result = subprocess.run(["prlimit", "--fsize=65536", binary(), "cp", "null:1M", "new.img"], capture_output=True,
                            text=True, timeout=LIMIT, check=False, cwd=tmp_path)
    assert result.returncode == 1 and not list(tmp_path.iterdir())
    assert result.stderr == f"pollux: {tmp_path}/new.img cannot be made 1048576 bytes long: File too large\n"


def test_a_destination_that_cannot_be_made_is_an_error_of_usage(tmp_path):
    assert refused("cp", "ram:1M", tmp_path / "no" / "new.img") == (
        f"{tmp_path}/no/new.img cannot be created: No such file or directory")


def test_a_destination_that_cannot_be_written_is_not_offered_read_only(forbidden):
    path = forbidden("disk.img")
    for name in (path, f"file:{path}?block=4096"):
        result = subprocess.run([*nobody(), binary(), "cp", "ram:1M", name], capture_output=True, text=True,
                                timeout=LIMIT, check=False)
        assert result.returncode == REFUSED
        assert result.stderr == f"pollux: {path} cannot be written to: Permission denied\n"


def test_a_file_that_cannot_be_written_is_not_offered_read_only_to_a_workload_that_writes(forbidden):
    path = forbidden("disk.img")
    result = subprocess.run([*nobody(), binary(), "perf", "-w", "rw", path], capture_output=True, text=True,
                            timeout=LIMIT, check=False)
    assert result.returncode == REFUSED
    assert result.stderr == f"pollux: {path} cannot be written to, as --workload rw would: Permission denied\n"


@pytest.mark.parametrize("form", ["{}", "file:{}", "file:{}?block=4096"])
def test_a_source_is_only_read(tmp_path, form):
    source, copy = tmp_path / "source.img", tmp_path / "copy.img"
    source.write_bytes(os.urandom(1 << 20))
    with Target(f"file:{source}?ro=1"):
        result = run("cp", form.format(source), copy)
    assert result.returncode == 0 and copy.read_bytes() == source.read_bytes(), result.stderr
    with Target(f"file:{source}?ro=1"):
        assert "in use by process" in refused("cp", f"file:{source}?ro=0", copy)  # as it was asked for


# -- limits of file sizes --------------------------------------------------------------------------------------------


LIMITED = ["prlimit", "--fsize=1048576"]  # ulimit -f 1024


def test_a_copy_beyond_a_limit_of_file_sizes_fails_and_says_where(tmp_path):
    source, copy = tmp_path / "source.img", tmp_path / "copy.img"
    source.write_bytes(os.urandom(2 << 20))
    copy.write_bytes(bytes(2 << 20))
    result = subprocess.run([*LIMITED, binary(), "cp", "--depth", "1", source, copy], capture_output=True, text=True,
                            timeout=LIMIT, check=False)
    warning, error = result.stderr.splitlines()
    assert result.returncode == 1
    assert warning == (f"pollux: warning: {copy}: writes behind byte 1048576 will fail, where files may not be larger "
                       "(ulimit -f)")
    assert error == f"pollux: {copy}: writing failed at byte 1048576: Capacity Exceeded (081)"
    assert copy.read_bytes()[:1 << 20] == source.read_bytes()[:1 << 20]


@pytest.mark.parametrize("engine", ["", "EPERM"], ids=["io_uring", "threads"])
def test_writes_beyond_a_limit_of_file_sizes_fail_and_nothing_else(tmp_path, engine):
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(4 << 20))
    seccomp = [sys.executable, str(pathlib.Path(__file__).resolve().parent / "seccomp.py"), engine] if engine else []
    with Target(path, prefix=[*LIMITED, *seccomp]) as target:
        assert wait_until(lambda: "writes behind byte 1048576 will fail" in target.stderr)
        with Controller(target.address, target.nqn, io_queues=1) as controller:
            data = os.urandom(65536)
            for first in (4096, 2048, 2048 - 64):  # behind it, just behind, and across
                expect.status(controller.io.execute(sqe.write(1, first, 128), out=data), Sc.CAPACITY)
            controller.write(1, 2048 - 128, data)
            controller.flush(1)
            assert controller.read(1, 2048 - 128, 128) == data
            assert controller.read(1, 4096, 128) == bytes(65536)


@pytest.mark.parametrize("words", [["perf", "--count", "1", "ram:1M"], ["help"],
                                   ["perf", "--count", "1", "--json", "-", "ram:1M"]],
                         ids=" ".join)
def test_output_beyond_a_limit_of_file_sizes_is_an_error(tmp_path, words):
    with open(tmp_path / "out", "wb") as out:
        result = subprocess.run(["prlimit", "--fsize=16", binary(), *words], stdout=out, stderr=subprocess.PIPE,
                                text=True, timeout=LIMIT, check=False)
    told = "--json -: File too large" if "--json" in words else "standard output could not be written"
    assert result.returncode == 1 and result.stderr == f"pollux: {told}\n"
