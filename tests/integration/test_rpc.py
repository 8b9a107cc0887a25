# SPDX-License-Identifier: BSD-3-Clause
"""The dialect: exchanges recorded from the server that clients know, made again, and what JSON-RPC 2.0 asks."""
import json
import pathlib
import socket

import pytest

from rpc import (INTERNAL, INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND, PARSE_ERROR, WRONG_STATE, Server,
                 free_port, request)

HERE = pathlib.Path(__file__).resolve().parent
EXCHANGES = [json.loads(line) for line in (HERE / "exchanges.jsonl").read_text(encoding="utf-8").splitlines()]

# What clients look for in messages, and other words of the recorded ones.
WORDS = ("No such device", "No such file", "Invalid parameters", "No space left", "File exists", "Invalid argument",
         "not found", "already exists", "Invalid transport type", "Internal error", "Method not found",
         "Invalid request", "Parse error", "may only be called before framework is initialized")
# Lists of what only the other server has.
ITS_OWN = {"rpc_get_methods", "framework_get_subsystems", "log_get_flags", "framework_get_config"}


@pytest.fixture(scope="module")
def server():
    with Server() as running:
        yield running


@pytest.fixture
def client(server):
    with server.client() as connected:
        yield connected


# ---- recorded exchanges

def unlike(want, got, path=""):
    """What is missing in an answer, or of another type, compared with the recorded one."""
    if isinstance(want, dict):
        if not isinstance(got, dict):
            return [f"{path} is no object"]
        return [line for name, value in want.items()
                for line in (unlike(value, got[name], f"{path}.{name}") if name in got else [f"{path}.{name} missing"])]
    if isinstance(want, list):
        if not isinstance(got, list) or (want and not got):
            return [f"{path}: {got!r} is no such array"]
        return [line for each in got for line in unlike(want[0], each, f"{path}[]")] if want else []
    alike = type(want) is type(got) or (want is None and got is None)
    return [] if alike else [f"{path} is {got!r}, and was {want!r}"]


def compare(exchange, got):
    """What is wrong with an answer."""
    want = exchange["response"]
    if isinstance(want, list):
        both = zip(sorted(want, key=lambda a: a["id"]), sorted(got, key=lambda a: a["id"]), strict=True)
        return [line for recorded, each in both for line in compare({"response": recorded}, each)]
    wrong = [] if got["id"] == want["id"] else [f"id {got['id']}"]
    if "error" not in want:
        return wrong + (unlike(want["result"], got["result"]) if "result" in got else [f"refused: {got['error']}"])
    if "error" not in got:
        return [f"not refused: {got}"]
    if got["error"]["code"] != want["error"]["code"]:
        wrong.append(f"code {got['error']['code']}, and was {want['error']}")
    wrong += [f"no {word!r} in {got['error']['message']!r}" for word in WORDS
              if word in want["error"]["message"] and word not in got["error"]["message"]]
    if not got["error"]["message"] or set(got["error"]) - {"code", "message", "data"}:
        wrong.append(f"{got['error']}")
    return wrong


def test_recorded_exchanges_are_answered_alike():
    """In order, on one connection. Fixed ports become free ones, so that tests do not meet."""
    ports = {port: str(free_port()) for port in ("4420", "4421", "4499")}
    bad = []
    with Server() as server, server.client() as client:
        with open(server.folder / "disk.img", "wb") as disk:
            disk.truncate(64 << 20)
        for exchange in EXCHANGES:
            raw = exchange.get("raw") or json.dumps(exchange["request"])
            raw = raw.replace("/data/", f"{server.folder}/")
            for recorded, free in ports.items():
                raw = raw.replace(f'"{recorded}"', f'"{free}"')
            method = exchange.get("request", {}).get("method")
            if method in ITS_OWN and isinstance(exchange["response"].get("result"), (list, dict)):
                exchange = {"response": {"id": exchange["response"]["id"],
                                         "result": type(exchange["response"]["result"])()}}
            bad += [f"{raw[:200]}: {line}" for line in compare(exchange, client.exchange(raw))]
    assert not bad, "\n".join(bad)


def test_dumps_have_the_shape_that_clients_know(client):
    for group in client.call("framework_get_subsystems"):
        assert set(group) == {"subsystem", "depends_on"} and all(isinstance(d, str) for d in group["depends_on"])
        for call in client.call("framework_get_config", name=group["subsystem"]):
            assert isinstance(call["method"], str) and isinstance(call.get("params", {}), dict)
    assert all(isinstance(on, bool) for on in client.call("log_get_flags").values())
    assert {"nvmf", "bdev"} <= {group["subsystem"] for group in client.call("framework_get_subsystems")}


def test_groups_of_a_dump_need_those_before_them_only(client):
    seen = set()
    for group in client.call("framework_get_subsystems"):
        assert set(group["depends_on"]) <= seen, group
        seen.add(group["subsystem"])
    assert [g["subsystem"] for g in client.dump()["subsystems"]] == \
        [g["subsystem"] for g in client.call("framework_get_subsystems")]


# ---- methods

def test_listed_methods_can_be_called_and_described_ones_are_listed(client):
    listed = client.call("rpc_get_methods")
    described = {m["name"]: m for m in client.call("pollux_describe_methods")}
    assert sorted(listed) == sorted(described) and len(set(listed)) == len(listed)
    now = set(client.call("rpc_get_methods", current=True))
    assert now == {name for name, m in described.items() if m["when"] != "before initialisation"}
    aliases = {m["alias"] for m in described.values() if "alias" in m}
    assert set(client.call("rpc_get_methods", include_aliases=True)) == set(listed) | aliases
    assert len(aliases) > 10 and not aliases & set(listed)


def test_an_older_name_is_the_same_method(client):
    assert client.call("get_bdevs") == client.call("bdev_get_bdevs")
    assert client.call("get_rpc_methods") == client.call("rpc_get_methods")


def test_the_discovery_subsystem_is_the_first(client):
    client.call("nvmf_create_subsystem", nqn="nqn.2001-01.example:before-discovery")
    assert client.call("nvmf_get_subsystems")[0]["subtype"] == "Discovery"
    client.call("nvmf_delete_subsystem", nqn="nqn.2001-01.example:before-discovery")
    assert len(client.call("nvmf_get_subsystems")) == 1


def test_what_is_named_for_the_caller_never_collides(client):
    client.call("bdev_malloc_create", name="Malloc1", num_blocks=8, block_size=512)
    names = [client.call("bdev_malloc_create", num_blocks=8, block_size=512) for _ in range(3)]
    assert len({*names, "Malloc1"}) == 4
    for name in [*names, "Malloc1"]:
        client.call("bdev_malloc_delete", name=name)


def test_disks_are_called_by_name_and_uuid_and_each_is_one(client):
    """A name that is another's UUID, or another's UUID, would have one called and another one deleted."""
    client.call("bdev_null_create", name="one", num_blocks=8, block_size=512)
    uuid = client.call("bdev_get_bdevs", name="one")[0]["uuid"]
    for name, more in ((uuid, {}), ("two", {"uuid": uuid}), ("two", {"uuid": uuid.upper()}), ("one", {})):
        code, message = client.refused("bdev_null_create", name=name, num_blocks=8, block_size=512, **more)
        assert code == -17 and "File exists" in message
    assert client.call("bdev_get_bdevs", name=uuid)[0]["name"] == "one"
    client.call("bdev_null_delete", name=uuid)
    assert client.call("bdev_get_bdevs") == []


def test_there_is_one_target(client):
    """Whoever names another one is not answered by what this one has."""
    for method in client.call("pollux_describe_methods"):
        if any(p["name"] == "tgt_name" for p in method["params"]) and method["when"] != "before initialisation":
            code, message = client.refused(method["name"], tgt_name="other")
            assert code == INTERNAL and ("nvmf_tgt" in message or "is missing" in message)
    assert client.refused("nvmf_get_subsystems", tgt_name="other")[0] == INTERNAL
    assert client.refused("nvmf_create_subsystem", nqn="nqn.2001-01.x:a", tgt_name="other")[0] == INTERNAL
    assert len(client.call("nvmf_get_subsystems", tgt_name="nvmf_tgt")) == 1


# ---- ids and notifications

@pytest.mark.parametrize("wanted", ["text", "", "\u00e4\U0001f600\"\\", 0, -1, 2 ** 53, 1.5, None],
                         ids=["text", "empty", "unicode", "0", "-1", "2^53", "1.5", "null"])
def test_an_id_comes_back_as_it_was(client, wanted):
    got = client.exchange(request("spdk_get_version", id=wanted))
    assert got["id"] == wanted and type(got["id"]) is type(wanted) and "result" in got
    got = client.exchange(request("nothing", id=wanted))
    assert got["id"] == wanted and got["error"]["code"] == METHOD_NOT_FOUND


@pytest.mark.parametrize("wanted", [{}, [], True, False])
def test_an_id_of_another_type_is_refused(client, wanted):
    got = client.exchange(request("spdk_get_version", id=wanted))
    assert got["id"] is None and got["error"]["code"] == INVALID_REQUEST


def test_a_notification_is_done_and_not_answered(client):
    client.send_raw(request("bdev_null_create", {"name": "noted", "num_blocks": 8, "block_size": 512}))
    assert client.call("bdev_get_bdevs", name="noted")[0]["num_blocks"] == 8  # the next answer is this one's
    client.send_raw(request("bdev_null_delete", {"name": "noted"}))
    assert client.call("bdev_get_bdevs") == []


def test_a_notification_that_fails_is_told_so(client):
    got = client.exchange(request("bdev_null_delete", {"name": "nothing"}))
    assert got["id"] is None and got["error"]["code"] == -19


# ---- what is no request

@pytest.mark.parametrize("raw, code", [
    ('{"method": "spdk_get_version", "id": 1, "jsonrpc": "1.0"}', INVALID_REQUEST),
    ('{"method": "spdk_get_version", "id": 1, "jsonrpc": 2.0}', INVALID_REQUEST),
    ('{"method": "spdk_get_version", "id": 1, "jsonrpc": null}', INVALID_REQUEST),
    ('{"id": 1}', INVALID_REQUEST),
    ('{}', INVALID_REQUEST),
    ('{"method": null, "id": 1}', INVALID_REQUEST),
    ('{"method": ["spdk_get_version"], "id": 1}', INVALID_REQUEST),
    ('{"method": "spdk_get_version", "id": 1, "params": 5}', INVALID_REQUEST),
    ('{"method": "spdk_get_version", "id": 1, "params": "x"}', INVALID_REQUEST),
    ('{"method": "spdk_get_version", "id": 1, "params": true}', INVALID_REQUEST),
    ('{"method": "", "id": 1}', METHOD_NOT_FOUND),
    ('{"method": "SPDK_GET_VERSION", "id": 1}', METHOD_NOT_FOUND),
    ('{"method": "spdk_get_version ", "id": 1}', METHOD_NOT_FOUND),
    ('{"method": "spdk_get_version", "id": 1, "params": [1]}', INTERNAL),
    ('{"method": "spdk_get_version", "id": 1, "params": {"x": 1}}', INTERNAL),
    ('{"method": "spdk_get_version", "id": 1,}', PARSE_ERROR),
    ("{'method': 'spdk_get_version', 'id': 1}", PARSE_ERROR),
    ('{"method": "spdk_get_version" "id": 1}', PARSE_ERROR),
    ('{"method": "spdk_get_version", "id": 01}', PARSE_ERROR),
    ('{"method": "spdk_get_version", "id": NaN}', PARSE_ERROR),
    ('{"method": "spdk_get_version", "id": 1]', PARSE_ERROR),
    ('{]', PARSE_ERROR),
    ('{"method": "bdev_get_bdevs", "method": "spdk_get_version", "id": 1}', INVALID_PARAMS),
    ('{"method": "bdev_get_bdevs", "id": 1, "params": {"name": "a", "name": "b"}}', INVALID_PARAMS),
    ('{"method": "bdev_get_bdevs", "id": 1, "params": {"timeout": 9223372036854775808}}', INVALID_PARAMS),
])
def test_a_wrong_request_is_refused_and_the_next_one_answered(client, raw, code):
    got = client.exchange(raw)
    assert got["jsonrpc"] == "2.0" and got["error"]["code"] == code and got["error"]["message"], got
    assert client.call("spdk_get_version")


def test_a_request_that_can_be_told_apart_has_its_id_in_the_refusal(client):
    for raw in ('{"method": "bdev_get_bdevs", "id": 7, "params": {"name": "a", "name": "b"}}',
                '{"method": "bdev_get_bdevs", "id": 7, "params": {"timeout": 9223372036854775808}}',
                '{"method": "bdev_get_bdevs", "id": 7, "params": []}', '{"method": "nothing", "id": 7}'):
        got = client.exchange(raw)
        assert got["id"] == 7 and isinstance(got["id"], int), got


@pytest.mark.parametrize("raw", ["7", '"text"', "null", "true", "]", "}", "garbage", "\0", "\xff", ",{}", "//{}\n",
                                 "\ufeff{}"])
def test_what_no_request_begins_with_ends_the_connection(server, raw):
    with server.client() as client:
        got = client.exchange(raw)
        assert got["id"] is None and got["error"]["code"] == PARSE_ERROR
        assert client.at_end()


def test_blanks_are_let_pass(client):
    got = client.exchange(" \n\t\r" * 70000 + request("spdk_get_version", id=1) + "\n" * 10)
    assert got["id"] == 1
    assert client.exchange(request("spdk_get_version", id=2))["id"] == 2


# ---- numbers, and texts

@pytest.mark.parametrize("number, fine", [
    ("8", True), ("8.0", True), ("8e0", True), ("0.8e1", True), ("80e-1", True), ("8.5", False), ("-8", False),
    ('"8"', False), ("true", False), ("null", False), ("[8]", False), ("{}", False), ("1e18", False),
    ("9223372036854775807", False), ("1e999", False),
])
def test_a_number_is_a_whole_one_however_it_is_written(client, number, fine):
    got = client.exchange('{"method": "bdev_null_create", "id": 1, "params": {"name": "n", "block_size": 512, '
                          f'"num_blocks": {number}}}}}')
    if fine:
        assert client.call("bdev_get_bdevs", name="n")[0]["num_blocks"] == 8
        client.call("bdev_null_delete", name="n")
    else:
        assert "error" in got, got


@pytest.mark.parametrize("text", ["\u00e4" * 200, "x" + "\u00e4" * 200, "\U0001f600" * 90, "xyz" + "\U0001f600" * 90,
                                  "a\nb\x1b[31m", "\u202e", "\ufffe", '"\\\''])
def test_a_refusal_is_told_whatever_it_quotes(client, text):
    for answer in (client.answer(text), client.answer("spdk_get_version", {text: 1}),
                   client.answer("bdev_get_bdevs", {"name": text}), client.answer("nvmf_get_subsystems", {"nqn": text}),
                   client.answer("log_set_level", {"level": text}),
                   client.answer("nvmf_create_subsystem", {"nqn": text}), client.answer(
                       "bdev_null_create", {"name": text, "num_blocks": text, "block_size": 512})):
        message = answer["error"]["message"]
        assert len(message) > 20 and "cannot be told" not in message
        assert not any(ord(c) < 32 or ord(c) == 127 for c in message), message


def test_nobody_forges_a_line_of_the_log():
    with Server() as server, server.client() as client:
        client.refused("nvmf_create_subsystem", nqn="nqn.2001-01.x:a\npollux: error: forged\x1b[31m")
        client.refused("bdev_null_create", name="a\npollux: error: forged", num_blocks=8, block_size=512)
        client.call("spdk_get_version")
        server.stop()
        assert "\npollux: error: forged" not in server.stderr and "\x1b" not in server.stderr


# ---- batches

def test_a_batch_is_answered_by_one_array(client):
    got = client.exchange("[" + ",".join(request("spdk_get_version", id=i) for i in range(20)) + "]")
    assert sorted(a["id"] for a in got) == list(range(20)) and all("result" in a for a in got)


def test_a_batch_of_notifications_is_not_answered(client):
    client.send_raw("[" + ",".join(request("spdk_get_version") for _ in range(20)) + "]")
    assert client.answer("spdk_get_version")["result"]


def test_a_batch_answers_what_is_wrong_in_it_one_by_one(client):
    got = client.exchange("[1, [], {}, " + request("spdk_get_version", id=4) + "," + request("spdk_get_version") + ","
                          + request("nothing") + "]")
    assert [a["error"]["code"] for a in got if "error" in a] == \
        [INVALID_REQUEST, INVALID_REQUEST, INVALID_REQUEST, METHOD_NOT_FOUND]
    assert [a["id"] for a in got if "result" in a] == [4] and len(got) == 5


@pytest.mark.parametrize("raw", ["[]", " [ ] "])
def test_an_empty_batch_is_refused(client, raw):
    got = client.exchange(raw)
    assert got["id"] is None and got["error"]["code"] == INVALID_REQUEST


def test_calls_of_a_batch_are_made_in_order(client):
    got = client.exchange("[" + ",".join([
        request("bdev_null_create", {"name": "b", "num_blocks": 8, "block_size": 512}, id=1),
        request("bdev_get_bdevs", {"name": "b"}, id=2), request("bdev_null_delete", {"name": "b"}, id=3),
        request("bdev_get_bdevs", {"name": "b"}, id=4)]) + "]")
    by_id = {a["id"]: a for a in got}
    assert by_id[2]["result"][0]["name"] == "b" and by_id[4]["error"]["code"] == -19


def test_a_batch_before_something_that_is_no_request_is_answered(server):
    with server.client() as client:
        client.send_raw(f'[{request("spdk_get_version", id=1)},{request("spdk_get_version", id=2)}] nonsense')
        got = [client.receive(), client.receive()]
        assert [[1, 2]] == [[a["id"] for a in each] for each in got if isinstance(each, list)]
        assert client.at_end()


# ---- states

def test_methods_wait_for_the_initialisation():
    with Server(options=["--wait-for-rpc"]) as server, server.client() as client, server.client() as other:
        described = {m["name"]: m["when"] for m in client.call("pollux_describe_methods")}
        now = set(client.call("rpc_get_methods", current=True))
        assert now == {name for name, when in described.items() if when != "after initialisation"}
        for name, when in described.items():
            if when == "after initialisation":
                code, message = client.refused(name, nonsense=1)
                assert code == WRONG_STATE and "after framework is initialized" in message
        client.call("iobuf_set_options", small_pool_count=9000)
        other.send("framework_wait_init")
        client.send("framework_wait_init", id="waits")
        client.send("framework_start_init", id="starts")
        assert {client.receive()["id"], client.receive()["id"]} == {"waits", "starts"}
        assert other.receive()["result"] is True
        assert client.call("framework_wait_init") is True
        for name, when in described.items():
            if when == "before initialisation":
                code, message = client.refused(name, nonsense=1)
                assert code == WRONG_STATE and "--wait-for-rpc" in message
        iobuf = client.call("framework_get_config", name="iobuf")
        assert iobuf[0]["params"]["small_pool_count"] == 9000


def test_who_waits_for_the_initialisation_may_go():
    with Server(options=["--wait-for-rpc"]) as server, server.client() as client:
        with server.client() as gone:
            gone.send("framework_wait_init")
            gone.send_raw("[" + request("framework_wait_init", id=1) + "]")
            gone.send_raw(request("framework_wait_init", id=2))
        client.call("framework_start_init")
        assert client.call("bdev_get_bdevs") == []


# ---- its end

@pytest.mark.parametrize("batch", [False, True])
def test_who_asks_for_the_end_is_answered(batch):
    with Server() as server, server.client() as client:
        kill = request("spdk_kill_instance", {"sig_name": "SIGTERM"}, id=1)
        got = client.exchange(f"[{kill},{request('spdk_get_version', id=2)}]" if batch else kill)
        assert (got[0] if batch else got)["result"] is True
        assert client.at_end()
        assert server.process.wait(60) == 0
        server.stop()


def test_a_signal_that_there_is_not_is_refused(client):
    assert client.refused("spdk_kill_instance", sig_name="SIGNOTHING")[0] == INVALID_PARAMS


def test_the_socket_is_for_its_owner_and_goes_at_the_end():
    with Server() as server:
        assert (server.path.stat().st_mode & 0o777, server.path.is_socket()) == (0o600, True)
        assert (server.folder / "control.lock").stat().st_mode & 0o777 == 0o600
        with server.client() as client:
            client.call("spdk_get_version")
            server.stop()
            assert client.at_end()
        assert not list(server.folder.iterdir())
        with pytest.raises(OSError), socket.socket(socket.AF_UNIX) as late:
            late.connect(str(server.path))
