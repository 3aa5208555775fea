"""Counters of all workers of a machine, as one scrape shows them."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from asgi_llmgate.backends.journal import JournalLogSink
from asgi_llmgate.backends.metrics import Metrics, render
from asgi_llmgate.backends.metrics_store import METRICS_FILE, MetricsStore
from asgi_llmgate.errors import BackendError
from tests.backends.records import make_record, wait_until

ROOT = Path(__file__).parent.parent.parent


def values(text: bytes) -> dict[str, float]:
    lines = (line for line in text.decode().splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def calls(text: bytes) -> dict[str, float]:
    return {k: v for k, v in values(text).items() if k.startswith("llmgate_calls_total")}


def series(model: str, status: str = "2xx") -> str:
    labels = f'provider="openai",model="{model}",dialect="openai",status="{status}"'
    return f"llmgate_calls_total{{{labels}}}"


@pytest.fixture(params=["file", "memory"])
def metrics(request: pytest.FixtureRequest, tmp_path: Path) -> Metrics:
    return Metrics(tmp_path if request.param == "file" else None)


def test_a_scrape_shows_what_was_counted(metrics: Metrics) -> None:
    for _ in range(3):
        metrics.observe(make_record())
    metrics.observe(make_record(status=None))
    metrics.count("llmgate_refused_total", reason="hygiene")
    metrics.count("llmgate_refused_total", 2, reason="hygiene")
    metrics.watch_gauge("llmgate_log_queue_length", lambda: 7)
    metrics.watch_counter("llmgate_log_dropped_total", lambda: 4)
    first, second = values(metrics.render()), values(metrics.render())
    metrics.close()

    model = "gpt-4o-mini-2024-07-18"
    assert first == second
    assert first[series(model)] == 3
    assert first[series(model, "none")] == 1
    assert first[f'llmgate_cost_usd_total{{provider="openai",model="{model}"}}'] == 0.004938268
    assert first['llmgate_refused_total{reason="hygiene"}'] == 3
    assert first["llmgate_log_queue_length"] == 7
    assert first["llmgate_log_dropped_total"] == 4


def test_nobody_fills_the_scrape_with_models_that_do_not_exist(metrics: Metrics) -> None:
    for number in range(1000):
        record = make_record(status=404, model=None, model_requested=f"invented-{number}")
        metrics.observe(record)
    metrics.observe(make_record())
    metrics.observe(make_record(status=500, model=None))
    counted = calls(metrics.render())
    metrics.close()

    known = "gpt-4o-mini-2024-07-18"
    assert counted == {series("other", "4xx"): 1000, series(known): 1, series(known, "5xx"): 1}


def test_labels_say_nothing_about_who_calls(metrics: Metrics) -> None:
    metrics.observe(make_record(tenant="T-secret", user_id="U-secret", principal_id="K-secret"))
    text = metrics.render()
    metrics.close()

    assert b"secret" not in text


def test_a_metric_has_a_name_that_prometheus_takes(metrics: Metrics) -> None:
    with pytest.raises(ValueError, match="name of a metric"):
        metrics.count('bad{name="x"} 1\n')


def test_sets_of_labels_are_bounded_on_the_machine(tmp_path: Path) -> None:
    for _worker in range(2):
        metrics = Metrics(tmp_path, max_label_sets=5)
        for number in range(20):
            metrics.observe(make_record(model=f"m{number}", model_requested=f"m{number}"))
            metrics.count("llmgate_odd_total", kind=str(number))
        metrics.close()
    found = values(render(tmp_path))

    counted = {k: v for k, v in found.items() if k.startswith("llmgate_calls_total")}
    odd = {k: v for k, v in found.items() if k.startswith("llmgate_odd_total")}
    assert sum(counted.values()) == sum(odd.values()) == 40
    assert len(counted) == 6
    assert len(odd) <= 11
    assert counted[series("other")] == 30
    assert odd['llmgate_odd_total{kind="other"}'] >= 30


def test_processes_are_added_up_and_those_that_ended_still_count(tmp_path: Path) -> None:
    code = f"""if 1:
        from pathlib import Path
        from asgi_llmgate.backends.metrics import Metrics
        from tests.backends.records import make_record
        metrics = Metrics(Path({str(tmp_path)!r}))
        for _ in range(50):
            metrics.observe(make_record())
    """
    workers = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) for _ in range(4)]
    assert [worker.wait(60) for worker in workers] == [0] * 4
    own = Metrics(tmp_path)
    own.observe(make_record())
    text = render(tmp_path)
    own.close()

    assert calls(text) == {series("gpt-4o-mini-2024-07-18"): 201}


def test_figures_are_published_without_anybody_asking(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path)
    metrics.observe(make_record())
    store = MetricsStore(tmp_path, max_label_sets=10)

    wait_until(lambda: bool(store.read()[0]))
    metrics.close()


def test_a_queue_that_is_stuck_keeps_showing_and_goes_down_again(tmp_path: Path) -> None:
    length = 5
    metrics = Metrics(tmp_path)
    metrics.watch_gauge("llmgate_log_queue_length", lambda: length)
    metrics.count("llmgate_any_total")
    store = MetricsStore(tmp_path, max_label_sets=10)
    wait_until(lambda: store.read()[1] == {"llmgate_log_queue_length": 5})
    length = 0

    wait_until(lambda: store.read()[1] == {"llmgate_log_queue_length": 0})
    metrics.close()


def test_a_gauge_of_a_dead_process_does_not_count(tmp_path: Path) -> None:
    store = MetricsStore(tmp_path, max_label_sets=10)
    store.add({}, {"llmgate_log_queue_length": 5}, process="dead")
    store.add({}, {"llmgate_log_queue_length": 2}, process="alive")
    connection = apsw.Connection(str(tmp_path / METRICS_FILE))
    connection.execute("UPDATE gauges SET at_us = at_us - 11000000 WHERE process = 'dead'")
    connection.close()

    assert store.read()[1] == {"llmgate_log_queue_length": 2}
    store.close()


def test_what_cannot_be_written_is_kept_and_added_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = Metrics(tmp_path)
    metrics.watch_counter("llmgate_log_dropped_total", lambda: 3)
    metrics.observe(make_record())
    metrics.publish()
    other = apsw.Connection(str(tmp_path / METRICS_FILE))
    other.execute("BEGIN EXCLUSIVE")
    with caplog.at_level(logging.ERROR):
        for _ in range(2):
            metrics.observe(make_record())
            metrics.count("llmgate_any_total", a="b")
            metrics.publish()
    other.execute("ROLLBACK")
    other.close()
    found = values(metrics.render())
    metrics.close()

    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "Metrics cannot be written"
    ]
    assert found[series("gpt-4o-mini-2024-07-18")] == 3
    assert found['llmgate_any_total{a="b"}'] == 2
    assert found["llmgate_log_dropped_total"] == 3


def test_a_forked_child_adds_its_own_only(tmp_path: Path) -> None:
    code = f"""if 1:
        import os
        from pathlib import Path
        from asgi_llmgate.backends.metrics import Metrics
        from tests.backends.records import make_record
        metrics = Metrics(Path({str(tmp_path)!r}))
        metrics.observe(make_record())
        metrics.publish()
        metrics.observe(make_record())
        child = os.fork()
        metrics.observe(make_record())
        if child:
            assert os.waitpid(child, 0)[1] == 0
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60)

    assert done.returncode == 0
    assert calls(render(tmp_path)) == {series("gpt-4o-mini-2024-07-18"): 4}


def test_a_folder_without_metrics_renders_zero_families_and_makes_nothing(tmp_path: Path) -> None:
    assert b"# TYPE llmgate_calls_total counter\n" in render(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_broken_file_is_a_backend_error(tmp_path: Path) -> None:
    (tmp_path / METRICS_FILE).write_bytes(os.urandom(5000))

    with pytest.raises(BackendError):
        render(tmp_path)


def test_a_journal_counts_into_the_same_folder_unless_told_otherwise(tmp_path: Path) -> None:
    sink = JournalLogSink(tmp_path)
    sink.write(make_record())
    sink.close()
    sink.write(make_record())

    found = values(render(tmp_path))
    assert found[series("gpt-4o-mini-2024-07-18")] == 2
    assert found["llmgate_log_dropped_total"] == 1
    assert found["llmgate_log_queue_length"] == 0
