"""Translate chat requests as litellm does. Runs in litellm's own virtual environment.

    python theirs.py < cases.json > answers.json

A case is `{"provider": …, "model": …, "body": …}`; its answer is the body litellm would send, or
`{"error": …}`. Nothing is sent anywhere.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # no network

import litellm
from litellm.types.utils import LlmProviders
from litellm.utils import ProviderConfigManager, get_optional_params

PROVIDERS = {
    "anthropic-messages": ("anthropic", LlmProviders.ANTHROPIC),
    "gemini": ("gemini", LlmProviders.GEMINI),
    "bedrock-converse": ("bedrock", LlmProviders.BEDROCK),
    "cohere-v2": ("cohere_chat", LlmProviders.COHERE_CHAT),
}


def theirs(target: str, model: str, body: dict[str, Any]) -> Any:
    name, provider = PROVIDERS[target]
    rest = {key: value for key, value in body.items() if key not in ("model", "messages", "stream")}
    messages = body["messages"]
    params = get_optional_params(
        model=model, custom_llm_provider=name, drop_params=True, messages=messages, **rest
    )
    if target == "gemini":
        from litellm.llms.vertex_ai.gemini.transformation import _transform_request_body

        return _transform_request_body(
            messages=messages,
            model=model,
            optional_params=params,
            custom_llm_provider="gemini",
            litellm_params={},
            cached_content=None,
        )
    config = ProviderConfigManager.get_provider_chat_config(model, provider)
    assert config is not None
    return config.transform_request(model, messages, params, {}, {})


if __name__ == "__main__":
    litellm.drop_params = True
    answers = []
    for case in json.load(sys.stdin):
        try:
            answers.append(theirs(case["target"], case["model"], case["body"]))
        except Exception as error:  # noqa: BLE001 -- what litellm refuses is an answer, too
            answers.append({"error": f"{type(error).__name__}: {str(error)[:300]}"})
    json.dump(answers, sys.stdout, default=str)
