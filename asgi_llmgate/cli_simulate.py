"""`llmgate cache simulate`: what caches would have made of one's own calls."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from asgi_llmgate.cli_opened import AsJson, fail, print_json
from asgi_llmgate.cli_table import table_lines
from asgi_llmgate.core.record import usd
from asgi_llmgate.core.semantic.asking import Context
from asgi_llmgate.core.semantic.history import Past, past_of_line, past_of_record
from asgi_llmgate.core.stats import CallFilter, parse_when
from asgi_llmgate.errors import BackendError
from asgi_llmgate.semantic_cache import missing_parts
from asgi_llmgate.settings import Settings, load_settings
from asgi_llmgate.simulation import Tally, simulate

__all__ = ["simulate_calls"]

THRESHOLDS = (0.85, 0.90, 0.95)
BOUNDS = (0.01, 0.02, 0.05)
PAGE = 200

ESTIMATE = """\
Wrong is an estimate: the stored answer and the one that was given are compared as the cache does
it, without asking a model. Unsure are those of which that does not tell. Nothing expires here."""


def simulate_calls(
    given: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILE]",
            help="JSON lines: question and answer, request and response, or logged calls; - is"
            " standard input.",
        ),
    ] = None,
    journal: Annotated[
        bool, typer.Option("--journal", help="Take the calls of the data folder's journal.")
    ] = False,
    max_error: Annotated[
        list[str] | None,
        typer.Option(metavar="SHARE", help="Bounds on wrong hits: 0.01 0.02, or 0.01,0.02."),
    ] = None,
    last: Annotated[int, typer.Option(min=1, help="How many calls, the newest.")] = 20_000,
    since: Annotated[str | None, typer.Option(help="24h, 7d, 2026-01-31; with --journal.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Calls of this tenant; --journal.")] = None,
    scope: Annotated[
        str | None, typer.Option(help="Who shares answers: user or tenant; else as settings say.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Go through calls that were made, and count what each policy would have answered.

    Policies are the exact cache, cosine thresholds of 0.85, 0.90 and 0.95 as other caches have
    them, and ours under each bound. Nothing is sent anywhere; the embedder is the package's own.
    """
    # One option takes one value; what follows it are further bounds.
    files = [text for text in given or () if not (max_error and _is_number(text))]
    bounds = _bounds([*(max_error or ()), *(text for text in given or () if text not in files)])
    file = Path(files[0]) if files else None
    if len(files) > 1 or journal == (file is not None):
        fail("Name one file, or --journal.", "HINT: `llmgate cache simulate --journal`.")
    if scope not in (None, "user", "tenant"):
        fail("--scope is user or tenant.")
    if missing := missing_parts():
        fail(
            f"This needs {', '.join(missing)}, which is not installed.",
            'HINT: run `pip install "asgi-llmgate[semantic]"`.',
        )
    settings = load_settings()
    semantic = settings.cache.semantic
    context = Context.parse(semantic.context)
    left_out: Counter[str] = Counter()
    if file is not None:
        found = _of_file(file, context)
    else:
        found = _of_journal(settings, context, since, tenant)
    calls: deque[Past] = deque(maxlen=last)
    for past in found:
        if isinstance(past, str):
            left_out[past] += 1
        else:
            calls.append(past)
    if not calls:
        _fail_without_calls(left_out, settings, is_journal=file is None)
    tallies = _run(list(calls), bounds, by_asker=(scope or semantic.scope) == "user")
    if as_json:
        print_json(
            {
                "calls": len(calls),
                "left_out": dict(left_out),
                "is_estimate": True,
                "policies": [_public(tally) for tally in tallies],
            }
        )
        return
    for line in _lines(tallies, left_out, calls):
        print(line)


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", ""))
    except ValueError:
        return False
    return True


def _bounds(texts: Sequence[str]) -> list[float]:
    try:
        shares = {float(part) for text in texts for part in text.split(",") if part}
    except ValueError:
        shares = {0.0}
    if not all(0 < share <= 0.5 for share in shares):
        fail("--max-error takes shares above 0, up to 0.5: 0.01 0.02 0.05.")
    return sorted(shares or BOUNDS)


def _of_file(file: Path, context: Context) -> Iterator[Past | str]:
    try:
        with sys.stdin.buffer if str(file) == "-" else file.open("rb") as lines:
            for line in lines:
                if line.strip():
                    yield past_of_line(line, context)
    except OSError as error:
        fail(f"{file} cannot be read: {error.strerror}.")


def _of_journal(
    settings: Settings, context: Context, since: str | None, tenant: str | None
) -> Iterator[Past | str]:
    from asgi_llmgate.backends.journal_reader import JournalReader

    reader = JournalReader(settings.data_dir)
    if not reader.exists:
        fail(
            f"There is no call log in {settings.data_dir} yet.",
            "HINT: name its folder with LLMGATE_DATA_DIR.",
        )
    try:
        since_us = None if since is None else parse_when(since, now_us=time.time_ns() // 1000)
        filters = CallFilter(since_us=since_us, tenant=tenant)
        place = -1
        while True:
            records, following = reader.since(place, filters, limit=PAGE, bodies=True)
            for record in records:
                yield past_of_record(record, context)
            if len(records) < PAGE:
                return
            place = following
    except ValueError as error:
        fail(f"{error}.")
    except BackendError as error:
        fail(f"The call log {reader.path} cannot be read: {error}")
    finally:
        reader.close()


def _run(calls: list[Past], max_errors: Sequence[float], *, by_asker: bool) -> list[Tally]:
    from asgi_llmgate.backends.embedders.minilm import MiniLMEmbedder

    embedder = MiniLMEmbedder()

    async def run() -> list[Tally]:
        with typer.progressbar(
            length=2 * len(calls), label=f"{len(calls)} calls", file=sys.stderr
        ) as bar:
            try:
                return await simulate(
                    calls,
                    embedder,
                    max_errors=max_errors,
                    thresholds=THRESHOLDS,
                    by_asker=by_asker,
                    progress=lambda done: bar.update(done - bar.pos),
                )
            finally:
                await embedder.aclose()

    try:
        return asyncio.run(run())
    except BackendError as error:
        fail(f"The embedder failed: {error}")


def _fail_without_calls(left_out: Counter[str], settings: Settings, *, is_journal: bool) -> None:
    reasons = ", ".join(f"{number} {reason}" for reason, number in left_out.most_common())
    if is_journal and left_out["no bodies"]:
        fail(
            f"No call in the journal has its bodies ({reasons}).",
            f"HINT: log.bodies is {settings.log.bodies}; set LLMGATE_LOG__BODIES=capped and let "
            "people ask for a while.",
        )
    if is_journal:
        fail(f"No call in the journal can be gone through again ({reasons or 'there is none'}).")
    fail(
        f"No line can be gone through ({reasons or 'the file is empty'}).",
        'HINT: a line is {"question": …, "answer": …}, or what `llmgate logs tail --json` prints.',
    )


def _public(tally: Tally) -> dict[str, Any]:
    return {
        "policy": tally.name,
        "max_error": tally.max_error,
        "hits": tally.hits,
        "hit_share": round(tally.hits / tally.calls, 4),
        "exact": tally.exact,
        "semantic": tally.semantic,
        "wrong": tally.wrong,
        "wrong_share": round(tally.wrong / tally.semantic, 4) if tally.semantic else None,
        "unsure": tally.unsure,
        "checks": tally.checks,
        "calls_saved": tally.hits - tally.checks,
        "saved_usd": usd(tally.saved_nanousd),
        "saved_nanousd": tally.saved_nanousd,
    }


def _lines(
    tallies: Sequence[Tally], left_out: Counter[str], calls: Iterable[Past]
) -> Iterator[str]:
    titles = ("POLICY", "HITS", "SHARE", "EXACT", "ALIKE", "WRONG", "OF ALIKE", "UNSURE")
    table = [(*titles, "CALLS SAVED", "SAVED")]
    is_priced = any(past.cost_nanousd for past in calls)
    for tally in tallies:
        share = f"{tally.wrong / tally.semantic:.2%}" if tally.semantic else "-"
        table.append(
            (
                tally.name,
                str(tally.hits),
                f"{tally.hits / tally.calls:.1%}",
                str(tally.exact),
                str(tally.semantic),
                str(tally.wrong),
                share,
                str(tally.unsure),
                str(tally.hits - tally.checks),
                f"${tally.saved_nanousd / 1e9:.4f}" if is_priced else "-",
            )
        )
    yield from table_lines(table, right=frozenset(range(1, len(table[0]))))
    yield ""
    yield ESTIMATE
    if left_out:
        reasons = ", ".join(f"{number} {reason}" for reason, number in left_out.most_common())
        yield f"Left out: {reasons}."
