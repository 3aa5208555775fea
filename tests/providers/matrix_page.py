"""What each cell of the matrix drops and refuses: asked of the translators, written as a page.

    python -m tests.providers.matrix_page        # rewrites the tables of docs/dialects.md

Each field or piece of content goes through on its own, with all else plain, so that whatever is
dropped or refused is due to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asgi_llmgate.errors import TranslationError
from asgi_llmgate.providers.capabilities import capabilities_of
from asgi_llmgate.providers.inner import TargetInfo
from asgi_llmgate.providers.reach import DIALECTS, FORMATS
from asgi_llmgate.providers.translate import Translation, can_translate

PAGE = Path(__file__).parents[2] / "docs" / "dialects.md"
BEGIN = "<!-- Made by `python -m tests.providers.matrix_page`; a test holds it. -->\n"
END = "<!-- End of what is made. -->\n"

NAMES = {
    "openai-chat": "OpenAI chat",
    "openai-responses": "OpenAI Responses",
    "anthropic-messages": "Anthropic messages",
    "gemini": "Gemini",
    "bedrock-converse": "Bedrock Converse",
    "cohere-v2": "Cohere v2",
}
MODELS = {
    "openai-chat": ("openai", "gpt-4.1"),
    "openai-responses": ("openai", "gpt-5.4"),
    "anthropic-messages": ("anthropic", "claude-sonnet-4-6"),
    "gemini": ("google", "gemini-2.5-flash"),
    "bedrock-converse": ("amazon-bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0"),
    "cohere-v2": ("cohere", "command-a-03-2025"),
}

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
GRAMMAR = {"type": "grammar", "syntax": "regex", "definition": "a+"}
IMAGE = "iVBORw0KGgo="
PDF = "JVBERi0xLjQ="
WAV = "UklGRg=="
WEB = "https://example.com/x.png"

Features = Mapping[str, dict[str, Any]]


def _user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


CHAT_TOOL = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}
CHAT: Features = {
    "tools": {"tools": [CHAT_TOOL]},
    "tool_choice: required": {"tools": [CHAT_TOOL], "tool_choice": "required"},
    "tool_choice: none": {"tools": [CHAT_TOOL], "tool_choice": "none"},
    "parallel_tool_calls: false": {"tools": [CHAT_TOOL], "parallel_tool_calls": False},
    "custom tools": {"tools": [{"type": "custom", "custom": {"name": "c"}}]},
    "grammar of a custom tool": {
        "tools": [{"type": "custom", "custom": {"name": "c", "format": GRAMMAR}}]
    },
    "JSON schema": {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": SCHEMA, "strict": True},
        }
    },
    "JSON object": {"response_format": {"type": "json_object"}},
    "reasoning_effort": {"reasoning_effort": "low"},
    "verbosity": {"verbosity": "low"},
    "image as data": _user(
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{IMAGE}"}}
    ),
    "image by URL": _user({"type": "image_url", "image_url": {"url": WEB}}),
    "PDF as data": _user(
        {
            "type": "file",
            "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PDF}"},
        }
    ),
    "file id": _user({"type": "file", "file": {"file_id": "file-1"}}),
    "audio": _user({"type": "input_audio", "input_audio": {"data": WAV, "format": "wav"}}),
    "temperature": {"temperature": 0.5},
    "top_p": {"top_p": 0.5},
    "max_completion_tokens": {"max_completion_tokens": 99},
    "stop": {"stop": ["x"]},
    "n": {"n": 2},
    "seed": {"seed": 1},
    "presence_penalty": {"presence_penalty": 0.5},
    "frequency_penalty": {"frequency_penalty": 0.5},
    "logit_bias": {"logit_bias": {"5": 1}},
    "logprobs": {"logprobs": True, "top_logprobs": 2},
    "safety_identifier": {"safety_identifier": "u"},
    "metadata": {"metadata": {"a": "b"}},
    "service_tier": {"service_tier": "flex"},
    "store": {"store": True},
    "prompt_cache_key": {"prompt_cache_key": "k"},
    "prediction": {"prediction": {"type": "content", "content": "x"}},
    "web_search_options": {"web_search_options": {}},
    "audio out": {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}},
}


def _input(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"input": [{"role": "user", "content": list(parts)}]}


RESPONSES_TOOL = {"type": "function", "name": "f", "parameters": SCHEMA, "strict": True}
RESPONSES: Features = {
    "tools": {"tools": [RESPONSES_TOOL]},
    "tool_choice: required": {"tools": [RESPONSES_TOOL], "tool_choice": "required"},
    "parallel_tool_calls: false": {"tools": [RESPONSES_TOOL], "parallel_tool_calls": False},
    "custom tools": {"tools": [{"type": "custom", "name": "c"}]},
    "grammar of a custom tool": {"tools": [{"type": "custom", "name": "c", "format": GRAMMAR}]},
    "local shell": {"tools": [{"type": "local_shell"}]},
    "namespaces": {"tools": [{"type": "namespace", "name": "n", "tools": [RESPONSES_TOOL]}]},
    "hosted tools": {"tools": [{"type": "web_search"}]},
    "JSON schema": {
        "text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA, "strict": True}}
    },
    "reasoning.effort": {"reasoning": {"effort": "low"}},
    "reasoning.summary": {"reasoning": {"effort": "low", "summary": "auto"}},
    "image as data": _input({"type": "input_image", "image_url": f"data:image/png;base64,{IMAGE}"}),
    "image by URL": _input({"type": "input_image", "image_url": WEB}),
    "PDF as data": _input(
        {
            "type": "input_file",
            "filename": "a.pdf",
            "file_data": f"data:application/pdf;base64,{PDF}",
        }
    ),
    "file id": _input({"type": "input_file", "file_id": "file-1"}),
    "temperature": {"temperature": 0.5},
    "top_p": {"top_p": 0.5},
    "max_output_tokens": {"max_output_tokens": 99},
    "top_logprobs": {"top_logprobs": 2},
    "safety_identifier": {"safety_identifier": "u"},
    "metadata": {"metadata": {"a": "b"}},
    "service_tier": {"service_tier": "flex"},
    "truncation: auto": {"truncation": "auto"},
    "max_tool_calls": {"max_tool_calls": 3},
    "store": {"store": True},
    "background": {"background": True},
    "previous_response_id": {"previous_response_id": "resp_1"},
    "conversation": {"conversation": "conv_1"},
    "stored prompt": {"prompt": {"id": "pmpt_1"}},
}

CLAUDE_TOOL = {"name": "f", "input_schema": SCHEMA}
CLAUDE: Features = {
    "tools": {"tools": [CLAUDE_TOOL]},
    "tool_choice: any": {"tools": [CLAUDE_TOOL], "tool_choice": {"type": "any"}},
    "tool_choice: none": {"tools": [CLAUDE_TOOL], "tool_choice": {"type": "none"}},
    "disable_parallel_tool_use": {
        "tools": [CLAUDE_TOOL],
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
    },
    "server tools": {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
    "JSON schema": {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
    "output_config.effort": {"output_config": {"effort": "low"}},
    "thinking": {"max_tokens": 4096, "thinking": {"type": "enabled", "budget_tokens": 2048}},
    "image as data": _user(
        {
            "type": "image",
            "source": {"type": "base64", "media_type": "image/png", "data": IMAGE},
        }
    ),
    "image by URL": _user({"type": "image", "source": {"type": "url", "url": WEB}}),
    "PDF as data": _user(
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": PDF},
        }
    ),
    "PDF by URL": _user({"type": "document", "source": {"type": "url", "url": WEB}}),
    "file id": _user({"type": "document", "source": {"type": "file", "file_id": "file_1"}}),
    "cache_control": _user({"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}),
    "citations": _user(
        {
            "type": "document",
            "source": {"type": "text", "media_type": "text/plain", "data": "x"},
            "citations": {"enabled": True},
        }
    ),
    "temperature": {"temperature": 0.5},
    "top_p": {"top_p": 0.5},
    "top_k": {"top_k": 5},
    "stop_sequences": {"stop_sequences": ["x"]},
    "metadata.user_id": {"metadata": {"user_id": "u"}},
    "service_tier": {"service_tier": "standard_only"},
    "mcp_servers": {"mcp_servers": [{"type": "url", "url": "https://x.example", "name": "x"}]},
    "container": {"container": "c"},
}


def _contents(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"contents": [{"role": "user", "parts": list(parts)}]}


def _config(**fields: Any) -> dict[str, Any]:
    return {"generationConfig": fields}


DECLARED = {"tools": [{"functionDeclarations": [{"name": "f", "parametersJsonSchema": SCHEMA}]}]}
GEMINI: Features = {
    "functions": DECLARED,
    "mode: ANY": {**DECLARED, "toolConfig": {"functionCallingConfig": {"mode": "ANY"}}},
    "mode: NONE": {**DECLARED, "toolConfig": {"functionCallingConfig": {"mode": "NONE"}}},
    "googleSearch": {"tools": [{"googleSearch": {}}]},
    "codeExecution": {"tools": [{"codeExecution": {}}]},
    "JSON schema": _config(responseMimeType="application/json", responseJsonSchema=SCHEMA),
    "JSON object": _config(responseMimeType="application/json"),
    "thinkingConfig": _config(thinkingConfig={"thinkingBudget": 1024, "includeThoughts": True}),
    "image as data": _contents({"inlineData": {"mimeType": "image/png", "data": IMAGE}}),
    "image by URL": _contents({"fileData": {"mimeType": "image/png", "fileUri": WEB}}),
    "PDF as data": _contents({"inlineData": {"mimeType": "application/pdf", "data": PDF}}),
    "audio": _contents({"inlineData": {"mimeType": "audio/wav", "data": WAV}}),
    "temperature": _config(temperature=0.5),
    "topP": _config(topP=0.5),
    "topK": _config(topK=5),
    "maxOutputTokens": _config(maxOutputTokens=99),
    "stopSequences": _config(stopSequences=["x"]),
    "candidateCount": _config(candidateCount=2),
    "seed": _config(seed=1),
    "presencePenalty": _config(presencePenalty=0.5),
    "responseLogprobs": _config(responseLogprobs=True, logprobs=2),
    "speechConfig": _config(speechConfig={"voiceConfig": {}}),
    "responseModalities": _config(responseModalities=["TEXT", "AUDIO"]),
    "safetySettings": {
        "safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}]
    },
    "cachedContent": {"cachedContent": "cachedContents/1"},
    "labels": {"labels": {"a": "b"}},
}

FEATURES: Mapping[str, Features] = {
    "openai-chat": CHAT,
    "openai-responses": RESPONSES,
    "anthropic-messages": CLAUDE,
    "gemini": GEMINI,
}
PLAIN: Mapping[str, dict[str, Any]] = {
    "openai-chat": {"messages": [{"role": "user", "content": "Hi"}]},
    "openai-responses": {"input": "Hi"},
    "anthropic-messages": {"max_tokens": 99, "messages": [{"role": "user", "content": "Hi"}]},
    "gemini": {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]},
}


def fate(source: str, target: str, feature: str) -> str:
    """Return `carried`, `dropped` or `refused`."""
    provider, model = MODELS[target]
    to = TargetInfo(model, provider, capabilities_of(model))
    body = {"model": "m", **PLAIN[source], **FEATURES[source][feature]}
    translation = Translation(source, target, call_id="0198-aa", created=1)
    try:
        encoded = translation.request(body, to, model="m")
    except TranslationError:
        return "refused"
    return "dropped" if encoded.dropped else "carried"


def cell(source: str, target: str) -> dict[str, list[str]]:
    """Return features by their fate."""
    found: dict[str, list[str]] = {"carried": [], "dropped": [], "refused": []}
    for feature in FEATURES[source]:
        found[fate(source, target, feature)].append(feature)
    return found


def tables() -> str:
    """Return the made part of the page."""
    lines = [BEGIN, f"| from \\ to | {' | '.join(NAMES[target] for target in FORMATS)} |"]
    lines.append("|---" * (len(FORMATS) + 1) + "|")
    for source in DIALECTS:
        row = []
        for target in FORMATS:
            if not can_translate(source, target):
                row.append("relayed")
                continue
            fates = cell(source, target)
            total = sum(map(len, fates.values()))
            row.append(f"{len(fates['carried'])} of {total}")
        lines.append(f"| {NAMES[source]} | {' | '.join(row)} |")
    for source in DIALECTS:
        lines += ["", f"### From {NAMES[source]}", ""]
        lines += ["| to | dropped | refused |", "|---|---|---|"]
        for target in FORMATS:
            if not can_translate(source, target):
                continue
            fates = cell(source, target)
            shown = (" · ".join(fates[kind]) or "nothing" for kind in ("dropped", "refused"))
            model = MODELS[target][1]
            lines.append(f"| {NAMES[target]} (`{model}`) | {' | '.join(shown)} |")
    return "\n".join([*lines, "", END])


def rewritten(page: str) -> str:
    """Return the page with its made part made anew."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + tables() + after


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text()))
