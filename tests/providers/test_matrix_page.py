"""The tables of docs/dialects.md are those of the code."""

from __future__ import annotations

import pytest

from asgi_llmgate.providers.embeddings import SOURCES, TARGETS, can_translate_embeddings
from asgi_llmgate.providers.reach import COUNTED, DIALECTS, FORMATS, REACH
from asgi_llmgate.providers.translate import INBOUND, OUTBOUND, can_translate
from tests.providers.matrix_page import FEATURES, PAGE, rewritten


def test_the_page_says_what_the_code_does() -> None:
    page = PAGE.read_text()

    assert page == rewritten(page), "run `python -m tests.providers.matrix_page`"


@pytest.mark.parametrize("source", DIALECTS)
def test_every_dialect_has_features_to_ask_about(source: str) -> None:
    assert len(FEATURES[source]) > 20


def test_the_table_of_reach_is_that_of_the_translators() -> None:
    assert set(DIALECTS) == set(INBOUND)
    assert set(FORMATS) == set(OUTBOUND)
    for source, reached in REACH.items():
        if source in COUNTED:  # Nobody is asked: any format will do.
            assert set(reached) == set(FORMATS) - {COUNTED[source]}
        elif source in SOURCES:
            assert set(reached) == {t for t in TARGETS if can_translate_embeddings(source, t)}
        else:
            assert set(reached) == {t for t in FORMATS if can_translate(source, t)}
