"""Profile the hot path in this process: the app, without a server, over a provider in memory.

    python -m bench.profile                       the default app, a JSON answer
    python -m bench.profile --stack slice         without auth and tagging
    python -m bench.profile --chunks 200          a stream of 200 chunks
    python -m bench.profile --sort cumulative --top 60 --output /tmp/gateway.prof

First the µs per call without a profiler, which is what counts; then where they go. cProfile
makes small functions look dearer than they are: trust it for order, not for size.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import pstats
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import uvloop
from starlette.types import ASGIApp

from asgi_llmgate.assemble import journal_of, prices_of
from bench.driver import Call, call
from bench.memory_upstream import MemoryUpstream
from bench.payloads import chat_request
from bench.stacks import bench_settings, full_stack, slice_stack
from bench.subjects import GATEWAY_KEY

__all__ = ["main"]

ROUNDS = 7


async def run(arguments: argparse.Namespace, folder: Path) -> cProfile.Profile:
    settings = bench_settings(folder)
    upstream = MemoryUpstream(chunks=arguments.chunks)
    price = prices_of(settings)
    journal = journal_of(settings, price)
    app: ASGIApp
    if arguments.stack == "slice":
        app = slice_stack(settings, upstream=upstream, log=journal, price=price)
    else:
        app = full_stack(settings, upstream=upstream, log=journal)
    body = chat_request(is_stream=arguments.chunks > 0)
    request = Call(body, [(b"authorization", f"Bearer {GATEWAY_KEY}".encode())])
    calls: int = arguments.calls
    try:
        status, messages, size = await call(app, request)
        print(f"answer: status {status}, {messages} body messages, {size} bytes")
        if status != 200:
            raise SystemExit("the app does not answer with 200; nothing to profile")
        times: list[float] = []
        for _ in range(ROUNDS):
            await asyncio.sleep(0.25)  # the journal's thread writes what is queued
            gc.collect()
            began = time.thread_time_ns()
            for _ in range(calls):
                await call(app, request)
            times.append((time.thread_time_ns() - began) / 1e3 / calls)
        each = f", {min(times) / arguments.chunks:.2f} µs per chunk" if arguments.chunks else ""
        print(
            f"{min(times):.1f} µs CPU per call{each} "
            f"(least of {ROUNDS} rounds of {calls}; worst {max(times):.1f})"
        )
        profile = cProfile.Profile()
        profile.enable()
        for _ in range(calls):
            await call(app, request)
        profile.disable()
        print(f"dropped records: {journal.dropped}")
        return profile
    finally:
        await journal.aclose()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.profile",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--stack", choices=("gateway", "slice"), default="gateway")
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--chunks", type=int, default=0, help="stream so many; 0 answers JSON")
    parser.add_argument("--sort", default="tottime", help="as pstats: tottime, cumulative, ncalls")
    parser.add_argument("--top", type=int, default=40)
    parser.add_argument("--output", type=Path, help="for snakeviz and the like")
    arguments = parser.parse_args(argv)
    if arguments.chunks and arguments.calls == 2000:
        arguments.calls = max(20, 20_000 // arguments.chunks)
    with tempfile.TemporaryDirectory(prefix="llmgate-profile-") as folder:
        profile = uvloop.run(run(arguments, Path(folder)))
    if arguments.output:
        profile.dump_stats(arguments.output)
    stats = pstats.Stats(profile)
    stats.strip_dirs().sort_stats(arguments.sort).print_stats(arguments.top)


if __name__ == "__main__":
    main()
