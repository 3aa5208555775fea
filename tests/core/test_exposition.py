from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from asgi_llmgate.core.call_sums import BOUNDS_S, add_call, call_families, zeros
from asgi_llmgate.core.exposition import Family, exposition
from asgi_llmgate.types import CallRecord
from tests.backends.records import make_record

LABELS = (("provider", "openai"), ("model", "small"))


def scrape(*records: CallRecord) -> dict[str, float]:
    numbers = zeros()
    for record in records:
        add_call(numbers, record)
    text = exposition(call_families({LABELS: [len(records)]}, {LABELS: numbers})).decode()
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    return {name.replace('provider="openai",model="small"', ""): float(v) for name, v in lines}


def test_every_family_has_its_help_and_type_once() -> None:
    text = exposition([Family("a_total", "counter", "Two\nlines \\.", [("", (), 3)])])

    assert text == b"# HELP a_total Two\\nlines \\\\.\n# TYPE a_total counter\na_total 3\n"


def test_label_values_are_escaped() -> None:
    labels = (("model", 'a"b\\c\nd'), ("x", "é"))
    last = exposition([Family("m", "gauge", "M.", [("", labels, 0.5)])]).decode().splitlines()[-1]

    assert last == r'm{model="a\"b\\c\nd",x="é"} 0.5'


@given(st.text())
def test_no_label_value_breaks_out_of_its_line(value: str) -> None:
    text = exposition([Family("m", "gauge", "M.", [("", (("l", value),), 1)])]).decode()

    assert re.fullmatch(r'm\{l="(?:[^"\\\n]|\\["\\n])*"\} 1', text.split("\n")[2])


def test_tokens_and_cost_are_added_up() -> None:
    values = scrape(make_record(), make_record(cost_nanousd=None, input_tokens=None))

    assert values['llmgate_tokens_total{,direction="input"}'] == 100
    assert values['llmgate_tokens_total{,direction="output"}'] == 20
    assert values['llmgate_tokens_total{,direction="cache_read"}'] == 10
    assert values['llmgate_tokens_total{,direction="reasoning"}'] == 5
    assert values["llmgate_cost_usd_total{}"] == 0.001234567


def test_histograms_are_cumulative_and_count_their_bounds_in() -> None:
    values = scrape(
        make_record(duration_ms=5.0, first_byte_ms=None),
        make_record(duration_ms=5.001, first_byte_ms=1.0),
        make_record(duration_ms=10_000_000.0, first_byte_ms=1.0),
    )
    name = "llmgate_call_duration_seconds"

    assert values[f'{name}_bucket{{,le="0.005"}}'] == 1
    assert values[f'{name}_bucket{{,le="0.01"}}'] == 2
    assert values[f'{name}_bucket{{,le="655.36"}}'] == 2
    assert values[f'{name}_bucket{{,le="+Inf"}}'] == values[f"{name}_count{{}}"] == 3
    assert values[f"{name}_sum{{}}"] == 10_000.010001
    assert values["llmgate_first_byte_seconds_count{}"] == 2


@given(st.floats(min_value=0, max_value=1e7))
def test_a_call_falls_into_the_first_bucket_that_holds_it(duration_ms: float) -> None:
    values = scrape(make_record(duration_ms=duration_ms))
    for bound in BOUNDS_S:
        count = values[f'llmgate_call_duration_seconds_bucket{{,le="{bound!r}"}}']
        assert count == (duration_ms <= 1000 * bound)
