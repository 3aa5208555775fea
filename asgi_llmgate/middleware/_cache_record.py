"""Whether the answer that has just gone by may be kept."""

from __future__ import annotations

from asgi_llmgate.context import GatewayContext
from asgi_llmgate.core.replay import ARRAY, JSON, Form, form_of, whole_form
from asgi_llmgate.middleware._flight import Flight

__all__ = ["recorded"]


def recorded(
    flight: Flight, context: GatewayContext, wire_format: str
) -> tuple[Form, bytes] | None:
    """Return form and body of a whole and clean answer; None for any other."""
    if not flight.is_kept or len(flight.messages) < 2 or context.error_code is not None:
        return None
    start, *rest = flight.messages
    if start["type"] != "http.response.start" or start["status"] != 200:
        return None
    if any(message["type"] != "http.response.body" for message in rest):
        return None  # Trailers, pushes, files by path.
    if rest[-1].get("more_body", False):
        return None
    headers = {name.lower(): value for name, value in start.get("headers", ())}
    # A cookie is somebody's own; what is compressed is not read here.
    if b"set-cookie" in headers or headers.get(b"content-encoding", b"identity") != b"identity":
        return None
    form = form_of(wire_format, headers.get(b"content-type", b"").lower())
    if form is None:
        return None
    body = b"".join([message.get("body", b"") for message in rest])
    if form == JSON and wire_format == "gemini" and body.lstrip()[:1] == b"[":
        form = ARRAY
    if context.metered and not context.complete:
        return None
    whole = whole_form(wire_format, form, body)
    return None if whole is None else (whole, body)
