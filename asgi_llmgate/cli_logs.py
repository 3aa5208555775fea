"""`llmgate logs tail`, `llmgate logs show` and `llmgate stats`: what the journal says."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from asgi_llmgate.backends.journal_reader import AmbiguousIdError, JournalReader
from asgi_llmgate.cli_table import CALL_HEADER, call_details, call_line, clip, stats_table
from asgi_llmgate.core.json import dumps
from asgi_llmgate.core.record import escape_controls, json_line, usd
from asgi_llmgate.core.stats import CallFilter, StatsRow, parse_grouping, parse_when
from asgi_llmgate.errors import BackendError
from asgi_llmgate.settings import load_settings
from asgi_llmgate.types import CallRecord

__all__ = ["app_logs", "stats"]

app_logs = typer.Typer(help="Read the call log.", no_args_is_help=True)

# Four times a second looks immediate and costs nothing.
FOLLOW_EVERY_S = 0.25

DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", envvar="LLMGATE_DATA_DIR", help="Folder of the gateway's data."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")]
Since = Annotated[str | None, typer.Option(help="24h, 7d, 2026-01-31, 2026-01-31T12:00:00Z.")]
Until = Annotated[str | None, typer.Option(help="Before this time; written as --since.")]
User = Annotated[str | None, typer.Option(help="Calls of this user id.")]
Model = Annotated[str | None, typer.Option(help="Calls that asked for or got this model.")]
Provider = Annotated[str | None, typer.Option(help="Calls to this provider.")]
Session = Annotated[str | None, typer.Option(help="Calls of this session id.")]
Status = Annotated[str | None, typer.Option(help="429, 4xx, or none for no answer.")]
Properties = Annotated[
    list[str] | None, typer.Option("--property", metavar="NAME=VALUE", help="May be repeated.")
]
Tenant = Annotated[str | None, typer.Option(help="Calls of this tenant.")]
Errors = Annotated[bool, typer.Option("--errors", help="Only calls that failed.")]


@app_logs.command()
def tail(
    number: Annotated[int, typer.Option("-n", "--number", min=0, help="How many calls.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as calls come.")] = False,
    as_json: AsJson = False,
    since: Since = None,
    until: Until = None,
    user: User = None,
    model: Model = None,
    provider: Provider = None,
    session: Session = None,
    status: Status = None,
    properties: Properties = None,
    tenant: Tenant = None,
    errors: Errors = False,
    data_dir: DataDir = None,
) -> None:
    """Show the last calls, newest last."""
    with _reader(data_dir) as reader:
        filters = _filters(
            since, until, user, model, provider, session, status, properties, tenant, errors
        )
        if not as_json:
            _print_lines([clip(CALL_HEADER, _columns())])
        records, place = reader.tail(number, filters, bodies=as_json)
        _print_calls(records, as_json)
        if not follow:
            return
        with suppress(KeyboardInterrupt):  # How one ends it; nothing went wrong.
            while True:
                time.sleep(FOLLOW_EVERY_S)
                records, place = reader.since(place, filters, bodies=as_json)
                _print_calls(records, as_json)


@app_logs.command()
def show(
    call: Annotated[str, typer.Argument(metavar="ID", help="The call's id, or how it begins.")],
    as_json: AsJson = False,
    tenant: Tenant = None,
    data_dir: DataDir = None,
) -> None:
    """Show all about one call, with what was kept of its bodies."""
    with _reader(data_dir) as reader:
        try:
            record = reader.get(call, tenant=tenant)
        except AmbiguousIdError as error:
            _fail(f"{call!r} means several calls, for example:", *error.ids)
        if record is None:
            _fail(f"There is no call {call!r} in {reader.path}.")
        if as_json:
            _print_calls([record], as_json)
        else:
            _print_lines(call_details(record))


def stats(
    by: Annotated[
        str,
        typer.Option(
            help="user, model, provider, session, status, day, key, tenant, route, team or "
            "property:NAME."
        ),
    ] = "model",
    as_json: AsJson = False,
    since: Since = None,
    until: Until = None,
    user: User = None,
    model: Model = None,
    provider: Provider = None,
    session: Session = None,
    status: Status = None,
    properties: Properties = None,
    tenant: Tenant = None,
    errors: Errors = False,
    data_dir: DataDir = None,
) -> None:
    """Count calls, errors, tokens, cost and times, by group."""
    try:
        parse_grouping(by)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--by") from None
    with _reader(data_dir) as reader:
        filters = _filters(
            since, until, user, model, provider, session, status, properties, tenant, errors
        )
        rows = reader.stats(by, filters)
        if as_json:
            _print_bytes(dumps(_public_row(row)) + b"\n" for row in rows)
        else:
            _print_lines(stats_table(rows, by))


def _filters(
    since: str | None,
    until: str | None,
    user: str | None,
    model: str | None,
    provider: str | None,
    session: str | None,
    status: str | None,
    properties: list[str] | None,
    tenant: str | None,
    errors: bool,
) -> CallFilter:
    now_us = time.time_ns() // 1000
    pairs: dict[str, str] = {}
    for text in properties or ():
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise typer.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--property")
        pairs[name] = value
    try:
        return CallFilter(
            since_us=None if since is None else parse_when(since, now_us=now_us),
            until_us=None if until is None else parse_when(until, now_us=now_us),
            user=user,
            model=model,
            provider=provider,
            session=session,
            status=status,
            tenant=tenant,
            properties=pairs,
            errors_only=errors,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


@contextmanager
def _reader(data_dir: Path | None) -> Iterator[JournalReader]:
    folder = data_dir if data_dir is not None else load_settings().data_dir
    reader = JournalReader(folder, progress=Waiting())
    if not reader.exists:
        _fail(
            f"There is no call log in {folder} yet.",
            "HINT: start the gateway (`llmgate serve`, or `llmgate demo` without any key) and "
            "make a call; or name its folder with --data-dir or LLMGATE_DATA_DIR.",
        )
    try:
        yield reader
    except BackendError as error:
        _fail(f"The call log {reader.path} cannot be read: {error}")
    finally:
        reader.close()


class Waiting:
    """Says on standard error that a question takes long, after a second of it."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._has_spoken = False

    def __call__(self, seconds: float | None) -> None:
        if seconds is None:
            if self._has_spoken and self._is_terminal:
                typer.echo("\r\x1b[K", err=True, nl=False)
            self._has_spoken = False
        elif seconds >= 1 and (self._is_terminal or not self._has_spoken):
            self._has_spoken = True
            start, end = ("\r", "") if self._is_terminal else ("", "\n")
            typer.echo(f"{start}reading the call log, {seconds:.0f} s …{end}", err=True, nl=False)


def _public_row(row: StatsRow) -> dict[str, Any]:
    def named(values: tuple[float, ...]) -> dict[str, float]:
        return {name: round(ms, 3) for name, ms in zip(("p50", "p95", "p99"), values, strict=True)}

    return {
        "key": row.key,
        "calls": row.calls,
        "errors": row.errors,
        "input_tokens": row.input_tokens,
        "output_tokens": row.output_tokens,
        "cost_nanousd": row.cost_nanousd,
        "cost_usd": usd(row.cost_nanousd),
        "unpriced": row.unpriced,
        "duration_ms": named(row.duration_ms),
        "first_byte_ms": None if row.first_byte_ms is None else named(row.first_byte_ms),
    }


def _print_calls(records: list[CallRecord], as_json: bool) -> None:
    if as_json:
        _print_bytes(map(json_line, records))
    else:
        colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        width = _columns()
        _print_lines(call_line(record, width=width, colour=colour) for record in records)


def _columns() -> int:
    """Return the terminal's width; where output goes elsewhere nothing is cut."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize


def _print_lines(lines: Iterable[str]) -> None:
    encoding = sys.stdout.encoding or "utf-8"
    for line in lines:
        # A terminal that cannot show a character shows `?`, instead of stopping the command.
        sys.stdout.write(line.encode(encoding, "replace").decode(encoding) + "\n")
    sys.stdout.flush()


def _print_bytes(lines: Iterable[bytes]) -> None:
    for line in lines:
        sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


def _fail(*lines: str) -> NoReturn:
    for line in lines:
        typer.echo(escape_controls(line), err=True)
    raise typer.Exit(1)
