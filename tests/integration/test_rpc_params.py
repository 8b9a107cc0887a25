# SPDX-License-Identifier: BSD-3-Clause
"""Every method with every parameter wrong in every way, made from what the server says of them itself."""
import json
import re

import pytest

from rpc import INTERNAL, INVALID_PARAMS, WRONG_STATE, RpcError, Server, describe, request

# What is answered by these is about other things than parameters.
WRONG_TYPES = {
    "boolean": [0, 1, "true", None, [], {}],
    "number": ["1", True, None, [], {}, 1.5, "", [1]],
    "string": [1, True, None, [], {}, 1.5],
    "uuid": [1, True, None, [], {}, "", "nothing", "11111111-2222-3333-4444-55555555555",
             "11111111-2222-3333-4444-5555555555555", "1111111122223333444455555555555g"],
    "enum": [1, True, None, [], {}, "", "nothing", "|"],
    "array": [1, True, None, {}, "x", [1], [None], [[]], ["x", 1]],
    "numbers": [1, True, None, {}, "x", ["1"], [None], [[]], [-1], [1.5], [True], [1, "x"]],
    "flags": [1, True, None, {}, "x", [1], [None], [[]], ["nothing"], [""]],
    "object": [1, True, None, [], "x"],
    "map": [1, True, [], "x", {"a": 1}, {"a": None}, {"a": {}}],
}
RANGE = re.compile(r"a number from (\d+) to (\d+)$")
UP_TO = re.compile(r"a number up to (\d+)$")
BYTES = re.compile(r"a text of (\d+) to (\d+) bytes$")
NOT_TO_BE_CALLED = {"spdk_kill_instance"}  # even rightly


def kind_of(param):
    if param["type"] == "string" and "values" in param:
        return "enum"
    if param["type"] == "array" and "values" in param:
        return "flags"
    if param["takes"] == "an array of numbers":
        return "numbers"
    if param["takes"] == "an object of texts":
        return "map"
    return param["type"]


def fitting(param):
    """A value that the table takes, and that means nothing."""
    kind, takes = kind_of(param), param["takes"]
    if kind == "boolean":
        return False
    if kind == "number":
        return int(RANGE.match(takes)[1]) if RANGE.match(takes) else 0
    if kind == "uuid":
        return "11111111-2222-3333-4444-555555555555"
    if kind in ("enum", "flags"):
        value = param["values"].split("|")[0]
        return value if kind == "enum" else [value]
    if kind == "array":
        return ["nothing"]
    if kind == "numbers":
        return [1]
    if kind == "map":
        return {"any": "thing"}
    if kind == "object":
        return {member["name"]: fitting(member) for member in param["members"] if member["required"]}
    return "nothing"


def required(params):
    return {param["name"]: fitting(param) for param in params if param["required"]}


def beyond(param):
    """Values just beyond its limits."""
    takes = param["takes"]
    if RANGE.match(takes):
        low, high = map(int, RANGE.match(takes).groups())
        return [low - 1, *([high + 1] if high < 2 ** 63 - 1 else []), -2 ** 63]
    if UP_TO.match(takes):
        high = int(UP_TO.match(takes)[1])
        return [high + 1, -high - 2] if high < 2 ** 63 - 1 else []
    if BYTES.match(takes):
        low, high = map(int, BYTES.match(takes).groups())
        return ["x" * (high + 1), *(["x" * (low - 1)] if low else [])]
    return []


def at_limits(param):
    takes = param["takes"]
    if RANGE.match(takes):
        return [min(int(number), 2 ** 63 - 1) for number in RANGE.match(takes).groups()]
    if UP_TO.match(takes):
        high = int(UP_TO.match(takes)[1])
        return [min(high, 2 ** 63 - 1), max(-high - 1, -2 ** 63)]
    if BYTES.match(takes):
        return ["x" * int(number) for number in BYTES.match(takes).groups()]
    kind = kind_of(param)
    if kind == "boolean":
        return [True, False]
    if kind in ("enum", "flags"):
        values = param["values"].split("|")
        return values if kind == "enum" else [values, []]
    return ["", "x" * 5000, "\u00e4"] if kind == "string" else []


def wrapped(params, path, value):
    """Parameters of which one is value: path is its name, and those of the objects around it."""
    given = required(params)
    at = given
    for name in path[:-1]:
        param = next(p for p in params if p["name"] == name)
        at = at.setdefault(name, fitting(param))
        params = param["members"]
    if value is MISSING:
        at.pop(path[-1], None)
    else:
        at[path[-1]] = value
    return given


MISSING = object()


def leaves(params, path=()):
    """(path, parameter) of all, and of those within objects."""
    for param in params:
        yield (*path, param["name"]), param
        if kind_of(param) == "object":
            yield from leaves(param["members"], (*path, param["name"]))


def wrong_calls(method):
    """(parameters, name that the answer must say, codes that it may have)"""
    params = method["params"]
    for path, param in leaves(params):
        if param["required"]:
            yield wrapped(params, path, MISSING), path[-1], [INTERNAL]
        for value in WRONG_TYPES[kind_of(param)]:
            yield wrapped(params, path, value), path[-1], [INTERNAL]
        for value in beyond(param):
            yield wrapped(params, path, value), path[-1], [INTERNAL, INVALID_PARAMS, -22]
        if kind_of(param) == "object":
            unknown = wrapped(params, path, fitting(param) | {"nonsense": 1})
            yield unknown, "nonsense", [INTERNAL]
    yield required(params) | {"nonsense": None}, "nonsense", [INTERNAL]
    yield required(params) | {"": 1}, "no parameter", [INTERNAL]
    yield [], "by name", [INTERNAL]
    yield list(required(params).values()), "by name", [INTERNAL]


def doubled(method):
    """The request, as text, with each parameter there twice."""
    for path, param in leaves(method["params"]):
        if len(path) == 1:
            value = json.dumps(fitting(param))
            yield f'{{"id": 1, "method": "{method["name"]}", "params": {{"{path[0]}": {value}, "{path[0]}": {value}}}}}'


def check_refused(client, name, params, word, codes):
    answer = client.answer(name, params)
    assert "error" in answer, (name, params, answer)
    code, message = answer["error"]["code"], answer["error"]["message"]
    assert code in codes, (name, params, answer)
    assert word in message and len(message) > 20 and "\n" not in message, (name, params, answer)


def check_method(client, method):
    for params, word, codes in wrong_calls(method):
        check_refused(client, method["name"], params, word, codes)
    for raw in doubled(method):
        answer = client.exchange(raw)
        assert (answer["id"], answer["error"]["code"]) == (1, INVALID_PARAMS), (raw, answer)


@pytest.mark.parametrize("state", ["before initialisation", "after initialisation"])
def test_wrong_parameters_are_refused_and_change_nothing(state):
    """By the code that clients know, in a sentence that says which one is wrong."""
    early = state == "before initialisation"
    with Server(options=["--wait-for-rpc"] if early else []) as server, server.client() as client:
        methods = describe(client)
        before = client.groups()
        for name, method in methods.items():
            if method["when"] in ("always", state):
                check_method(client, method)
                assert client.groups() == before, name
            else:
                check_refused(client, name, required(method["params"]), "framework is initialized", [WRONG_STATE])
        assert client.groups() == before and len(methods) > 60


def test_values_at_their_limits_are_of_the_right_kind():
    """Whatever comes of them: they are not refused for what they are, and nothing breaks."""
    with Server() as server, server.client() as client:
        for name, method in describe(client).items():
            if name in NOT_TO_BE_CALLED or method["when"] == "before initialisation":
                continue
            for path, param in leaves(method["params"]):
                if "timeout" in path[-1]:
                    continue  # who asks for an hour gets one
                for value in at_limits(param):
                    answer = client.answer(name, wrapped(method["params"], path, value))
                    message = answer.get("error", {}).get("message", "")
                    assert f"{path[-1]} is {json.dumps(value)[:50]}" not in message, (name, path, value, answer)
        assert client.call("spdk_get_version")


def test_a_dump_of_what_limits_allow_comes_back():
    """The same, and whatever of it was done is in the dump, with which the next one begins."""
    with Server(options=["--wait-for-rpc"]) as server, server.client() as client:
        methods = describe(client)
        for early in (True, False):
            for name, method in methods.items():
                if early != (method["when"] == "before initialisation") or name in NOT_TO_BE_CALLED \
                        or name == "framework_start_init":
                    continue
                for path, param in leaves(method["params"]):
                    for value in () if "timeout" in path[-1] else at_limits(param):
                        client.answer(name, wrapped(method["params"], path, value))
            if early:
                client.call("framework_start_init")
        saved = client.dump()
        config = server.folder / "config"
        config.write_text(json.dumps(saved))
        server.stop()
        server.options = ["-r", str(server.path), "-c", str(config)]
        server.start()
        with server.client() as again:
            assert again.dump() == saved


def test_parameters_that_mean_nothing_here_are_taken_and_kept():
    with Server() as server, server.client() as client:
        for name, method in describe(client).items():
            for path, param in leaves(method["params"]):
                if not param.get("inert") or method["when"] == "before initialisation":
                    continue
                params = wrapped(method["params"], path, fitting(param))
                try:
                    client.call_with(name, params)
                except RpcError as error:
                    assert f"no parameter {path[-1]}" not in error.message
        client.call("bdev_malloc_create", name="m", num_blocks=8, block_size=512, optimal_io_boundary=7, numa_id=1)
        made = next(call["params"] for group in client.dump()["subsystems"] for call in group["config"]
                    if call.get("params", {}).get("name") == "m")
        assert (made["optimal_io_boundary"], made["numa_id"]) == (7, 1)


def test_null_parameters_are_none():
    with Server() as server, server.client() as client:
        assert client.call_with("bdev_get_bdevs", None) == []
        assert client.exchange('{"method": "bdev_get_bdevs", "id": 1, "params": null}')["result"] == []
        assert client.exchange(request("bdev_get_bdevs", {}, id=2))["result"] == []
