"""Virtual keys on real servers: several workers, a revocation under load, secrets that stay so."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from asgi_llmgate.api.models import NewKey
from asgi_llmgate.control import Control
from asgi_llmgate.keyfile import secret_keys
from tests.asgi import CHAT
from tests.provider import Provider
from tests.servers import Gateway, all_at, running_gateway

SECRET_KEY = "5f0e" * 4 + "0123456789abcdef" * 3
POOLED = "sk-canary-pooled-Xq81LmZ02vBn"
WORKERS = 4


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> str | None:
    if request.param == "sqlite":
        return None
    return str(request.getfixturevalue("postgres"))


@pytest.fixture
def four_workers(provider: Provider, tmp_path: Path, database: str | None) -> Iterator[Gateway]:
    env = all_at(provider.url) | {
        "LLMGATE_SECRET_KEY": SECRET_KEY,
        "LLMGATE_PROVIDERS__OPENAI__API_KEY": POOLED,
    }
    if database is not None:
        env["LLMGATE_DATABASE_URL"] = database
    with running_gateway(tmp_path, env, workers=WORKERS) as gateway:
        yield gateway


def control_of(gateway: Gateway, database: str | None = None) -> Control:
    return Control(
        url=database,
        folder=gateway.data_dir,
        secrets=lambda: secret_keys(SECRET_KEY, gateway.data_dir, shared=False),
    )


async def test_a_key_revoked_under_load_is_refused_by_every_worker_within_a_second(
    four_workers: Gateway, database: str | None
) -> None:
    control = control_of(four_workers, database)
    key, token = await control.keys.create(NewKey(name="laptop"))
    answers: list[tuple[float, int]] = []
    revoked_at = float("inf")

    async def load(client: httpx.AsyncClient) -> None:
        headers = {"authorization": f"Bearer {token}"}
        sent_at = 0.0
        # Each connection has a last call after that, however long the machine stood still.
        while sent_at < revoked_at + 1.5:
            sent_at = time.monotonic()
            response = await client.post("/v1/chat/completions", json=CHAT, headers=headers)
            answers.append((sent_at, response.status_code))

    async def revoke() -> None:
        nonlocal revoked_at
        while len(answers) < 200:  # until every worker knows the key
            await asyncio.sleep(0)
        await control.keys.revoke(key.kid)
        revoked_at = time.monotonic()

    clients = [
        httpx.AsyncClient(base_url=four_workers.url, trust_env=False, timeout=20, verify=False)
        for _ in range(12)  # a connection stays with its worker
    ]
    await asyncio.gather(revoke(), *(load(client) for client in clients))
    for client in clients:
        await client.aclose()
    await control.aclose()
    accepted = [sent_at - revoked_at for sent_at, status in answers if status == 200]
    refused = [sent_at - revoked_at for sent_at, status in answers if status == 401]

    assert len(accepted) + len(refused) == len(answers)
    assert min(refused) > -1  # nobody was refused before
    assert max(refused) > 1.4
    assert max(accepted) < 1.0, f"last accepted {max(accepted):.3f} s after"


async def test_a_key_made_anywhere_is_known_everywhere_at_once(
    four_workers: Gateway, database: str | None
) -> None:
    control = control_of(four_workers, database)
    for _ in range(3):
        _, token = await control.keys.create(NewKey(name="laptop", tenant="acme"))
        for _ in range(8):  # a new connection each, so most workers are asked
            response = httpx.post(
                f"{four_workers.url}/v1/chat/completions",
                json=CHAT,
                headers={"authorization": f"Bearer {token}"},
                trust_env=False,
                verify=False,
            )
            assert response.status_code == 200
    await control.aclose()


# --- secrets


@pytest.fixture
def gateway(provider: Provider, tmp_path: Path) -> Iterator[Gateway]:
    env = all_at(provider.url) | {
        "LLMGATE_SECRET_KEY": SECRET_KEY,
        "LLMGATE_ADMIN_TOKEN": "canary-admin-Yt73hGd0Qm5LxW81pRbNcV",
        "LLMGATE_LOG__LEVEL": "debug",
    }
    with running_gateway(tmp_path, env) as gateway:
        yield gateway


def test_no_secret_is_in_a_log_a_file_a_metric_or_an_answer(gateway: Gateway) -> None:
    """Everything is done with canaries, well and badly; then everything that was left is read."""
    api = {"authorization": "Bearer canary-admin-Yt73hGd0Qm5LxW81pRbNcV"}
    http, prefix = gateway.http, "/llmgate/api/v1"
    imported = "sk-helicone-canary1-9dk2j1x-a8s7d6f-p0o9i8u"
    own = "sk-canary-own-Zu62KjF9dQwE"
    provider_key = {"provider": "openai", "key": POOLED}
    made = http.post(f"{prefix}/keys", json={"name": "laptop"}, headers=api).json()
    token, kid = made["token"], made["key"]["kid"]
    bodies = [
        http.post(path, json=body, headers=api).text
        for path, body in (
            (f"{prefix}/provider-keys", provider_key),
            (f"{prefix}/provider-keys", provider_key),
            (f"{prefix}/provider-keys", {"provider": POOLED, "key": POOLED}),
            (f"{prefix}/keys/import", {"name": "moved", "secret": imported}),
            (f"{prefix}/keys/import", {"name": "again", "secret": imported}),
        )
    ]
    rotated = http.post(f"{prefix}/keys/{kid}/rotate", headers=api).json()["token"]
    paths = ("/v1/chat/completions", "/v1/messages", f"{prefix}/whoami", "/nothing")
    for credential in (token, rotated, imported, token[:-1], token[:-8] + "A" * 8, own):
        for headers in (
            {"authorization": f"Bearer {credential}"},
            {"llmgate-auth": credential, "authorization": f"Bearer {own}"},
            {"helicone-auth": f"Bearer {credential}"},
            {"x-api-key": credential, "anthropic-version": "2023-06-01"},
            {"authorization": f"Bearer {credential}", "llmgate-user-id": "x" * 9999},
        ):
            bodies += [http.post(path, json=CHAT, headers=headers).text for path in paths]
        bodies.append(http.get(f"/v1beta/models?key={credential}").text)
    bodies += [
        http.get(path, headers=api).text
        for path in ("/metrics", f"{prefix}/keys", f"{prefix}/provider-keys", f"{prefix}/whoami")
    ]
    http.post(f"{prefix}/keys/{kid}/revoke", headers=api)
    bodies.append(http.post("/v1/chat/completions", headers={"llmgate-auth": rotated}).text)
    gateway.wait_for_records(10)
    bodies.append(json.dumps(gateway.records()))
    gateway.stop()
    files = [path for path in gateway.data_dir.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"control.sqlite", "journal.sqlite"}
    places = {str(path.name): path.read_bytes() for path in files}
    places |= {"output": gateway.output.encode(), "answers": "\n".join(bodies).encode()}

    secrets = (
        token,
        rotated,
        imported,
        own,
        POOLED,
        "canary-admin-Yt73hGd0Qm5LxW81pRbNcV",
        SECRET_KEY,
    )
    found = {
        (place, secret)
        for place, content in places.items()
        for secret in secrets
        for piece in (secret, secret[14:-8])
        if piece.encode() in content
    }
    assert found == set()


async def test_keys_seen_before_work_while_the_store_is_gone(gateway: Gateway) -> None:
    """The store is replaced by something that is no database."""
    control = control_of(gateway)
    _, seen = await control.keys.create(NewKey(name="seen"))
    _, unseen = await control.keys.create(NewKey(name="unseen"))
    await control.aclose()

    def status(token: str) -> int:
        headers = {"llmgate-auth": token, "authorization": "Bearer sk-own"}
        return gateway.http.post("/v1/chat/completions", json=CHAT, headers=headers).status_code

    assert status(seen) == 200
    (gateway.data_dir / "control.sqlite").write_bytes(b"no database" * 1000)
    gateway.http.get("/healthz")
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        assert status(seen) == 200

    assert status(unseen) == 503
    assert gateway.output.count("the store is down") == 1
