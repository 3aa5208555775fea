from __future__ import annotations

import re

import pytest

from asgi_llmgate.backends.metrics import HELP, Metrics
from tests.backends.records import PLAIN
from tests.conftest import ROOT


def test_what_the_cache_saved_is_counted() -> None:
    metrics = Metrics()
    metrics.observe(PLAIN._replace(cache="HIT", saved_nanousd=2_000_000_000))
    metrics.observe(PLAIN._replace(cache="MISS"))
    metrics.observe(PLAIN)
    text = metrics.render().decode()
    metrics.close()

    assert 'llmgate_cache_total{status="HIT"} 1' in text
    assert 'llmgate_cache_total{status="MISS"} 1' in text
    assert "llmgate_cache_saved_usd_total 2" in text


@pytest.mark.parametrize(
    ("reason", "tier"),
    [(None, "exact"), ("semantic;sim=0.962;p=0.994", "semantic"), ("stale-if-error", "exact")],
)
def test_hits_are_told_apart_by_the_tier_that_knew_the_answer(
    reason: str | None, tier: str
) -> None:
    metrics = Metrics()
    hit = PLAIN._replace(cache="HIT", cache_reason=reason, saved_nanousd=3_000_000_000)
    metrics.observe(hit)
    metrics.observe(PLAIN._replace(cache="MISS", cache_reason="below"))
    text = metrics.render().decode()
    metrics.close()

    assert f'llmgate_cache_hits_total{{tier="{tier}"}} 1' in text
    assert text.count("llmgate_cache_hits_total{") == 1
    assert ("llmgate_semantic_saved_usd_total 3" in text) is (tier == "semantic")


def test_every_counter_of_the_semantic_tier_has_words_for_who_reads_it() -> None:
    folder = ROOT / "asgi_llmgate"
    sources = [*(folder / "middleware").glob("*.py"), folder / "learned.py"]
    counted = {
        f"llmgate_semantic_{name}"
        for source in sources
        for name in re.findall(
            r"""(?:tier|self)\.(?:count|_counted)\(\s*"(\w+_total)\"""", source.read_text()
        )
        if f"llmgate_{name}" not in HELP
    }

    assert len(counted) >= 8
    assert counted <= HELP.keys()
