"""docs/migrate/helicone.md is true: what becomes of each host and header is looked at."""

from __future__ import annotations

import re

import pytest

from asgi_llmgate.backends.memory import MemoryLogSink
from asgi_llmgate.core.directive_table import BUILT, SPECS
from asgi_llmgate.core.directives import Directives, parse_directives
from asgi_llmgate.gateway import LLMGate
from asgi_llmgate.providers.registry import load_registry
from tests.asgi import CHAT, call
from tests.conftest import DATA, ROOT
from tests.gateway.conftest import MakeGate, log, make_gate, upstream
from tests.stub_upstream import StubUpstream

__all__ = ["log", "make_gate", "upstream"]

PAGE = (ROOT / "docs" / "migrate" / "helicone.md").read_text()
FACTS = DATA.parent / "facts" / "helicone.md"
GATEWAY_KEY = "lg_of_the_gateway_0123456789"
MEANS = re.compile(r"means `(LLMGate-[A-Za-z-]+)`")


def rows(title: str) -> list[list[str]]:
    section = PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]


HEADERS = [
    (header.strip("`"), value.strip("`").replace("…", "x"), outcome)
    for header, value, outcome in rows("Request headers")
]
HOSTS = [
    (row[0], row[1].strip("`"), row[2])
    for row in rows("Hosts")
    if len(row) == 3 and re.fullmatch(r"[a-z-]+", row[2].strip("| "))
]


@pytest.fixture
def gate(make_gate: MakeGate) -> LLMGate:
    return make_gate()


def is_read_alike(header: str, ours: str, value: str) -> tuple[Directives, Directives]:
    """Return what the two spellings mean, without what tells them apart."""
    theirs = parse_directives({header.lower().encode(): value.encode()})
    own = parse_directives({ours.lower().encode(): value.encode()})
    return theirs, own


@pytest.mark.parametrize(
    ("header", "value", "outcome"), HEADERS, ids=[header for header, _, _ in HEADERS]
)
async def test_a_header_does_what_the_page_says(
    make_gate: MakeGate,
    upstream: StubUpstream,
    log: MemoryLogSink,
    header: str,
    value: str,
    outcome: str,
) -> None:
    keys = f"app:{GATEWAY_KEY}" if outcome == "is a key of this gateway" else None
    gate = make_gate(**({"keys": keys} if keys else {}))
    value = f"Bearer {GATEWAY_KEY}" if keys else value
    own = {} if header in ("Authorization", "x-api-key", "api-key") else {"key": "sk-own"}
    exchange = await call(gate, CHAT, headers={header: value}, **own)  # type: ignore[arg-type]  # one argument by name
    warnings = exchange.headers.get("llmgate-warnings", "")
    sent = upstream.last.headers if upstream.requests else []

    assert not [name for name, _ in sent if name.startswith((b"helicone", b"llmgate"))]
    if outcome == "400":
        assert exchange.status == 400
        assert header.lower() in exchange.body.decode().lower()
        assert upstream.requests == []
        return
    assert exchange.status == 200
    if outcome == "is a key of this gateway":
        assert log.records[0].tenant == "app"
    elif outcome == "is a key of the provider":
        assert upstream.header("authorization") == f"Bearer {value.removeprefix('Bearer ')}"
    elif outcome == "noted":
        assert header.lower() in warnings.lower()
    elif outcome == "not read":
        assert warnings == ""
        assert log.records[0].response_body == exchange.body
    else:
        meant = MEANS.fullmatch(outcome)
        assert meant is not None, outcome
        short = meant[1].removeprefix("LLMGate-").lower()
        if not short.startswith("property-") and SPECS[short].part not in BUILT:
            assert header.lower() in warnings.lower()  # Until that part is built.
            return
        theirs, ours = is_read_alike(header, meant[1], value)
        assert warnings == ""
        for name in GENERAL:
            if name != "rate_limit_policy":  # It keeps which spelling it came in.
                assert getattr(theirs, name) == getattr(ours, name), name


GENERAL = [name for name in Directives.__slots__ if name not in ("uses_helicone", "warnings")]


@pytest.mark.parametrize(("host", "path", "provider"), HOSTS, ids=[host for host, _, _ in HOSTS])
async def test_a_host_is_a_path_here(
    gate: LLMGate, upstream: StubUpstream, host: str, path: str, provider: str
) -> None:
    tail, model = "/chat/completions", "some-model"
    if provider == "anthropic":
        tail = "/v1/messages"
    elif provider == "google":
        tail = "/v1beta/models/gemini-x:generateContent"
    body = {"model": model, "messages": [], "max_tokens": 1}
    exchange = await call(gate, body, path=path + tail, key="sk-own")
    registered = load_registry().get(provider)

    assert registered is not None
    assert exchange.headers["llmgate-provider"] == provider
    known = tuple(registered.endpoints.values())
    assert upstream.last.url.startswith(known)
    assert upstream.last.url.endswith(tail)
    assert "/v1/v1" not in upstream.last.url


def test_every_header_that_helicone_has_is_on_the_page() -> None:
    if not FACTS.exists():
        pytest.skip("no ../shared/data beside which the facts are")
    section = FACTS.read_text().partition("### 1.1")[2].partition("### 1.2")[0]
    named = set(re.findall(r"`((?:Helicone|helicone)-[A-Za-z-]+[A-Za-z])`", section))
    shown = {header.lower() for header, _, _ in HEADERS}
    missing = {name for name in named if name.lower() not in shown}

    assert missing == {"Helicone-Session-"} & missing


def test_every_outcome_is_one_that_is_looked_at() -> None:
    outcomes = {MEANS.sub("means", outcome) for _, _, outcome in HEADERS}

    assert outcomes == {
        "means",
        "noted",
        "400",
        "not read",
        "is a key of this gateway",
        "is a key of the provider",
    }
    assert len(HEADERS) > 60
    assert len(HOSTS) == 22
