"""What every log sink promises (`protocols.LogSink`)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from asgi_llmgate.backends.journal import JournalLogSink
from asgi_llmgate.backends.journal_reader import JournalReader
from asgi_llmgate.backends.jsonl import JsonLinesLogSink
from asgi_llmgate.backends.memory import MemoryLogSink
from asgi_llmgate.backends.metrics import Metrics
from asgi_llmgate.errors import BackendError
from asgi_llmgate.protocols import LogSink
from tests.backends.records import make_record, wait_until


@dataclass
class Case:
    """A sink, and how somebody else reads the ids of what it has written."""

    make: Callable[[], LogSink]
    read: Callable[[], list[str]]


def read_journal(folder: Path) -> list[str]:
    reader = JournalReader(folder)
    try:
        return [record.id for record in reader.tail(1_000_000)[0]]
    except BackendError:  # Not there yet, or just being made.
        return []
    finally:
        reader.close()


def read_lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    return [json.loads(line)["id"] for line in path.read_text().splitlines()]


@pytest.fixture(params=["journal", "jsonl", "memory"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    made: list[MemoryLogSink] = []

    def in_memory() -> MemoryLogSink:
        made.append(MemoryLogSink(limit=10_000))
        return made[-1]

    lines = tmp_path / "calls.jsonl"
    match request.param:
        case "journal":
            yield Case(lambda: JournalLogSink(tmp_path), lambda: read_journal(tmp_path))
        case "jsonl":
            yield Case(lambda: JsonLinesLogSink(lines), lambda: read_lines(lines))
        case _:
            yield Case(in_memory, lambda: [r.id for sink in made for r in sink.records])


@pytest.fixture
async def sink(case: Case) -> AsyncIterator[LogSink]:
    sink = case.make()
    yield sink
    await sink.aclose()


async def test_what_was_written_is_readable_after_flush_in_order(case: Case, sink: LogSink) -> None:
    written = [make_record() for _ in range(2345)]
    for record in written:
        sink.write(record)
    await sink.flush()

    assert case.read() == [record.id for record in written]
    assert sink.dropped == 0


async def test_a_record_is_readable_soon_without_a_flush(case: Case, sink: LogSink) -> None:
    record = make_record()
    sink.write(record)

    await asyncio.to_thread(wait_until, lambda: case.read() == [record.id])


async def test_closing_flushes(case: Case, sink: LogSink) -> None:
    record = make_record()
    sink.write(record)
    await sink.aclose()

    assert case.read() == [record.id]


async def test_writing_after_closing_counts_as_a_drop(case: Case, sink: LogSink) -> None:
    await sink.aclose()
    sink.write(make_record())

    assert sink.dropped == 1
    assert case.read() == []


async def test_closing_twice_is_fine(sink: LogSink) -> None:
    sink.write(make_record())
    await sink.aclose()
    await sink.aclose()

    assert sink.dropped == 0


async def test_flushing_nothing_returns(sink: LogSink) -> None:
    await sink.flush()

    assert sink.dropped == 0


def test_it_works_without_a_loop_and_with_several_one_after_another(case: Case) -> None:
    made = case.make()

    async def write_and_flush(record_id: str) -> None:
        made.write(make_record(id=record_id))
        await made.flush()

    made.write(make_record(id="no-loop"))
    asyncio.run(write_and_flush("first-loop"))
    asyncio.run(write_and_flush("second-loop"))

    assert case.read() == ["no-loop", "first-loop", "second-loop"]
    asyncio.run(made.aclose())


async def test_building_one_touches_nothing(case: Case, tmp_path: Path) -> None:
    sink = case.make()
    await sink.aclose()

    assert list(tmp_path.iterdir()) == []


async def test_hostile_text_neither_breaks_a_line_nor_gets_lost(case: Case, sink: LogSink) -> None:
    nasty = "a\r\nb\x1b[31m\x00\x9b31m\u2028\u2029\u202e=cmd()"
    sink.write(make_record(id="nasty", user_id=nasty, properties={"k": nasty}))
    sink.write(make_record(id="lone-surrogate", model_requested="\ud800", user_id="\udfff"))
    sink.write(make_record(id="after"))
    await sink.flush()

    assert case.read() == ["nasty", "lone-surrogate", "after"]


@pytest.mark.parametrize("kind", ["journal", "jsonl", "memory"])
async def test_every_call_is_counted_even_if_its_record_is_dropped(
    tmp_path: Path, kind: str
) -> None:
    metrics = Metrics()
    sinks: dict[str, Callable[[], LogSink]] = {
        "journal": lambda: JournalLogSink(tmp_path, metrics=metrics),
        "jsonl": lambda: JsonLinesLogSink(tmp_path / "calls.jsonl", metrics=metrics),
        "memory": lambda: MemoryLogSink(metrics=metrics),
    }
    sink = sinks[kind]()
    sink.write(make_record())
    await sink.aclose()
    sink.write(make_record())

    text = metrics.render().decode()
    assert 'dialect="openai",status="2xx"} 2\n' in text
    assert "llmgate_log_dropped_total 1\n" in text
