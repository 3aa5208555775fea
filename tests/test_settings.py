from __future__ import annotations

from pathlib import Path

import pytest

from asgi_llmgate.assemble import registry_of
from asgi_llmgate.errors import ConfigurationError
from asgi_llmgate.settings import load_settings


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LLMGATE_CONFIG", raising=False)


def test_the_environment_beats_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "llmgate.toml").write_text('[log]\nbodies = "none"\nmax_age_days = 7\n')
    monkeypatch.setenv("LLMGATE_LOG__BODIES", "full")

    log = load_settings().log

    assert (log.bodies, log.max_age_days) == ("full", 7)


def test_every_mistake_is_named_at_once_and_no_value_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LLMGATE_KEYS", "sk-secret-without-a-name")
    monkeypatch.setenv("LLMGATE_LOG__BODIES", "sk-other-secret")
    monkeypatch.setenv("LLMGATE_PROVIDERS__OPENAI__NONSENSE", "1")

    with pytest.raises(ConfigurationError) as caught:
        load_settings()

    message = str(caught.value)
    for name in ("LLMGATE_KEYS", "LLMGATE_LOG__BODIES", "LLMGATE_PROVIDERS__OPENAI__NONSENSE"):
        assert name in message
    assert "secret" not in message
    assert "HINT" in message


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"MODE": "threshold"}, "mode threshold and semantic.threshold belong together"),
        ({"SEMANTIC__THRESHOLD": "0.9"}, "mode threshold and semantic.threshold belong together"),
        ({"SEMANTIC__CONTEXT": "window"}, "expected full, none, or window:k with k from 1 to 8"),
        ({"SEMANTIC__MAX_ERRORS": '{"shop": 2}'}, "expected shares above 0, up to 0.5"),
        ({"SEMANTIC__MAX_ERROR": "0"}, "greater than 0"),
        ({"MODE": "fuzzy"}, "'auto', 'exact', 'semantic' or 'threshold'"),
    ],
    ids=str,
)
def test_a_semantic_cache_that_cannot_be_is_refused(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], message: str
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(f"LLMGATE_CACHE__{name}", value)

    with pytest.raises(ConfigurationError) as caught:
        load_settings()

    assert message in str(caught.value)
    assert "LLMGATE_CACHE" in str(caught.value)


def test_a_file_that_is_named_must_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMGATE_CONFIG", "nowhere.toml")

    with pytest.raises(ConfigurationError, match=r"nowhere\.toml"):
        load_settings()


def test_a_file_that_is_no_toml_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "llmgate.toml").write_text("= 3")

    with pytest.raises(ConfigurationError, match="TOML"):
        load_settings()


def test_a_name_is_not_used_for_two_keys() -> None:
    with pytest.raises(ConfigurationError, match="twice"):
        load_settings(keys="a:lg_1,a:lg_2")


def test_a_provider_is_added_in_four_lines(tmp_path: Path) -> None:
    (tmp_path / "llmgate.toml").write_text(
        '[providers.house]\nbase_url = "http://127.0.0.1:9/v1"\napi_key = "k"\nauth = "bearer"\n'
    )

    provider = registry_of(load_settings(), {}).get("house")

    assert provider is not None
    assert provider.base_url("openai-chat") == "http://127.0.0.1:9/v1"
    assert [key.id for key in provider.keys] == ["default"]


def test_several_keys_have_ids_and_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "llmgate.toml").write_text(
        '[[providers.openai.keys]]\nid = "main"\nkey = "sk-1"\nweight = 3\n'
        '[[providers.openai.keys]]\nid = "spare"\nkey = "sk-2"\n'
    )
    monkeypatch.setenv("LLMGATE_PROVIDERS__GROQ__API_KEYS", "gsk-1, gsk-2")

    registry = registry_of(load_settings(), {})
    openai, groq = registry.get("openai"), registry.get("groq")

    assert openai is not None
    assert groq is not None
    assert [(key.id, key.weight) for key in openai.keys] == [("main", 3), ("spare", 1)]
    assert [key.id for key in groq.keys] == ["key-1", "key-2"]
    assert "sk-1" not in repr(openai)


def test_the_names_that_the_sdks_read_work_too() -> None:
    openai = registry_of(load_settings(), {"OPENAI_API_KEY": "sk-x"}).get("openai")

    assert openai is not None
    assert openai.keys[0].key.reveal() == "sk-x"
