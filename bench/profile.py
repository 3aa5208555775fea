"""Profile the hot path in this process: the app without a server.

    python -m bench.profile                       the default app, a JSON answer from memory
    python -m bench.profile --stack slice         without auth and tagging
    python -m bench.profile --chunks 200          a stream of 200 chunks
    python -m bench.profile --log none            without the journal and its thread
    python -m bench.profile --provider nginx      over the real client and a real socket
    python -m bench.profile --sort cumulative --top 60 --output /tmp/gateway.prof

First the µs per call without a profiler, which is what counts; then where they go. cProfile
makes small functions look dearer than they are: trust it for order, not for size. What is
counted is the time of the event loop's thread; "all threads" adds the journal's and the client's.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import pstats
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import uvloop
from starlette.types import ASGIApp

from asgi_llmgate import LLMGate
from bench.driver import Call, NoLog, call
from bench.memory_upstream import MemoryUpstream
from bench.payloads import CHAT_PATH, chat_request
from bench.servers import LOAD_CORES, Server, free_port
from bench.stacks import bench_settings, slice_stack
from bench.subjects import GATEWAY_KEY, nginx

__all__ = ["main"]

ROUNDS = 7


async def calls_of(app: ASGIApp, request: Call, calls: int, at_once: int) -> None:
    async def some() -> None:
        for _ in range(calls // at_once):
            await call(app, request)

    await asyncio.gather(*(some() for _ in range(at_once)))


async def run(arguments: argparse.Namespace, folder: Path, provider: str) -> cProfile.Profile:
    memory = MemoryUpstream(chunks=arguments.chunks)
    gate = LLMGate(
        bench_settings(folder, provider),
        upstream=memory if arguments.provider == "memory" else None,
        log=NoLog() if arguments.log == "none" else None,
    )
    app: ASGIApp = slice_stack(gate) if arguments.stack == "slice" else gate
    body = chat_request(is_stream=arguments.chunks > 0)
    request = Call(body, [(b"authorization", f"Bearer {GATEWAY_KEY}".encode())])
    calls: int = arguments.calls
    at_once: int = arguments.at_once
    try:
        status, messages, size = await call(app, request)
        print(f"answer: status {status}, {messages} body messages, {size} bytes")
        if status != 200:
            raise SystemExit("the app does not answer with 200; nothing to profile")
        loop_us: list[float] = []
        all_us: list[float] = []
        for _ in range(ROUNDS):
            gc.collect()
            loop_ns, all_ns = time.thread_time_ns(), time.process_time_ns()
            await calls_of(app, request, calls, at_once)
            loop_us.append((time.thread_time_ns() - loop_ns) / 1e3 / calls)
            await gate.log.flush()
            all_us.append((time.process_time_ns() - all_ns) / 1e3 / calls)
        print(f"{min(loop_us):.1f} µs CPU per call on the loop, {min(all_us):.1f} in all threads")
        print(f"(least of {ROUNDS} rounds of {calls} calls, {at_once} at once)")
        if arguments.chunks:
            print(f"{min(loop_us) / arguments.chunks:.2f} µs per chunk, the call's own share in it")
        profile = cProfile.Profile()
        profile.enable()
        await calls_of(app, request, calls, at_once)
        profile.disable()
        print(f"dropped records: {gate.log.dropped}")
        return profile
    finally:
        await gate.aclose()


@contextmanager
def provider_for(kind: str, folder: Path) -> Iterator[str]:
    """Yield the address of a provider that answers JSON; of none for `memory`."""
    if kind == "memory":
        yield "http://127.0.0.1:9"
        return
    port = free_port()
    launch = nginx(port, "", folder)
    with Server(launch.argv, port=port, log=folder / "nginx.log", cores=LOAD_CORES) as server:
        server.wait_until_answering(CHAT_PATH, b"{}", {})
        yield f"http://127.0.0.1:{port}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.profile",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--stack", choices=("gateway", "slice"), default="gateway")
    parser.add_argument("--log", choices=("journal", "none"), default="journal")
    parser.add_argument("--provider", choices=("memory", "nginx"), default="memory")
    parser.add_argument("--calls", type=int, help="per round; default 2000 JSON, 20000 chunks")
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--chunks", type=int, default=0, help="stream so many; 0 answers JSON")
    parser.add_argument("--sort", default="tottime", help="as pstats: tottime, cumulative, ncalls")
    parser.add_argument("--top", type=int, default=40)
    parser.add_argument("--output", type=Path, help="for snakeviz and the like")
    arguments = parser.parse_args(argv)
    if arguments.chunks and arguments.provider != "memory":
        parser.error("streams come from memory only")
    if arguments.calls is None:
        arguments.calls = max(20, 20_000 // arguments.chunks) if arguments.chunks else 2000
    arguments.calls -= arguments.calls % arguments.at_once
    with tempfile.TemporaryDirectory(prefix="llmgate-profile-") as name:
        folder = Path(name)
        with provider_for(arguments.provider, folder) as provider:
            profile = uvloop.run(run(arguments, folder / "state", provider))
    if arguments.output:
        profile.dump_stats(arguments.output)
    stats = pstats.Stats(profile)
    stats.strip_dirs().sort_stats(arguments.sort).print_stats(arguments.top)


if __name__ == "__main__":
    main()
