"""`llmgate cache`: count and purge, in the store itself; running gateways see it at once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from asgi_llmgate.cache_figures import cache_stats
from asgi_llmgate.cli_learned import add_learned
from asgi_llmgate.cli_opened import AsJson, fail, print_json, run
from asgi_llmgate.cli_simulate import simulate_calls

__all__ = ["app_cache"]

app_cache = typer.Typer(help="Stored answers.", no_args_is_help=True)
add_learned(app_cache)
app_cache.command("simulate")(simulate_calls)

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@app_cache.command()
def stats(
    namespace: Annotated[
        str | None, typer.Option(help="Only calls of this tenant that the journal holds.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Count entries, hits, misses and what they saved."""
    found = run(
        lambda opened: cache_stats(
            opened.cache, opened.learned, opened.settings.data_dir, namespace
        )
    )
    if as_json:
        print_json(found)
    else:
        for line in _stats_lines(found):
            print(line)


def _stats_lines(found: Mapping[str, Any]) -> Iterator[str]:
    def line(name: str, text: str) -> str:
        return f"{name:<10} {text}"

    if "entries" in found:
        yield line("stored", f"{found['entries']} entries, {found['bytes']} bytes")
    hits, share = found["hits"], found["hit_share"]
    told = f"{hits['exact']} exact, {hits['semantic']} semantic"
    yield line("hits", told if share is None else f"{told}: {share:.1%} of what could be")
    yield line("misses", f"{found['misses']}, and {found['bypassed']} that could not be cached")
    semantic = found["semantic"]
    saved = f"${found['saved_usd']}, of it ${semantic['saved_usd']} by semantic hits"
    if "check_usd" in semantic:
        saved += f"; {semantic['checks']} checks cost ${semantic['check_usd']}"
    yield line("saved", saved)
    if "aliases" in semantic:
        yield line(
            "semantic",
            f"{semantic['aliases']} phrasings in {semantic['scopes']} scopes,"
            f" {semantic['labels']} labels, {semantic['quarantined']} phrasings taken back",
        )
    if semantic.get("would_have_served"):
        yield line(
            "observed",
            f"{semantic['would_have_served']} more hits would have saved"
            f" ${semantic['would_have_saved_usd']}",
        )


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
            fail(f"{older_than!r} is not an age such as 90s, 30m, 12h or 7d.")
        age_s = float(match[1]) * _SECONDS[match[2]]
    removed = run(
        lambda opened: opened.cache.purge(
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
        print_json({"purged": True, "removed": removed})
    else:
        print("Purged." if removed is None else f"{removed} entries removed.")
