"""The gateway of the shop: whoever is logged in to Django is who calls."""

from asgi_llmgate import LLMGate, RoutePolicy
from asgi_llmgate.auth import django_session

gate = LLMGate(
    authenticate=django_session(tenant="shop", user_id=lambda user: user.get_username()),
    policies=[
        RoutePolicy(
            "/v1/chat/completions",
            methods=["POST"],
            identity="require",
            models=["gpt-4o-mini"],
            default={"Property-Feature": "chat"},
        ),
        RoutePolicy("*", providers=[]),
    ],
)
