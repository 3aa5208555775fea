from __future__ import annotations

import asyncio
import base64
import hmac
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from asgi_llmgate.backends.limits_memory import MemoryLimitStore
from asgi_llmgate.backends.webhook import PAUSES_S, BadWebhookError, Webhooks, check_webhook
from asgi_llmgate.budgets import BudgetAlerts
from asgi_llmgate.core.addresses import is_public
from asgi_llmgate.core.budgets import Budget, Period

SECRET = b"s" * 32
OWN = frozenset({"127.0.0.1", "hooks.test"})

PRIVATE = [
    *("127.0.0.1", "127.1.2.3", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1"),
    *("169.254.169.254", "100.64.0.1", "100.100.100.200", "192.0.0.192", "198.18.0.1"),
    *("224.0.0.1", "240.0.0.1", "255.255.255.255", "168.63.129.16", "192.0.2.1", "203.0.113.9"),
    *("198.51.100.7", "192.88.99.1"),
    *("::", "::1", "fe80::1", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1"),
    *("100::1", "3fff::1", "2001:10::1", "5f00::1", "fe80::1%eth0", "2606:4700::1111%1"),
    *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:8.8.8.8", "::127.0.0.1"),
    *("::8.8.8.8", "::ffff:0:127.0.0.1", "2002:7f00:1::", "2002:a9fe:a9fe::1"),
    *("64:ff9b::127.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::8.8.8.8", "64:ff9b::10.0.0.1"),
    "2001:0:7f00:1::1",  # Teredo: its server
    "2001:0:4136:e378:8000:63bf:80ff:fffe",  # Teredo: its client is 127.0.0.1
    "2606:4700::5efe:127.0.0.1",  # ISATAP
    *("2606:4700::200:5efe:10.0.0.1", "localhost", "", "1", "0x7f.1", "127.1", "2130706433"),
]
PUBLIC = ["8.8.8.8", "1.1.1.1", "93.184.216.34", "2606:4700::1111", "64:ff9b::8.8.8.8"]


@pytest.mark.parametrize("address", PRIVATE)
def test_what_is_not_on_the_internet_is_known(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is_on_the_internet_is_known(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/",
        "https://user@example.com/",
        "https://user:pass@example.com/",
        "https://example.com:22/",
        "https://example.com/#x",
        "https://127.0.0.1/",
        "https:///x",
        "ftp://example.com/",
        "https://exa mple.com/",
        "https://example.com/\r\nX: y",
        "https://example.com:99999/",
        "nonsense",
    ],
)
def test_a_bad_url_is_refused_when_it_is_set(url: str) -> None:
    with pytest.raises(BadWebhookError):
        check_webhook(url)


def test_an_operators_own_host_may_be_private_and_without_tls() -> None:
    assert check_webhook("http://127.0.0.1:9000/a?b", OWN) == ("127.0.0.1", 9000, "/a?b")


@dataclass
class Receiver:
    """Takes posts on a real socket, and answers what it is told."""

    statuses: list[int] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?x=1"

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = int(head.lower().partition("content-length: ")[2].partition("\r")[0])
        self.heads.append(head)
        self.bodies.append(await reader.readexactly(length))
        status = self.statuses.pop(0) if self.statuses else 204
        writer.write(f"HTTP/1.1 {status} X\r\nLocation: http://127.0.0.1:1/\r\n\r\n".encode())
        await writer.drain()
        writer.close()


@asynccontextmanager
async def receiving(*statuses: int) -> AsyncIterator[Receiver]:
    receiver = Receiver(list(statuses))
    server = await asyncio.start_server(receiver.answer, "127.0.0.1", 0)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        await server.wait_closed()


class Sleeps(list[float]):
    async def __call__(self, seconds: float) -> None:
        self.append(seconds)


async def test_a_post_is_signed_as_the_standard_says() -> None:
    async with receiving() as receiver:
        taken = await Webhooks(SECRET, allowed_hosts=OWN).post(receiver.url, {"type": "x"})
    head, body = receiver.heads[0], receiver.bodies[0]
    values = dict(line.split(": ", 1) for line in head.strip().split("\r\n")[1:])
    signed = f"{values['webhook-id']}.{values['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.digest(SECRET, signed, "sha256")).decode()

    assert taken
    assert head.startswith("POST /hook?x=1 HTTP/1.1\r\n")
    assert values["webhook-signature"] == f"v1,{expected}"
    assert json.loads(body) == {"type": "x"}


async def test_a_post_that_fails_is_tried_again_and_keeps_its_id() -> None:
    sleeps = Sleeps()
    async with receiving(500, 429, 200) as receiver:
        hooks = Webhooks(SECRET, allowed_hosts=OWN, sleep=sleeps)
        taken = await hooks.post(receiver.url, {})
    ids = {head.partition("webhook-id: ")[2].partition("\r")[0] for head in receiver.heads}

    assert taken
    assert sleeps == list(PAUSES_S[:2])
    assert len(ids) == 1


@pytest.mark.parametrize("status", [400, 404, 301, 302])
async def test_a_refusal_is_final_and_a_redirect_is_one(status: int) -> None:
    sleeps = Sleeps()
    async with receiving(status) as receiver:
        hooks = Webhooks(SECRET, allowed_hosts=OWN, sleep=sleeps)
        taken = await hooks.post(receiver.url, {})

    assert not taken
    assert hooks.failed == 1
    assert len(receiver.heads) == 1
    assert sleeps == []


async def test_no_connection_is_made_to_a_host_with_one_private_address() -> None:
    connected: list[str] = []

    async def resolve(host: str, port: int) -> list[str]:
        connected.append(host)
        return ["93.184.216.34", "127.0.0.1"]

    async with receiving() as receiver:
        hooks = Webhooks(SECRET, resolve=resolve, sleep=Sleeps())
        taken = await hooks.post("https://evil.test/", {})

    assert not taken
    assert connected == ["evil.test"]
    assert receiver.heads == []


async def test_a_name_is_resolved_anew_and_checked_at_every_attempt() -> None:
    """A resolver that answers differently the second time gets nobody anywhere."""
    answers = [[], ["10.0.0.1"], ["93.184.216.34"]]

    async def resolve(host: str, port: int) -> list[str]:
        return answers.pop(0)

    hooks = Webhooks(SECRET, resolve=resolve, sleep=Sleeps())

    assert not await hooks.post("https://flip.test/", {})
    assert answers == [["93.184.216.34"]]


async def test_the_connection_goes_to_the_address_that_was_checked() -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    async with receiving() as receiver:
        hooks = Webhooks(SECRET, allowed_hosts=OWN, resolve=resolve)
        # No resolver on earth knows this name, so only the address can have been used.
        taken = await hooks.post(f"http://hooks.test:{receiver.port}/", {})

    assert taken
    assert f"Host: hooks.test:{receiver.port}" in receiver.heads[0]


def test_no_proxy_of_the_environment_is_used() -> None:
    code = """
import asyncio, os
os.environ.update(HTTP_PROXY="http://127.0.0.1:9", http_proxy="http://127.0.0.1:9")
from tests.limits.test_webhook import *
asyncio.run(test_a_post_is_signed_as_the_standard_says())
"""
    subprocess.run([sys.executable, "-c", code], check=True)


async def test_a_soft_threshold_is_told_once_per_period() -> None:
    posted: list[tuple[str, dict[str, object]]] = []

    async def post(url: str, event: dict[str, object]) -> bool:
        posted.append((url, event))
        return True

    budget = Budget("b", "user", 10 * 10**9, Period.MONTH, soft_nanousd=8 * 10**9)
    store = MemoryLimitStore()
    alerts = BudgetAlerts(store, lambda: [budget], post, url="https://hooks.test/")
    key = "budget|b|2026-01-01T00:00Z|t/ada"
    for total in (7, 8, 9):
        alerts.on_spent(key, total * 10**9)
    alerts.on_spent(key.replace("01-01", "02-01"), 9 * 10**9)
    await alerts.aclose()
    other = BudgetAlerts(store, lambda: [budget], post, url="https://hooks.test/")
    other.on_spent(key, 9 * 10**9)
    await other.aclose()

    data = [event["data"] for _, event in posted]
    assert len(posted) == 2
    assert data[0] == {
        "budget": "b",
        "per": "user",
        "subject": "t/ada",
        "period": "month",
        "period_begins": "2026-01-01T00:00Z",
        "spent_usd": "8",
        "soft_usd": "8",
        "limit_usd": "10",
        "hard": True,
    }
