"""Secrets that must turn up nowhere but where they belong, and a way to send them."""

from __future__ import annotations

import httpx

from tests.servers import Gateway

GATEWAY_KEY = "lg_test_canary_gateway_key_0123456789"
POOLED_KEY = "sk-canary-pooled-openai-key"
POOLED_ANTHROPIC_KEY = "sk-ant-canary-pooled-key"
CALLER_KEY = "sk-canary-callers-own-key"
ADMIN_TOKEN = "canary-admin-token-0123456789abcdef"
COOKIE = "canary-session-cookie"
CANARIES = (GATEWAY_KEY, POOLED_KEY, POOLED_ANTHROPIC_KEY, CALLER_KEY, ADMIN_TOKEN, COOKIE)

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}
MESSAGE = {"model": "claude-sonnet-4-6", "max_tokens": 100, "messages": CHAT["messages"]}


def post(
    gateway: Gateway, path: str = "/v1/chat/completions", body: object = CHAT, **headers: str
) -> httpx.Response:
    """Send a JSON body; underscores in header names stand for hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return gateway.http.post(path, headers=named, json=body)
