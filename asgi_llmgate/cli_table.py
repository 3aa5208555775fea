"""Call records and figures as text for people: aligned, and safe to print.

Nothing of a record reaches the terminal as it is: every control character is made visible first.
"""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Container, Iterator, Sequence
from datetime import datetime, tzinfo

import typer

from asgi_llmgate.core.json import JSONError, loads
from asgi_llmgate.core.record import escape_controls, public_record
from asgi_llmgate.core.stats import StatsRow
from asgi_llmgate.types import CallRecord

__all__ = ["CALL_HEADER", "call_details", "call_line", "clip", "stats_table", "table_lines"]

NOTHING = "-"
"""Shown where a value is unknown, so that it cannot be taken for a zero."""

CALL_WIDTHS = (14, 6, 8, 7, 11, 8, 8, 6, 16)
CALL_TITLES = ("TIME", "STATUS", "IN", "OUT", "COST", "MS", "FIRST", "CACHE", "USER", "CALL")
RIGHT = frozenset({2, 3, 4, 5, 6})


def call_line(
    record: CallRecord,
    *,
    width: int = sys.maxsize,
    colour: bool = False,
    zone: tzinfo | None = None,
) -> str:
    """Return one line about a call, `width` columns at most; times in `zone`, or local."""
    started = datetime.fromtimestamp(record.started_at_us / 1e6, zone)
    mark = "~" if record.usage_estimated else ""
    cells = [
        f"{started:%m-%d %H:%M:%S}",
        NOTHING if record.status is None else str(record.status),
        _number(record.input_tokens, mark),
        _number(record.output_tokens, mark),
        _dollars(record.cost_nanousd),
        _number(record.duration_ms),
        _number(record.first_byte_ms),
        record.cache or NOTHING,
        record.user_id or NOTHING,
    ]
    line = _aligned(cells)
    model = record.model or record.model_requested or NOTHING
    call = f"{record.dialect or NOTHING} → {record.provider or NOTHING}/{model}"
    text = clip(escape_controls(f"{line}  {call}  {_trouble(record)}".rstrip()), width)
    name = _colour(record) if colour else None
    return typer.style(text, fg=name) if name else text


def call_details(record: CallRecord) -> Iterator[str]:
    """Yield the lines that tell all about a call: fields first, then both bodies."""
    fields = public_record(record)
    for body in ("request_body", "response_body"):
        del fields[body]
    for name, value in fields.items():
        if name == "attempts":
            for number, attempt in enumerate(value, 1):
                yield _field(f"attempt {number}", json.dumps(attempt, ensure_ascii=False))
        elif name == "properties":
            for key, text in value.items():
                yield _field(f"property {key}", text)
        else:
            yield _field(name, value)
    yield from _body("request", record.request_body, record.request_truncated)
    yield from _body("response", record.response_body, record.response_truncated)


def stats_table(rows: Sequence[StatsRow], by: str) -> Iterator[str]:
    """Yield the lines of a table: one per group, and their sum where there are several."""
    titles = [by.upper(), "CALLS", "ERRORS", "IN", "OUT", "COST", "UNPRICED"]
    titles += ["P50 MS", "P95 MS", "P99 MS", "FIRST P50", "P95", "P99"]
    table = [titles, *([_group(row), *_sums([row]), *_percentiles(row)] for row in rows)]
    if len(rows) > 1:
        table.append(["all", *_sums(rows), *[""] * 6])
    yield from table_lines(table, right=frozenset(range(1, len(titles))))


def table_lines(
    table: Sequence[Sequence[str]], *, right: Container[int] = frozenset()
) -> Iterator[str]:
    """Yield aligned lines; the first row are titles. `right` are columns of numbers."""
    widths = [max(map(_width, column)) for column in zip(*table, strict=True)]
    for cells in table:
        yield "  ".join(
            _pad(cell, width, is_right=place in right)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()


def clip(text: str, width: int) -> str:
    """Return `text` cut to `width` columns of a terminal, with `…` where something is missing."""
    if _width(text) <= width:
        return text
    kept, used = [], 1
    for character in text:
        used += _width(character)
        if used > width:
            break
        kept.append(character)
    return "".join(kept) + "…"


def _aligned(cells: Sequence[str]) -> str:
    return "  ".join(
        _pad(clip(escape_controls(cell), width), width, is_right=place in RIGHT)
        for place, (cell, width) in enumerate(zip(cells, CALL_WIDTHS, strict=True))
    )


def _trouble(record: CallRecord) -> str:
    parts = [record.error_code] if record.error_code else []
    if record.client_left:
        parts.append("client left")
    elif not record.complete and record.status is not None and record.status < 400:
        parts.append("broken off")
    return ", ".join(parts)


def _colour(record: CallRecord) -> str | None:
    if record.status is None or record.status >= 500:
        return typer.colors.RED
    return typer.colors.YELLOW if record.status >= 400 or _trouble(record) else None


def _field(name: str, value: object) -> str:
    text = NOTHING if value is None else str(value).lower() if value in (True, False) else value
    return f"{escape_controls(name):<20} {escape_controls(str(text))}"


def _body(name: str, body: bytes | None, is_truncated: bool) -> Iterator[str]:
    yield ""
    if body is None:
        yield f"{name}: not kept"
        return
    yield f"{name}:{' (cut off)' if is_truncated else ''}"
    try:
        text = json.dumps(loads(body), indent=2, ensure_ascii=False)
    except (JSONError, ValueError):
        text = body.decode("utf-8", "replace")
    # Not splitlines(), which takes form feeds and separators for line ends, too.
    for line in text.split("\n"):
        yield "  " + escape_controls(line.removesuffix("\r"))


def _group(row: StatsRow) -> str:
    return NOTHING if row.key is None else clip(escape_controls(row.key), 48)


def _sums(rows: Sequence[StatsRow]) -> list[str]:
    calls = sum(row.calls for row in rows)
    unpriced = sum(row.unpriced for row in rows)
    is_priced = any(row.cost_nanousd for row in rows) or not unpriced
    return [
        str(calls),
        str(sum(row.errors for row in rows)),
        str(sum(row.input_tokens for row in rows)),
        str(sum(row.output_tokens for row in rows)),
        _dollars(sum(row.cost_nanousd for row in rows) if is_priced else None),
        str(unpriced),
    ]


def _percentiles(row: StatsRow) -> list[str]:
    return [_number(value) for value in (*row.duration_ms, *(row.first_byte_ms or (None,) * 3))]


def _number(value: float | None, mark: str = "") -> str:
    return NOTHING if value is None else f"{mark}{value:.0f}"


def _dollars(nanousd: int | None) -> str:
    return NOTHING if nanousd is None else f"${nanousd / 1e9:.6f}"


def _pad(text: str, width: int, *, is_right: bool) -> str:
    space = " " * (width - _width(text))
    return space + text if is_right else text + space


def _width(text: str) -> int:
    """Return how many columns a terminal gives `text`, which holds no controls."""
    if text.isascii():
        return len(text)
    return sum(
        0
        if unicodedata.combining(character)
        else 2
        if unicodedata.east_asian_width(character) in "WF"
        else 1
        for character in text
    )


CALL_HEADER = f"{_aligned(CALL_TITLES[:-1])}  {CALL_TITLES[-1]}"
