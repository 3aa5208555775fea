"""The innermost application: one call of one provider.

request.py   target and key → method, URL, headers, body
relay.py     the provider's answer → the caller, metered on the way
count.py     how many tokens, where the provider cannot be asked
app.py       the ASGI application that joins them
"""

from __future__ import annotations

from asgi_llmgate.dispatch.app import Dispatch

__all__ = ["Dispatch"]
