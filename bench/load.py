"""Load by wrk, and what it saw."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.servers import LOAD_CORES, pinned

__all__ = ["Load", "wrk"]

_SCRIPT = """\
wrk.method = "POST"
wrk.body = [==[%s]==]
%s
done = function(summary, latency, requests)
  local e = summary.errors
  io.write("\\nRESULT ", string.format(
    '{"requests": %%d, "duration_us": %%d, "p50_us": %%d, "p99_us": %%d, "errors": %%d}',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout), "\\n")
end
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What came of a run of wrk. Latencies are microseconds, as the client saw them."""

    requests: int
    duration_us: int
    p50_us: int
    p99_us: int
    errors: int

    @property
    def per_second(self) -> float:
        return self.requests / self.duration_us * 1e6


async def wrk(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    connections: int,
    seconds: float,
    folder: Path,
) -> Load:
    """Post `body` over `connections` connections, one thread, for about `seconds`.

    Raises:
        RuntimeError: wrk failed, or any answer was not a success.
    """
    script = folder / "load.lua"
    lines = "".join(
        f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}\n"
        for name, value in headers.items()
    )
    script.write_text(_SCRIPT % (body.decode(), lines))
    # wrk takes whole seconds; a shorter run is ended by its own SIGINT, which still reports.
    argv = ["wrk", "-t1", f"-c{connections}", "-d60s", "--timeout", "30s", "-s", str(script), url]
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        preexec_fn=pinned(LOAD_CORES),
    )
    try:
        await asyncio.sleep(seconds)
        process.send_signal(2)
        output, _ = await asyncio.wait_for(process.communicate(), 40)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    text = output.decode(errors="replace")
    for line in text.splitlines():
        if line.startswith("RESULT "):
            load = Load(**json.loads(line.removeprefix("RESULT ")))
            if load.errors:
                raise RuntimeError(f"{load.errors} of {load.requests} answers failed at {url}")
            return load
    raise RuntimeError(f"wrk said nothing of use about {url}:\n{text}")
