# SPDX-License-Identifier: BSD-3-Clause
"""The command lines of all subcommands: whatever is wrong with one is told in one true line, with status 2."""

import subprocess

import pytest

from target import Target, binary

REFUSED = 2
LIMIT = 30
HOSTNQN = "nqn.2014-08.org.nvmexpress:uuid:00000000-0000-4000-8000-706f6c6c7578"
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


# -- addresses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address,words", [
    ("224.0.0.1:4420", "224.0.0.1 is a multicast address"), ("[ff02::1]:4420", "ff02::1 is a multicast address"),
    ("255.255.255.255", "255.255.255.255 is the broadcast address"),
    # Of a network, which only the kernel knows.
    ("127.255.255.255:4420", "127.255.255.255:4420 is a broadcast address"),
    ("[fe80::1]:4420", "fe80::1 is a link-local address"), ("[fe80::1%nosuch]:4420", "no such network interface"),
    ("[::1%lo]:4420", "only link-local"), ("[::1", "[::1 has no ]"), ("[::1:4420", "[::1:4420 has no ]"),
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


# -- identities ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("disk", ["ram:1M", "null:1M"])
def test_the_uuid_of_zeroes_is_refused(disk):
    assert "stands for none" in refused("serve", f"{disk}?uuid=00000000-0000-0000-0000-000000000000")


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
    ("null:1G?block", "null:1G: 'block' is no setting; one looks like block=4096"),
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
