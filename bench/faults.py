"""`python -m bench.faults`: what callers notice while providers, keys or the gateway fail.

One gateway as users start it, providers of our own on this machine, and one figure per promise.
Takes about half a minute.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import httpx2
import openai

from asgi_llmgate.client import Direct, FailOpenTransport
from tests.provider import Answer, Asked, Gate, Provider, default_answer
from tests.servers import Gateway, running_gateway, start_gateway

KEY = "lg_bench_faults_0123456789abcdef"
CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}


def settings(openai_url: str, **more: str) -> dict[str, str]:
    return {
        "LLMGATE_KEYS": f"app:{KEY}",
        "LLMGATE_PROVIDERS__OPENAI__BASE_URL": f"{openai_url}/v1",
        "LLMGATE_PROVIDERS__OPENAI__API_KEYS": "sk-1,sk-2,sk-3",
        **more,
    }


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def load(
    gateway: Gateway, number: int, bodies: Callable[[int], dict[str, Any]], at_once: int = 16
) -> list[tuple[dict[str, Any], int, float]]:
    """Return request, status and milliseconds of `number` calls."""
    limit = asyncio.Semaphore(at_once)
    results = []
    headers = {"authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(
        base_url=gateway.url, headers=headers, timeout=30, trust_env=False
    ) as client:

        async def one(index: int) -> None:
            body = bodies(index)
            async with limit:
                began = time.perf_counter()
                answer = await client.post("/v1/chat/completions", json=body)
                took_ms = (time.perf_counter() - began) * 1000
            results.append((body, answer.status_code, took_ms))

        await asyncio.gather(*[one(index) for index in range(number)])
    return results


def storm(folder: Path) -> str:
    """An upstream that answers 503 to everything, behind three keys."""
    with Provider() as provider:
        provider.default = lambda _: Answer([b'{"error":{"message":"down"}}'], status=503)
        env = settings(
            provider.url,
            LLMGATE_BREAKER__FAILURES="1000000",
            LLMGATE_BREAKER__LEAST_CALLS="1000000",
        )
        with running_gateway(folder, env) as gateway:
            began = time.perf_counter()
            asyncio.run(load(gateway, 1000, lambda _: CHAT))
            took_s = time.perf_counter() - began
        seen = len(provider.asked)
    allowed = 1.2 * 1000 + 10 * (took_s + 1)
    return f"503 storm, breakers off: 1000 calls, {seen} at the upstream (allowed {allowed:.0f})"


def breaker(folder: Path) -> str:
    """The same with breakers."""
    with Provider() as provider:
        provider.default = lambda _: Answer([b'{"error":{"message":"down"}}'], status=503)
        with running_gateway(folder, settings(provider.url)) as gateway:
            asyncio.run(load(gateway, 1000, lambda _: CHAT))
        return f"503 storm, breakers on: 1000 calls, {len(provider.asked)} at the upstream"


def hanging(folder: Path) -> str:
    """One of three upstreams hangs; the calls of the others."""
    with Provider() as good, Provider() as other, Provider() as bad:
        gate = Gate()
        bad.default = lambda _: Answer([gate])
        env = settings(good.url) | {
            "LLMGATE_PROVIDERS__GROQ__BASE_URL": f"{other.url}/openai/v1",
            "LLMGATE_PROVIDERS__GROQ__API_KEY": "sk",
            "LLMGATE_PROVIDERS__MISTRAL__BASE_URL": f"{bad.url}/v1",
            "LLMGATE_PROVIDERS__MISTRAL__API_KEY": "sk",
        }
        names = ["openai/gpt-4o", "groq/llama"]

        def two(index: int) -> dict[str, Any]:
            return {**CHAT, "model": names[index % 2]}

        with running_gateway(folder, env) as gateway:
            asyncio.run(load(gateway, 200, two))
            before = asyncio.run(load(gateway, 1000, two, at_once=4))
            with ThreadPoolExecutor(50) as pool:
                for _ in range(50):
                    pool.submit(_ignore, gateway)
                bad.wait(lambda: len(bad.asked) >= 40)
                during = asyncio.run(load(gateway, 1000, two, at_once=4))
                gate.open()
        failed = sum(status != 200 for _, status, _ in during)
        p99 = [percentile([ms for _, _, ms in part], 0.99) for part in (before, during)]
    return (
        f"one of three upstreams hangs (50 calls): 1000 calls of the others, {failed} failed, "
        f"p99 {p99[0]:.1f} ms before, {p99[1]:.1f} ms during"
    )


def _ignore(gateway: Gateway) -> None:
    try:
        httpx.post(
            f"{gateway.url}/v1/chat/completions",
            json={**CHAT, "model": "mistral/x"},
            headers={"authorization": f"Bearer {KEY}"},
            timeout=20,
            trust_env=False,
        )
    except httpx.HTTPError:
        return


def bad_keys(folder: Path) -> str:
    """Two of three keys are revoked."""
    with Provider() as provider:

        def answer(asked: Asked) -> Answer:
            if asked.header("authorization") != "Bearer sk-3":
                return Answer([b'{"error":{"message":"bad key"}}'], status=401)
            return default_answer(asked)

        provider.default = answer
        with running_gateway(folder, settings(provider.url)) as gateway:
            results = asyncio.run(load(gateway, 500, lambda _: CHAT))
        failed = sum(status != 200 for _, status, _ in results)
        refused = sum(asked.header("authorization") != "Bearer sk-3" for asked in provider.asked)
    return f"two of three keys revoked: 500 calls, {failed} failed, {refused} sent with a bad key"


def dead_gateway(folder: Path) -> str:
    """kill -9 of the gateway under load, with the client transport."""
    with Provider() as provider:
        data = folder / "data"
        data.mkdir()
        env = settings(provider.url)
        gateway = start_gateway(data, env)
        transport = FailOpenTransport(
            gateways=[f"{gateway.url}/v1"],
            direct=Direct(f"{provider.url}/v1", api_key="sk-direct", provider="openai"),
            spool=folder / "spool",
        )
        times: list[float] = []
        with openai.OpenAI(
            api_key=KEY, max_retries=0, http_client=httpx2.Client(transport=transport, timeout=20)
        ) as client:

            def one(number: int) -> bool:
                if number == 150:
                    gateway.kill()
                began = time.perf_counter()
                try:
                    client.chat.completions.create(model="gpt-4o", messages=CHAT["messages"])  # type: ignore[arg-type]  # as JSON
                except openai.OpenAIError:
                    return False
                times.append((time.perf_counter() - began) * 1000)
                return True

            with ThreadPoolExecutor(8) as pool:
                good = sum(pool.map(one, range(500)))
        spool = transport.spool
        assert spool is not None
        spooled = len(spool.waiting())
        with running_gateway(data, env) as again:
            spool.deliver(again.url, {"authorization": f"Bearer {KEY}"})
            ids = [
                record["id"]
                for record in again.records()
                if record["properties"].get("path") == "direct"
            ]
    return (
        f"kill -9 of the gateway: 500 calls, {500 - good} failed, "
        f"p50 {statistics.median(times):.1f} ms; {spooled} records spooled, {len(ids)} arrived, "
        f"{len(ids) - len(set(ids))} twice"
    )


def main() -> None:
    for measure in (storm, breaker, hanging, bad_keys, dead_gateway):
        with tempfile.TemporaryDirectory() as folder:
            print(measure(Path(folder)), flush=True)


if __name__ == "__main__":
    main()
