"""`llmgate cache`: count and purge, in the store itself; running gateways see it at once."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import typer

from asgi_llmgate.assemble import cache_of
from asgi_llmgate.cache import Cache
from asgi_llmgate.errors import BackendError
from asgi_llmgate.settings import load_settings

__all__ = ["app_cache"]

app_cache = typer.Typer(help="Stored answers.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@app_cache.command()
def stats(as_json: AsJson = False) -> None:
    """Count the entries."""
    found = _run(lambda cache: cache.stats())
    if as_json:
        print(json.dumps(found))
    else:
        print(f"{found['entries']} entries, {found['bytes']} bytes")


@app_cache.command()
def purge(
    tag: Annotated[list[str] | None, typer.Option(help="What depends on it; repeatable.")] = None,
    namespace: Annotated[str | None, typer.Option(help="All of a tenant.")] = None,
    model: Annotated[str | None, typer.Option(help="As callers name it.")] = None,
    prompt: Annotated[str | None, typer.Option(help="Id of a prompt.")] = None,
    user: Annotated[str | None, typer.Option(help="What a user's calls made.")] = None,
    entry: Annotated[str | None, typer.Option(help="The key in Cache-Status.")] = None,
    older_than: Annotated[str | None, typer.Option(help="An age: 90s, 30m, 12h, 7d.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Everything.")] = False,
    as_json: AsJson = False,
) -> None:
    """Purge by one criterion, or by age within a namespace."""
    age_s = None
    if older_than is not None:
        match = re.fullmatch(r"(\d{1,9})([smhd])", older_than)
        if match is None:
            _fail(f"{older_than!r} is not an age such as 90s, 30m, 12h or 7d.")
        else:
            age_s = float(match[1]) * _SECONDS[match[2]]
    removed = _run(
        lambda cache: cache.purge(
            tags=tag or (),
            namespace=namespace,
            model=model,
            prompt=prompt,
            user=user,
            entry=entry,
            older_than_s=age_s,
            everything=everything,
        )
    )
    if as_json:
        print(json.dumps({"purged": True, "removed": removed}))
    else:
        print("Purged." if removed is None else f"{removed} entries removed.")


def _run(act: Callable[[Cache], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        cache, store = cache_of(load_settings())
        try:
            return await act(cache)
        finally:
            await store.aclose()

    try:
        return asyncio.run(run())
    except ValueError as error:
        _fail(f"{error}.")
    except BackendError as error:
        _fail(f"The cache does not answer: {error}")


def _fail(message: str) -> None:
    print(message, file=sys.stderr)
    raise typer.Exit(1)
