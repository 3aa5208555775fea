"""What logging costs: `pytest -m bench -s tests/backends/test_log_bench.py`."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from asgi_llmgate.backends.journal import JournalLogSink
from asgi_llmgate.backends.journal_reader import JournalReader
from asgi_llmgate.backends.metrics import Metrics
from asgi_llmgate.core.stats import CallFilter
from tests.backends.records import make_record

pytestmark = pytest.mark.bench

MILLION = 1_000_000


@pytest.mark.parametrize("body_bytes", [0, 500, 4000])
def test_writing_a_record_costs_less_than_its_budget(tmp_path: Path, body_bytes: int) -> None:
    body = b'{"role":"user","content":"%s"}' % random.randbytes(body_bytes // 2).hex().encode()
    bodies = {"request_body": body, "response_body": body} if body_bytes else {}
    records = [make_record(**bodies) for _ in range(20_000)]
    sink = JournalLogSink(tmp_path)
    sink.write(records[0])
    assert sink.flush_blocking()
    on_path_s = 0.0
    started_s = time.process_time()
    for batch in range(0, len(records), 500):
        before_s = time.thread_time()
        for record in records[batch : batch + 500]:
            sink.write(record)
        on_path_s += time.thread_time() - before_s
        assert sink.flush_blocking()
    total_us = (time.process_time() - started_s) / len(records) * 1e6
    sink.close()

    on_path_us = on_path_s / len(records) * 1e6
    print(
        f"\n2 x {len(body) if bodies else 0} bytes: {on_path_us:.2f} µs in write, "
        f"{total_us:.1f} µs of CPU in all, metrics included"
    )
    assert sink.dropped == 0
    assert on_path_us <= 5
    assert body_bytes or total_us <= 25


def test_counting_a_call_costs_two_microseconds() -> None:
    metrics, record = Metrics(), make_record()
    started_s = time.process_time()
    for _ in range(100_000):
        metrics.observe(record)
    took_us = (time.process_time() - started_s) * 10
    metrics.close()

    print(f"\n{took_us:.2f} µs")
    assert took_us <= 3


@pytest.fixture(scope="module")
def million(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("million")
    sink = JournalLogSink(folder, queue=100_000)
    for number in range(MILLION):
        sink.write(
            make_record(
                started_at_us=1_800_000_000_000_000 + 2_592_000 * number,  # 30 days of them.
                duration_ms=random.lognormvariate(7, 1),
                first_byte_ms=random.lognormvariate(5, 1),
                user_id=f"user-{number % 5000}",
                properties={"env": random.choice(["prod", "dev"])},
            )
        )
        if number % 50_000 == 0:
            assert sink.flush_blocking(60)
    sink.close()
    assert sink.dropped == 0
    return folder


def test_questions_to_a_million_calls(million: Path) -> None:
    size = (million / "journal.sqlite").stat().st_size / MILLION
    print(f"\n{size:.0f} bytes per call")
    last_day = CallFilter(since_us=1_800_000_000_000_000 + 2_592_000 * 967_000)
    reader = JournalReader(million)
    questions: dict[str, Callable[[], object]] = {
        **{
            f"stats by {by}": lambda by=by: reader.stats(by)  # type: ignore[misc]
            for by in ("model", "user", "day", "status", "property:env")
        },
        "stats by user, last day": lambda: reader.stats("user", last_day),
        "stats by model, one property": lambda: reader.stats(
            "model", CallFilter(properties={"env": "dev"})
        ),
        "tail 20": lambda: reader.tail(20),
        "tail 20 of one user": lambda: reader.tail(20, CallFilter(user="user-7")),
        "get by prefix": lambda: reader.get(reader.tail(1)[0][0].id[:30]),
    }
    for name, ask in questions.items():
        started = time.perf_counter()
        ask()
        took_s = time.perf_counter() - started
        print(f"{name:<30} {took_s:8.3f} s")
        assert took_s < 10
    reader.close()
