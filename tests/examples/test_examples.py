"""The examples as their READMEs start them: on a real server, called from outside by a real SDK."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests import wire
from tests.conftest import ROOT
from tests.e2e.conftest import Calls
from tests.processes import clean_environment
from tests.provider import Provider
from tests.servers import Gateway, all_at, running_gateway

EXAMPLES = ROOT / "examples"
MESSAGES: Any = [{"role": "user", "content": "Hi"}]
POOLED_KEY = "sk-of-the-shop"


def environment(provider: Provider, folder: str) -> dict[str, str]:
    path = f"{EXAMPLES / folder}:{ROOT}"
    return all_at(provider.url) | {"OPENAI_API_KEY": POOLED_KEY, "PYTHONPATH": path}


@pytest.fixture(scope="module")
def fastapi_shop(
    provider_server: Provider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    env = environment(provider_server, "fastapi_app")
    with running_gateway(tmp_path_factory.mktemp("fastapi"), env, app="main:app") as shop:
        yield shop


@pytest.fixture(scope="module")
def django_shop(
    provider_server: Provider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("django")
    env = environment(provider_server, "django_app") | {"SHOP_DATABASE": str(folder / "db.sqlite3")}
    manage(env, "migrate", "--verbosity", "0")
    manage(
        env,
        "shell",
        "-c",
        "from django.contrib.auth.models import User;"
        "User.objects.create_user('ada', password='lovelace')",
    )
    arguments = ["--lifespan", "off"]
    app = "shop.asgi:application"
    with running_gateway(folder, env, app=app, arguments=arguments) as shop:
        yield shop


def manage(env: dict[str, str], *arguments: str) -> None:
    command = [sys.executable, str(EXAMPLES / "django_app" / "manage.py"), *arguments]
    done = subprocess.run(
        command, env=clean_environment() | env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def token_of(shop: Gateway, name: str = "ada", password: str = "lovelace") -> str:
    answer = shop.http.post("/login", params={"name": name, "password": password})
    return str(answer.json()["token"])


def sdk(shop: Gateway, key: str, **headers: str) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{shop.url}/llm/v1", api_key=key, default_headers=headers, max_retries=0
    )


def test_a_call_with_the_shops_own_token_is_the_users(
    fastapi_shop: Gateway, provider: Provider
) -> None:
    calls = Calls(fastapi_shop)
    token = token_of(fastapi_shop)
    with sdk(fastapi_shop, token) as client:
        answer = client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES)
    record = calls.one()

    assert answer.choices[0].message.content == wire.TEXT
    assert (record["tenant"], record["user_id"], record["user_trust"]) == (
        "shop",
        "ada",
        "verified",
    )
    assert record["properties"] == {"feature": "chat"}
    assert provider.last.header("authorization") == f"Bearer {POOLED_KEY}"
    assert token.encode() not in provider.last.everything


def test_a_view_calls_a_model_for_who_is_logged_in(
    fastapi_shop: Gateway, provider: Provider
) -> None:
    calls = Calls(fastapi_shop)
    for name, password in (("ada", "lovelace"), ("grace", "hopper")):
        token = token_of(fastapi_shop, name, password)
        answer = fastapi_shop.http.post(
            "/recommend", params={"about": "engines"}, headers={"authorization": f"Bearer {token}"}
        )
        assert answer.json() == {"for": name, "text": wire.TEXT}
    records = calls.new(2)

    assert [record["user_id"] for record in records] == ["ada", "grace"]
    assert {record["user_trust"] for record in records} == {"verified"}
    assert records[0]["properties"] == {"feature": "recommend"}


def test_each_route_has_its_policy(fastapi_shop: Gateway, provider: Provider) -> None:
    calls = Calls(fastapi_shop)
    with sdk(fastapi_shop, token_of(fastapi_shop)) as client:
        with pytest.raises(openai.PermissionDeniedError, match="Allowed: gpt-4o-mini, gpt"):
            client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        with pytest.raises(openai.PermissionDeniedError, match="nothing is allowed here"):
            client.responses.create(model="gpt-4o-mini", input="Hi")
        client.embeddings.create(model="text-embedding-3-small", input="engines")
    *_, searched = calls.new(3)

    assert (searched["status"], searched["request_body"]) == (200, None)
    assert searched["properties"] == {"feature": "search"}
    assert len(provider.asked) == 1


def test_a_product_update_makes_the_next_question_about_it_a_miss(
    fastapi_shop: Gateway, provider: Provider
) -> None:
    calls = Calls(fastapi_shop)
    login = {"authorization": f"Bearer {token_of(fastapi_shop)}"}

    def ask() -> None:
        question = {"question": "What is a slide rule?"}
        answer = fastapi_shop.http.post("/ask", params=question, headers=login)
        assert answer.json() == {"text": wire.TEXT}

    def change(product: str, headers: dict[str, str]) -> int:
        price = {"price": "10"}
        path = f"/products/{product}"
        return fastapi_shop.http.put(path, params=price, headers=headers).status_code

    ask()
    ask()
    refused = change("slide rule", headers={})
    ask()
    changed = change("slide rule", headers=login)
    ask()
    ask()
    records = calls.new(5)

    assert (refused in (401, 403), changed) == (True, 200)
    assert [record["cache"] for record in records] == ["MISS", "HIT", "HIT", "MISS", "HIT"]
    assert [asked.json() for asked in provider.asked] == [provider.last.json()] * 2


def test_without_a_login_nothing_is_called(fastapi_shop: Gateway, provider: Provider) -> None:
    with (
        sdk(fastapi_shop, "sk-a-key-of-a-stranger", **{"LLMGate-User-Id": "ada"}) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES)

    assert fastapi_shop.http.get("/orders").status_code in (401, 403)
    assert provider.asked == []


def logged_in(shop: Gateway) -> str:
    with httpx.Client(base_url=shop.url, trust_env=False, verify=False) as browser:
        browser.post("/login", data={"name": "ada", "password": "lovelace"}).raise_for_status()
        return browser.cookies["sessionid"]


def test_a_call_with_djangos_session_is_the_users(django_shop: Gateway, provider: Provider) -> None:
    calls = Calls(django_shop)
    cookie = {"Cookie": f"sessionid={logged_in(django_shop)}"}
    with sdk(django_shop, "-", **cookie, **{"Sec-Fetch-Site": "none"}) as client:
        answer = client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES)
    record = calls.one()

    assert answer.choices[0].message.content == wire.TEXT
    assert (record["tenant"], record["user_id"], record["user_trust"]) == (
        "shop",
        "ada",
        "verified",
    )
    assert b"sessionid" not in provider.last.everything


@pytest.mark.parametrize("site", ["cross-site", "same-site", ""])
def test_pages_of_other_sites_cannot_use_the_session(
    django_shop: Gateway, provider: Provider, site: str
) -> None:
    headers = {"Cookie": f"sessionid={logged_in(django_shop)}"}
    headers |= {"Sec-Fetch-Site": site} if site else {}
    with (
        sdk(django_shop, "-", **headers) as client,
        pytest.raises(openai.PermissionDeniedError, match="same origin"),
    ):
        client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES)

    assert provider.asked == []


def test_a_django_view_calls_a_model_for_who_is_logged_in_until_he_logs_out(
    django_shop: Gateway, provider: Provider
) -> None:
    calls = Calls(django_shop)
    cookie = {"cookie": f"sessionid={logged_in(django_shop)}"}
    answer = django_shop.http.get("/recommend", params={"about": "engines"}, headers=cookie)
    assert answer.json() == {"text": wire.TEXT}
    django_shop.http.get("/logout", headers=cookie)
    same_site = cookie | {"sec-fetch-site": "none"}
    body = {"model": "gpt-4o-mini", "messages": MESSAGES}
    after = django_shop.http.post("/llm/v1/chat/completions", headers=same_site, json=body)
    records = calls.new(2)

    assert after.status_code == 401
    assert [record["user_id"] for record in records] == ["ada", None]
    assert records[0]["properties"] == {"feature": "recommend"}


@pytest.mark.parametrize("folder", ["fastapi_app", "django_app"])
def test_a_readme_has_two_commands(folder: str) -> None:
    text = (EXAMPLES / folder / "README.md").read_text()
    [block] = [part.partition("```")[0] for part in text.split("```sh\n")[1:]]

    assert len(block.strip().splitlines()) == 2
    assert Path(EXAMPLES / folder).is_dir()
