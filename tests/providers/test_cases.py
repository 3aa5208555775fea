"""Golden cases: what each format looks like on either side of the inner form.

Written from the specifications before the code. A case states only what it is about: requests
are compared with the same request without the case's fields.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from asgi_llmgate.core.eventstream import encode_message
from asgi_llmgate.core.json import dumps
from asgi_llmgate.errors import TranslationError
from asgi_llmgate.providers.capabilities import capabilities_of
from asgi_llmgate.providers.inner import Call, Encoded, TargetInfo
from asgi_llmgate.providers.provider_errors import read_error
from asgi_llmgate.providers.translate import INBOUND, OUTBOUND
from tests.providers.accumulate import accumulate

Case = dict[str, Any]

FILES = sorted((Path(__file__).parent / "cases").glob("*.json"))
HI = {"model": "caller's name", "messages": [{"role": "user", "content": "Hi"}]}


def cases(direction: str, kind: str) -> list[Any]:
    found = []
    for path in FILES:
        if path.stem.endswith(f".{direction}"):
            file = json.loads(path.read_text("utf-8"))
            for case in file.get(kind, ()):
                common = {k: v for k, v in file.items() if not isinstance(v, list)}
                found.append(pytest.param(common | case, id=f"{path.stem}: {case['row']}"))
    return found


def difference(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return what `one` has other than `other`; None where it lacks something."""
    names = one.keys() | other.keys()
    return {name: one.get(name) for name in names if one.get(name) != other.get(name)}


def call_of(case: Case) -> Call:
    request = {**HI, **case.get("request", {})}
    names = case.get("tool_names", {})
    return Call("1-2", 1700000000, "m", request, case.get("json_tool"), names)


def encode(case: Case, chat: dict[str, Any], *, strict: bool = False) -> Encoded:
    model = case["model"]
    target = TargetInfo(model, case["provider"], capabilities_of(model), strict=strict)
    return OUTBOUND[case["format"]].encode_request({**HI, **chat}, target)


@pytest.mark.parametrize("case", cases("out", "requests"))
def test_a_request_goes_out_as_the_provider_wants_it(case: Case) -> None:
    if "error" in case:
        with pytest.raises(TranslationError) as refused:
            encode(case, case["chat"])
        assert refused.value.param == case["error"]
        return
    encoded = encode(case, case["chat"])

    if "body" in case:
        assert encoded.body == case["body"]
    else:
        assert difference(encoded.body, encode(case, {}).body) == case["sent"]
    assert encoded.dropped == case.get("dropped", [])
    assert encoded.json_tool == case.get("json_tool")
    assert encoded.tool_names == case.get("tool_names", {})
    if "path" in case:
        assert encoded.path == case["path"]


@pytest.mark.parametrize(
    "case", [c for c in cases("out", "requests") if c.values[0].get("dropped")]
)
def test_what_is_dropped_is_an_error_when_strict(case: Case) -> None:
    with pytest.raises(TranslationError) as refused:
        encode(case, case["chat"], strict=True)

    assert refused.value.status == 400
    assert refused.value.param in case["dropped"]
    assert f"`{refused.value.param}`" in str(refused.value)


def test_encoding_does_not_change_the_request() -> None:
    for parameter in cases("out", "requests"):
        case = parameter.values[0]
        before = json.dumps(case["chat"])
        if "error" not in case:
            encode(case, case["chat"])
        assert json.dumps(case["chat"]) == before, case["row"]


@pytest.mark.parametrize("case", cases("out", "responses"))
def test_a_response_comes_in(case: Case) -> None:
    response = OUTBOUND[case["format"]].decode_response(case["body"], call_of(case))

    expected = {"index": 0, **case["choice"]}
    assert response["choices"][0] == expected
    if "usage" in case:
        assert response["usage"] == case["usage"]


@pytest.mark.parametrize("case", cases("out", "streams"))
def test_a_stream_comes_in(case: Case) -> None:
    raw = stream_bytes(case)
    for size in (len(raw), 1, 7):
        decoder = OUTBOUND[case["format"]].stream_decoder(call_of(case))
        chunks = []
        for start in range(0, len(raw), size):
            chunks += decoder.feed(raw[start : start + size])
        chunks += decoder.close()
        if "error" in case:
            error = read_error(chunks[-1], None)
            assert {name: getattr(error, name) for name in case["error"]} == case["error"]
            assert not decoder.complete or case.get("after_finish")
            continue
        response = accumulate(chunks)

        assert decoder.complete == case.get("complete", True)
        assert response["choices"] == ([{"index": 0, **case["choice"]}] if case["choice"] else [])
        if "usage" in case:
            assert response["usage"] == case["usage"]


def stream_bytes(case: Case) -> bytes:
    if case["format"] == "bedrock-converse":
        return b"".join(
            encode_message(
                {":message-type": kind, f":{kind}-type": name, ":content-type": "application/json"},
                dumps(payload),
            )
            for kind, name, payload in case["frames"]
        )
    if "lines" in case:
        lines: list[str] = case["lines"]
        return "\n".join(lines).encode()
    events = [b"data: " + dumps(payload) + b"\n\n" for payload in case["payloads"]]
    end: str = case.get("end", "")
    return b"".join(events) + end.encode()


@pytest.mark.parametrize("case", cases("in", "requests"))
def test_a_request_comes_in(case: Case) -> None:
    dialect = INBOUND[case["format"]]
    if "error" in case:
        with pytest.raises(TranslationError) as refused:
            dialect.decode_request({**case["base"], **case["body"]}, model=case.get("path_model"))
        assert refused.value.param == case["error"]
        return
    given = {**case["base"], **case["body"]}
    before = json.dumps(given)
    request = dialect.decode_request(given, model=case.get("path_model"))
    plain = dialect.decode_request(case["base"], model=case.get("path_model"))

    assert difference(request, plain) == case["chat"]
    assert json.dumps(given) == before


@pytest.mark.parametrize("case", cases("in", "responses"))
def test_a_response_goes_out_in_the_callers_dialect(case: Case) -> None:
    dialect = INBOUND[case["format"]]
    call = call_of(case)
    plain = {"index": 0, "message": {"role": "assistant", "content": "Hello"}}
    base = {"id": "x", "model": "m", "choices": [plain | {"finish_reason": "stop"}]}
    given = base | {"choices": [{"index": 0, "finish_reason": "stop", **case["choice"]}]}
    if "usage" in case:
        given["usage"] = case["usage"]
    answer = dialect.encode_response(given, call)

    if "answer" in case:
        assert answer == case["answer"]
    else:
        assert difference(answer, dialect.encode_response(base, call)) == case["sent"]


@pytest.mark.parametrize("case", cases("in", "streams"))
def test_a_stream_goes_out_in_the_callers_dialect(case: Case) -> None:
    encoder = INBOUND[case["format"]].stream_encoder(call_of(case))
    raw = b"".join(encoder.feed(chunk) for chunk in case["chunks"])
    if "failure" in case:
        raw += encoder.error(read_error(case["failure"], None))
    else:
        raw += encoder.close()

    assert [line for line in raw.decode().split("\n") if line] == [
        line if isinstance(line, str) else "data: " + dumps(line).decode() for line in case["lines"]
    ]
