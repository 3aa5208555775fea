from __future__ import annotations

from asgi_llmgate.backends.metrics import Metrics
from tests.backends.records import PLAIN


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
