from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from asgi_llmgate.assemble import registry_of
from asgi_llmgate.cli import cli
from asgi_llmgate.core.directives import DEFAULT
from asgi_llmgate.core.routes import route_for_format
from asgi_llmgate.core.targets import resolve_targets
from asgi_llmgate.settings import load_settings

CONFIG = """
model_list:
  - model_name: fast
    litellm_params:
      model: groq/llama-3.3-70b-versatile
      api_key: os.environ/GROQ_API_KEY
      rpm: 30
  - model_name: fast
    litellm_params: {model: gpt-4o-mini, api_key: os.environ/OPENAI_A, rpm: 10, max_tokens: 5}
  - model_name: big
    litellm_params: {model: openai/gpt-4o, api_key: os.environ/OPENAI_B}
  - model_name: own
    litellm_params:
      model: openai/llama
      api_base: http://vllm.internal:8000/v1
      api_key: sk-secret
router_settings:
  routing_strategy: simple-shuffle
  num_retries: 2
  allowed_fails: 3
  cooldown_time: 30
  fallbacks: [{"big": ["fast", "gone"]}]
  redis_host: localhost
  model_group_alias: {"gpt-4": "big", "hidden": {"model": "fast", "hidden": true}, "x": "gone"}
litellm_settings:
  request_timeout: 120
  cache: true
  cache_params: {type: redis, ttl: 600}
  drop_params: true
general_settings:
  master_key: os.environ/MASTER
  database_url: postgres://somewhere
"""


@pytest.fixture
def imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], str]:
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(CONFIG)
    done = CliRunner().invoke(cli, ["import", "litellm", "config.yaml"])
    assert done.exit_code == 0, done.output
    return tomllib.loads(Path("llmgate.toml").read_text()), done.output


def test_models_retries_and_timeouts_are_carried(imported: tuple[dict[str, Any], str]) -> None:
    toml, _ = imported

    assert toml["models"]["fast"] == {
        "targets": [
            {"target": "groq/llama-3.3-70b-versatile", "weight": 30},
            {"target": "openai/gpt-4o-mini", "weight": 10},
        ],
        "strategy": "weighted",
    }
    assert [target["target"] for target in toml["models"]["big"]["targets"]] == [
        "openai/gpt-4o",
        "groq/llama-3.3-70b-versatile",
        "openai/gpt-4o-mini",
    ]
    assert toml["models"]["big"]["strategy"] == "priority"
    assert toml["fallback"]["retry"]["attempts"] == 3
    assert toml["breaker"] == {"failures": 3, "open": 30, "max_open": 60}
    assert toml["upstream"]["timeouts"]["total"] == 120


def test_other_names_and_the_cache_are_carried(imported: tuple[dict[str, Any], str]) -> None:
    toml, told = imported

    assert toml["models"]["gpt-4"]["targets"][0]["target"] == "openai/gpt-4o"
    assert [target["target"] for target in toml["models"]["hidden"]["targets"]] == [
        target["target"] for target in toml["models"]["fast"]["targets"]
    ]
    assert toml["cache"] == {"enabled": True, "ttl": 600}
    assert "router_settings.model_group_alias.x" in told
    assert "litellm_settings.cache_params.type" in told


def test_what_is_written_are_settings_that_lead_somewhere(
    imported: tuple[dict[str, Any], str],
) -> None:
    registry = registry_of(load_settings())
    route = route_for_format("openai-chat", "/v1/chat/completions")
    urls = {
        name: [target.url() for target in resolve_targets(route, name, DEFAULT, registry)]
        for name in ("fast", "big", "own")
    }

    assert urls["own"] == ["http://vllm.internal:8000/v1/chat/completions"]
    assert len(urls["fast"]) == 2
    assert len(urls["big"]) == 3


def test_keys_become_variables_and_are_never_written(
    imported: tuple[dict[str, Any], str],
) -> None:
    _, output = imported

    assert 'LLMGATE_PROVIDERS__OPENAI__API_KEYS="$OPENAI_A,$OPENAI_B"' in output
    assert 'LLMGATE_PROVIDERS__GROQ__API_KEYS="$GROQ_API_KEY"' in output
    assert "the key written in model_list[4]" in output
    assert "LLMGATE_KEYS" in output
    assert "sk-secret" not in output + Path("llmgate.toml").read_text()


def test_what_could_not_be_carried_is_listed(imported: tuple[dict[str, Any], str]) -> None:
    _, output = imported

    for line in (
        "big: its fallback 'gone' is not in model_list",
        "model_list[2].litellm_params.max_tokens",
        "router_settings.redis_host",
        "litellm_settings.drop_params",
        "general_settings.database_url",
    ):
        assert line in output


def test_nothing_is_overwritten_unasked(imported: tuple[dict[str, Any], str]) -> None:
    again = CliRunner().invoke(cli, ["import", "litellm", "config.yaml"])
    forced = CliRunner().invoke(cli, ["import", "litellm", "config.yaml", "--force"])

    assert (again.exit_code, forced.exit_code) == (1, 0)


@pytest.mark.parametrize("text", ["a: [", "- 1", ""], ids=["broken", "list", "empty"])
def test_what_is_no_configuration_is_said_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    done = CliRunner().invoke(
        cli, ["import", "litellm", str(tmp_path / "c.yaml"), "--output", str(tmp_path / "o")]
    )

    assert done.exit_code == 1
    assert "Traceback" not in done.output
