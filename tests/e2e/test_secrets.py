"""No secret is left where somebody else may find it."""

from __future__ import annotations

import json
from pathlib import Path

from tests import wire
from tests.e2e.conftest import Calls
from tests.e2e.keys import ADMIN_TOKEN, CALLER_KEY, CANARIES, COOKIE, GATEWAY_KEY, MESSAGE, post
from tests.provider import Answer, Provider
from tests.servers import Gateway


def test_no_secret_is_left_anywhere(keyed: Gateway, keyed_calls: Calls, provider: Provider) -> None:
    """Not in files of the data folder (database, WAL and all), output, metrics or records."""

    def refuse(_: object) -> Answer:
        return Answer([wire.dumps({"error": {"message": " ".join(CANARIES)}})], 401)

    cookie = f"session={COOKIE}"
    post(keyed, authorization=f"Bearer {GATEWAY_KEY}", cookie=cookie)
    post(keyed, LLMGate_Auth=GATEWAY_KEY, authorization=f"Bearer {CALLER_KEY}")
    post(keyed, LLMGate_Auth=f"{GATEWAY_KEY}x", authorization=f"Bearer {CALLER_KEY}")
    post(keyed, f"/v1beta/models/gemini-2.5-flash:generateContent?key={GATEWAY_KEY}", {})
    post(keyed, "/v1/messages", MESSAGE, x_api_key=GATEWAY_KEY, cookie=cookie)
    post(keyed, "/nowhere", authorization=f"Bearer {CALLER_KEY}")
    provider.default = refuse
    post(keyed, authorization=f"Bearer {GATEWAY_KEY}")
    keyed_calls.new(6)  # An unknown path is no call.
    metrics = keyed.http.get("/metrics", headers={"authorization": f"Bearer {ADMIN_TOKEN}"})
    shown = [
        keyed.output,
        metrics.text,
        keyed.cli("doctor").stdout,
        json.dumps(keyed.records()),
    ]

    assert metrics.status_code == 200
    assert {(canary, text[:80]) for canary in CANARIES for text in shown if canary in text} == set()
    assert {
        (canary, file.name) for file, text in files(keyed) for canary in CANARIES if canary in text
    } == set()


def files(gateway: Gateway) -> list[tuple[Path, str]]:
    found = [file for file in gateway.data_dir.rglob("*") if file.is_file()]
    assert [file for file in found if "sqlite" in file.name or "journal" in file.name]
    return [(file, file.read_bytes().decode("latin-1")) for file in found]
