"""`LimitsMiddleware` alone, in front of an app of somebody's own."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from asgi_llmgate.backends.limits_memory import MemoryLimitStore
from asgi_llmgate.core.budgets import Budget, Period
from asgi_llmgate.core.limits import Policy, parse_policies
from asgi_llmgate.middleware.limits import LimitsMiddleware
from asgi_llmgate.types import Usage
from tests.asgi import CHAT, Exchange, call

CENT = 10_000_000


class Clock:
    """Nanoseconds that a test moves."""

    def __init__(self) -> None:
        self.now_ns = 1_700_000_000 * 10**9

    def __call__(self) -> int:
        return self.now_ns

    def pass_s(self, seconds: float) -> None:
        self.now_ns += int(seconds * 10**9)


class App:
    """An endpoint that answers `usage` tokens; `chunks` makes it a stream."""

    def __init__(self, prompt: int = 10, output: int = 5) -> None:
        self.usage: dict[str, int] | None = {"prompt_tokens": prompt, "completion_tokens": output}
        self.chunks: Sequence[bytes] | None = None
        self.calls = 0
        self.hold: asyncio.Event | None = None
        self.fails: Exception | None = None
        self.headers: list[tuple[bytes, bytes]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.calls += 1
        while (await receive()).get("more_body"):
            pass
        if self.hold is not None:
            await self.hold.wait()
        if self.fails is not None:
            raise self.fails
        if self.chunks is not None:
            start = {"type": "http.response.start", "status": 200}
            await send({**start, "headers": [(b"content-type", b"text/event-stream")]})
            for chunk in self.chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
            return
        body: dict[str, Any] = {
            "object": "chat.completion",
            "model": "gpt-4o",
            "choices": [{"message": {"role": "assistant", "content": "hello " * 10}}],
        }
        if self.usage is not None:
            body["usage"] = self.usage
        headers = [(b"content-type", b"application/json"), *self.headers]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(body).encode()})


def price(provider: str, model: str, usage: Usage) -> int:
    """A cent for ten tokens."""
    return (usage.input_tokens + usage.output_tokens) * CENT // 10


@pytest.fixture
def clock() -> Clock:
    return Clock()


def limited(app: App, clock: Clock, rates: str = "", **arguments: Any) -> LimitsMiddleware:
    policies: tuple[Policy, ...] = parse_policies(rates, source="settings") if rates else ()
    store = MemoryLimitStore(clock_ns=clock, wall_clock_ns=clock)
    return LimitsMiddleware(app, store=store, policies=policies, price=price, **arguments)


async def statuses(app: LimitsMiddleware, count: int, **arguments: Any) -> list[int]:
    return [(await call(app, **arguments)).status for _ in range(count)]


CHUNKS = [
    b'data: {"choices":[{"delta":{"content":"' + b"word " * 20 + b'"}}],"model":"gpt-4o"}\n\n'
] * 5


async def test_a_call_beyond_the_limit_is_a_429_that_says_when_to_come_back(clock: Clock) -> None:
    app = App()
    limits = limited(app, clock, "2;w=60")
    allowed = await statuses(limits, 2)
    refused = await call(limits)
    clock.pass_s(30)
    later = await call(limits)

    assert allowed == [200, 200]
    assert refused.status == 429
    assert refused.json()["error"]["code"] == "rate_limited"
    assert refused.headers["retry-after"] == "30"
    assert refused.headers["llmgate-error"] == "gateway"
    assert refused.headers["llmgate-ratelimit-limit"] == "2"
    assert refused.headers["llmgate-ratelimit-remaining"] == "0"
    assert refused.headers["llmgate-ratelimit-reset"] == "60"
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert refused.headers["x-ratelimit-reset-requests"] == "1m0s"
    assert later.status == 200
    assert app.calls == 3


async def test_a_call_within_the_limit_is_told_how_it_stands(clock: Clock) -> None:
    limits = limited(App(), clock, "10;w=60,5000;w=60;u=token")
    exchange = await call(limits, {**CHAT, "max_tokens": 100})

    assert exchange.headers["x-ratelimit-limit-requests"] == "10"
    assert exchange.headers["x-ratelimit-remaining-requests"] == "9"
    assert exchange.headers["x-ratelimit-limit-tokens"] == "5000"
    assert 4800 < int(exchange.headers["x-ratelimit-remaining-tokens"]) < 4900
    assert exchange.headers["llmgate-ratelimit-policy"] == "10;w=60"


async def test_the_headers_are_those_of_the_callers_dialect(clock: Clock) -> None:
    limits = limited(App(), clock, "10;w=60")
    exchange = await call(limits, {**CHAT, "max_tokens": 9}, path="/v1/messages")

    assert exchange.headers["anthropic-ratelimit-requests-limit"] == "10"
    assert exchange.headers["anthropic-ratelimit-requests-remaining"] == "9"
    assert exchange.headers["anthropic-ratelimit-requests-reset"].endswith("Z")
    assert "x-ratelimit-limit-requests" not in exchange.headers


async def test_what_the_provider_says_of_its_own_limits_stays(clock: Clock) -> None:
    app = App()
    app.headers = [(b"X-RateLimit-Remaining-Requests", b"3")]
    exchange = await call(limited(app, clock, "10;w=60"))

    assert exchange.headers["x-ratelimit-remaining-requests"] == "3"
    assert exchange.headers["llmgate-ratelimit-remaining"] == "9"


async def test_the_fields_of_the_ietf_draft_are_sent_on_demand(clock: Clock) -> None:
    rates = "10;w=60,100;w=3600;u=cents,2;u=concurrent"
    without = await call(limited(App(), clock, rates))
    exchange = await call(limited(App(), clock, rates, ietf_headers=True))

    assert "ratelimit" not in without.headers
    assert exchange.headers["ratelimit-policy"].startswith('"1";q=10;w=60, "2";q=100;w=3600;qu="ce')
    assert exchange.headers["ratelimit"].startswith('"1";r=9;t=6, "2";r=')
    assert exchange.headers["ratelimit"].endswith('"3";r=1;t=0')


async def test_tokens_are_reserved_by_the_limit_and_settled_by_use(clock: Clock) -> None:
    limits = limited(App(10, 5), clock, "1000;w=3600;u=token")
    body = {**CHAT, "max_tokens": 900}
    exchanges = [await call(limits, body) for _ in range(4)]
    remaining = [int(one.headers["x-ratelimit-remaining-tokens"]) for one in exchanges]

    assert [one.status for one in exchanges] == [200] * 4
    # 15 tokens less each time, however much was reserved meanwhile.
    assert [a - b for a, b in itertools.pairwise(remaining)] == [15] * 3


async def test_what_runs_holds_what_it_may_need(clock: Clock) -> None:
    app = App()
    app.hold = asyncio.Event()
    limits = limited(app, clock, "1000;w=3600;u=token")
    running = asyncio.ensure_future(call(limits, {**CHAT, "max_tokens": 900}))
    await asyncio.sleep(0)
    refused = await call(limits, {**CHAT, "max_tokens": 900})
    app.hold.set()
    first = await running
    second = await call(limits, {**CHAT, "max_tokens": 900})

    assert [first.status, refused.status, second.status] == [200, 429, 200]


async def test_calls_at_one_time_are_limited(clock: Clock) -> None:
    app = App()
    app.hold = asyncio.Event()
    limits = limited(app, clock, "2;u=concurrent")
    running = [asyncio.ensure_future(call(limits)) for _ in range(2)]
    await asyncio.sleep(0)
    refused = await call(limits)
    app.hold.set()
    await asyncio.gather(*running)

    assert refused.status == 429
    assert await statuses(limits, 3) == [200] * 3


async def test_a_failing_call_costs_a_request_and_no_tokens(clock: Clock) -> None:
    app = App()
    app.fails = RuntimeError("broken")
    limits = limited(app, clock, "1000;w=3600;u=token,3;w=60,1;u=concurrent")
    for _ in range(2):
        with pytest.raises(RuntimeError):
            await call(limits, {**CHAT, "max_tokens": 900})
    app.fails = None

    assert await statuses(limits, 2, body={**CHAT, "max_tokens": 900}) == [200, 429]


@pytest.mark.parametrize("leave_after", [None, 3], ids=["to the end", "caller leaves"])
async def test_a_stream_without_usage_counts_by_what_arrived(
    clock: Clock, leave_after: int | None
) -> None:
    app = App()
    app.chunks = CHUNKS
    limits = limited(app, clock, "2000;w=3600;u=token")
    body = {**CHAT, "max_tokens": 500, "stream": True}
    await call(limits, body, leave_after=leave_after)
    app.chunks = None
    after = await call(limits, {**CHAT, "max_tokens": 500})

    # 5 chunks of 100 bytes are some 120 tokens; nothing would be 1490 or more.
    assert 1300 < int(after.headers["x-ratelimit-remaining-tokens"]) < 1440


async def test_a_stream_that_is_cancelled_settles(clock: Clock) -> None:
    app = App()
    app.hold = asyncio.Event()
    limits = limited(app, clock, "1;u=concurrent,1000;w=3600;u=token")
    running = asyncio.ensure_future(call(limits, {**CHAT, "max_tokens": 900}))
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait([running])
    app.hold = None

    assert await statuses(limits, 1, body={**CHAT, "max_tokens": 900}) == [200]


async def test_the_key_function_says_whose_bucket_it_is(clock: Clock) -> None:
    def customer(scope: Scope) -> str:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        return headers.get(b"x-customer", b"").decode()

    limits = limited(App(), clock, "1;w=60;s=key", key=customer)
    first = await statuses(limits, 2, headers={"x-customer": "a"})
    other = await statuses(limits, 1, headers={"x-customer": "b"})

    assert first == [200, 429]
    assert other == [200]


async def test_a_user_the_body_names_has_his_own_bucket(clock: Clock) -> None:
    limits = limited(App(), clock, "1;w=60;s=user")

    assert await statuses(limits, 2, body={**CHAT, "user": "ada"}) == [200, 429]
    assert await statuses(limits, 2, body={**CHAT, "user": "grace"}) == [200, 429]
    # Who is nobody shares with all others who are nobody.
    assert await statuses(limits, 2) == [200, 429]


@pytest.mark.parametrize("segment", ["session", "model", "route", "property:team"])
async def test_other_segments_have_their_own_buckets(clock: Clock, segment: str) -> None:
    limits = limited(App(), clock, f"1;w=60;s={segment}")

    async def status(value: str) -> int:
        path = "/v1/chat/completions"
        if segment == "route" and value == "b":
            path = "/v1/completions"
        body = {**CHAT, "model": f"m-{value}"}
        headers = {"LLMGate-Session-Id": value, "LLMGate-Property-Team": value}
        return (await call(limits, body, path=path, headers=headers)).status

    assert [await status(value) for value in "aabb"] == [200, 429, 200, 429]


async def test_one_of_many_limits_is_enough_to_refuse(clock: Clock) -> None:
    limits = limited(App(), clock, "100;w=60,1;w=3600,50;w=1")
    await call(limits)
    refused = await call(limits)
    clock.pass_s(3600)

    assert refused.headers["retry-after"] == "3600"
    assert refused.headers["llmgate-ratelimit-policy"] == "1;w=3600"
    assert (await call(limits)).headers["llmgate-ratelimit-remaining"] == "0"


@pytest.mark.parametrize(
    "policy", ["0;w=60", "10;w=0", "10;w=60;u=bytes", "10;w=60;s=", ",".join(["1;w=1"] * 17)]
)
async def test_a_bad_policy_is_a_400_that_names_header_and_part(clock: Clock, policy: str) -> None:
    exchange = await call(limited(App(), clock), headers={"LLMGate-RateLimit-Policy": policy})

    assert exchange.status == 400
    assert exchange.json()["error"]["code"] == "invalid_header"
    assert exchange.json()["error"]["param"] == "LLMGate-RateLimit-Policy"


async def test_our_policy_without_its_segment_is_a_400(clock: Clock) -> None:
    headers = {"LLMGate-RateLimit-Policy": "5;w=60;s=user"}
    missing = await call(limited(App(), clock), headers=headers)
    given = await call(limited(App(), clock), headers={**headers, "LLMGate-User-Id": "ada"})

    assert missing.status == 400
    assert "LLMGate-User-Id" in missing.json()["error"]["message"]
    assert given.status == 200


async def test_a_request_can_add_a_limit_and_not_take_one_away(clock: Clock) -> None:
    limits = limited(App(), clock, "2;w=60")
    tight = {"LLMGate-RateLimit-Policy": "1;w=60"}
    loose = {"LLMGate-RateLimit-Policy": "1000;w=60"}

    assert await statuses(limits, 2, headers=tight) == [200, 429]
    assert await statuses(limits, 2, headers=loose) == [200, 429]


async def test_a_budget_stops_calls_until_its_period_ends(clock: Clock) -> None:
    budget = Budget("team-a", "all", 3 * CENT, Period.HOUR)
    limits = limited(App(10, 5), clock, budgets=[budget])  # 1.5 cents a call
    body = {**CHAT, "max_tokens": 5}
    before = await statuses(limits, 2, body=body)
    refused = await call(limits, body)

    assert before == [200, 200]
    assert refused.status == 429
    assert refused.json()["error"]["code"] == "budget_exceeded"
    assert refused.headers["x-should-retry"] == "false"
    assert "team-a" in refused.json()["error"]["message"]


async def test_a_soft_budget_stops_nobody(clock: Clock) -> None:
    budget = Budget("b", "all", CENT, Period.HOUR, soft_nanousd=CENT // 2, hard=False)
    limits = limited(App(), clock, budgets=[budget])

    assert await statuses(limits, 5) == [200] * 5
    assert list((await limits.store.spent("budget|b|")).values()) == [5 * CENT * 3 // 2]


async def test_lists_of_models_cost_no_budget(clock: Clock) -> None:
    budget = Budget("b", "all", 1, Period.MONTH)
    limits = limited(App(), clock, "5;w=60;u=token", budgets=[budget])

    assert await statuses(limits, 3, body=b"", path="/v1/models", method="GET") == [200] * 3


async def test_refusals_are_counted(clock: Clock) -> None:
    counted: list[tuple[str, str]] = []

    def count(name: str, **labels: str) -> None:
        counted.append((name, labels["unit"]))

    limits = limited(App(), clock, "1;w=60", count=count)
    await statuses(limits, 3)

    assert counted == [("llmgate_limited_total", "request")] * 2


async def helicone(
    limits: LimitsMiddleware, policy: str, headers: dict[str, str] | None = None
) -> Exchange:
    return await call(limits, headers={"Helicone-RateLimit-Policy": policy, **(headers or {})})


async def test_helicone_within_the_limit(clock: Clock) -> None:
    exchange = await helicone(limited(App(), clock), "10;w=60")

    assert exchange.status == 200
    assert exchange.headers["helicone-ratelimit-limit"] == "10"
    assert exchange.headers["helicone-ratelimit-remaining"] == "9"
    assert exchange.headers["helicone-ratelimit-policy"] == "10;w=60"
    assert exchange.headers["helicone-ratelimit-reset"] == "6"


async def test_helicone_429_after_the_quota(clock: Clock) -> None:
    limits = limited(App(), clock)
    answers = [await helicone(limits, "3;w=60") for _ in range(4)]

    assert [one.status for one in answers] == [200, 200, 200, 429]
    assert answers[-1].headers["helicone-ratelimit-remaining"] == "0"
    assert answers[-1].headers["helicone-ratelimit-reset"] == "60"
    assert "error" in answers[-1].json()


@pytest.mark.parametrize(
    ("segment", "header"),
    [
        ("user", "Helicone-User-Id"),
        ("organization", "Helicone-Property-Organization"),
        ("my-org", "Helicone-Property-My-Org"),
    ],
    ids=["per user", "per property", "a hyphenated property"],
)
async def test_helicone_isolation(clock: Clock, segment: str, header: str) -> None:
    limits = limited(App(), clock)
    policy = f"1;w=60;s={segment}"
    answers = [await helicone(limits, policy, {header: value}) for value in ("a", "a", "b")]

    assert [one.status for one in answers] == [200, 429, 200]


@pytest.mark.parametrize(
    "policy",
    ["1;w=60;s=user", "1;w=60;s=team", "1;w=59", "nonsense"],
    ids=["missing user", "missing property", "window below 60 s", "malformed"],
)
async def test_helicone_goes_on_where_it_cannot_limit_and_we_say_so(
    clock: Clock, policy: str
) -> None:
    limits = limited(App(), clock)
    answers = [await helicone(limits, policy) for _ in range(3)]

    assert [one.status for one in answers] == [200, 200, 200]


async def test_helicone_cents_are_taken_off_afterwards_and_may_be_owed(clock: Clock) -> None:
    limits = limited(App(10, 5), clock)  # 1.5 cents a call
    answers = [await helicone(limits, "2;w=60;u=cents") for _ in range(3)]
    clock.pass_s(31)  # 1 cent was owed, 2 come back per minute
    after = await helicone(limits, "2;w=60;u=cents")

    assert [one.status for one in answers] == [200, 200, 429]
    assert after.status == 200


async def test_helicone_refill_and_burst(clock: Clock) -> None:
    limits = limited(App(), clock)
    burst = [(await helicone(limits, "4;w=60")).status for _ in range(5)]
    clock.pass_s(35)
    refilled = [(await helicone(limits, "4;w=60")).status for _ in range(3)]

    assert burst == [200, 200, 200, 200, 429]
    assert refilled == [200, 200, 429]


async def test_helicone_ai_gateway_shape_of_the_refusal(clock: Clock) -> None:
    limits = limited(App(), clock)
    await helicone(limits, "1;w=60;u=request;s=user", {"Helicone-User-Id": "ada"})
    refused = await helicone(limits, "1;w=60;u=request;s=user", {"Helicone-User-Id": "ada"})

    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert 1 <= int(refused.headers["retry-after"]) <= 60
