"""The shop with models: what was added is all in this file."""

from openai import AsyncOpenAI
from shop import FAQ, PRODUCTS, SECRET, User, app

from asgi_llmgate import LLMGate, RoutePolicy
from asgi_llmgate.auth import HostRequestMiddleware, jwt
from asgi_llmgate.middleware import InvalidateOn
from asgi_llmgate.settings import load_settings

gate = LLMGate(
    # An answer that two customers got alike is given to all.
    load_settings(cache={"semantic": {"scope": "tenant"}}),
    authenticate=jwt(secret=SECRET, audience="shop", tenant="shop"),
    policies=[
        # Customers may chat, with the small models; each call is somebody's.
        RoutePolicy(
            "/v1/chat/completions",
            methods=["POST"],
            identity="require",
            models=["gpt-4o-mini", "gpt-4.1-*"],
            default={"Property-Feature": "chat"},
        ),
        # Nothing of what is searched for is kept.
        RoutePolicy(
            "/v1/embeddings",
            methods=["POST"],
            identity="require",
            force={"Omit-Request": True, "Property-Feature": "search"},
        ),
        # All other routes are closed.
        RoutePolicy("*", providers=[]),
    ],
)

app.mount("/llm", gate)
app.add_middleware(HostRequestMiddleware)
# A product was changed through the shop's API: stored answers about products are not given again.
app.add_middleware(
    InvalidateOn, rules={"POST|PUT|PATCH|DELETE /products*": ["kb:products"]}, cache=gate.cache
)

models = AsyncOpenAI(api_key="-", http_client=gate.http_client())


@app.post("/recommend")
async def recommend(user: User, about: str) -> dict[str, str | None]:
    """Call a model from a view: through the gateway, without a socket, for who is logged in."""
    answer = await models.chat.completions.create(
        model="gpt-4o-mini",
        messages=[{"role": "user", "content": f"Recommend something about {about}."}],
        extra_headers={"LLMGate-Property-Feature": "recommend"},
    )
    return {"for": user, "text": answer.choices[0].message.content}


@app.post("/ask")
async def ask(user: User, question: str) -> dict[str, str | None]:
    """Answer from the cache what was asked before, by whomever, until a product changes."""
    gate.cache.depends_on("kb:products")  # before the data is read
    answer = await models.chat.completions.create(
        model="gpt-4o-mini",
        messages=[
            {"role": "system", "content": f"You sell these, and nothing else: {list(PRODUCTS)}"},
            {"role": "user", "content": question},
        ],
        extra_headers={"LLMGate-Cache-Enabled": "true", "LLMGate-Property-Feature": "ask"},
    )
    return {"text": answer.choices[0].message.content}


@app.post("/faq")
async def faq(user: User, question: str) -> dict[str, str | None]:
    """Answer common questions; asked in other words, they are answered from the cache."""
    answer = await models.chat.completions.with_raw_response.create(
        model="gpt-4o-mini",
        temperature=0,
        messages=[
            {"role": "system", "content": f"Answer from this text, and from nothing else: {FAQ}"},
            {"role": "user", "content": question},
        ],
        extra_headers={"LLMGate-Cache-Enabled": "true", "LLMGate-Property-Feature": "faq"},
    )
    text = answer.parse().choices[0].message.content
    return {"text": text, "cache": answer.headers["llmgate-cache"]}
