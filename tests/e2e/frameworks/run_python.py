"""Use a framework as its documentation says, once per target, and print what came of it as JSON.

    python run_python.py <framework> <gateway URL> <model>…

Runs in a virtual environment of its own, so it imports nothing of the tests. Each case is caught by
itself: one that fails prints its exception in place of its result.
"""

from __future__ import annotations

import asyncio
import json
import sys
import traceback
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

HELLO = "hello"
QUESTION = "What is the weather in Paris?"


class Place(BaseModel):
    city: str
    degrees: int


def get_weather(city: str) -> str:
    """Tell the weather of a city."""
    return f"sunny in {city}"


# -- LangChain: the same program for its three packages


def langchain(package: str, url: str, model: str) -> dict[str, Callable[[], Any]]:
    from langchain_core.messages import HumanMessage, ToolMessage
    from langchain_core.tools import tool

    if package == "openai":
        from langchain_openai import ChatOpenAI

        def made(name: str) -> Any:
            return ChatOpenAI(model=name, base_url=f"{url}/v1", api_key="mine", max_retries=0)
    elif package == "anthropic":
        from langchain_anthropic import ChatAnthropic

        def made(name: str) -> Any:
            return ChatAnthropic(model=name, base_url=url, api_key="mine", max_retries=0)
    else:
        from langchain_google_genai import ChatGoogleGenerativeAI

        def made(name: str) -> Any:
            return ChatGoogleGenerativeAI(
                model=name, base_url=url, google_api_key="mine", max_retries=1
            )

    llm = made(model)
    weather = tool(get_weather)

    def stream() -> list[str]:
        return [text for chunk in llm.stream(HELLO) if (text := chunk.text)]

    def tools() -> Any:
        bound = llm.bind_tools([weather])
        asking = HumanMessage(QUESTION)
        first = bound.invoke([asking])
        [called] = first.tool_calls
        result = ToolMessage(get_weather(**called["args"]), tool_call_id=called["id"])
        return [called["name"], called["args"], bound.invoke([asking, first, result]).text]

    def structured() -> Any:
        return llm.with_structured_output(Place).invoke(HELLO).model_dump()

    return {
        "plain": lambda: llm.invoke(HELLO).text,
        "stream": stream,
        "tools": tools,
        "structured": structured,
        "error": lambda: status_of(lambda: made(f"{model}-refused").invoke(HELLO)),
    }


# -- Instructor


def instructor(url: str, model: str) -> dict[str, Callable[[], Any]]:
    import instructor as library
    import openai

    client = openai.OpenAI(base_url=f"{url}/v1", api_key="mine", max_retries=0)
    patched = library.from_openai(client)
    messages: Any = [{"role": "user", "content": HELLO}]

    def structured() -> Any:
        place = patched.chat.completions.create(
            model=model, messages=messages, response_model=Place, max_retries=1
        )
        return place.model_dump()

    def partial() -> Any:
        *_, last = patched.chat.completions.create_partial(
            model=model, messages=messages, response_model=Place, max_retries=1
        )
        return last.model_dump()

    def error() -> Any:
        return status_of(
            lambda: patched.chat.completions.create(
                model=f"{model}-refused", messages=messages, response_model=Place, max_retries=1
            )
        )

    return {"structured": structured, "partial": partial, "error": error}


# -- OpenAI agents, which speak Responses


def agents(url: str, model: str) -> dict[str, Callable[[], Any]]:
    import agents as library
    import openai

    library.set_tracing_disabled(True)

    def agent(name: str = model, **more: Any) -> Any:
        # One per agent, for each runs in an event loop of its own.
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="mine", max_retries=0)
        speaks = library.OpenAIResponsesModel(model=name, openai_client=client)
        return library.Agent(name="helper", instructions="Be brief.", model=speaks, **more)

    def run(agent: Any, text: str = HELLO) -> Any:
        return asyncio.run(library.Runner.run(agent, text)).final_output

    async def stream() -> list[str]:
        result = library.Runner.run_streamed(agent(), HELLO)
        return [
            event.data.delta
            async for event in result.stream_events()
            if event.type == "raw_response_event"
            and event.data.type == "response.output_text.delta"
        ]

    def tools() -> Any:
        called: list[dict[str, str]] = []

        def get_weather(city: str) -> str:
            """Tell the weather of a city."""
            called.append({"city": city})
            return f"sunny in {city}"

        text = run(agent(tools=[library.function_tool(get_weather)]), QUESTION)
        return ["get_weather", *called, text]

    return {
        "plain": lambda: run(agent()),
        "stream": lambda: asyncio.run(stream()),
        "tools": tools,
        "structured": lambda: run(agent(output_type=Place)).model_dump(),
        "error": lambda: status_of(lambda: run(agent(f"{model}-refused"))),
    }


def status_of(call: Callable[[], Any]) -> Any:
    """Return the HTTP status that a failed call carries, wherever its library keeps it."""
    try:
        call()
    except Exception as error:
        seen: BaseException | None = error
        while seen is not None:
            for name in ("status_code", "code"):
                if isinstance(status := getattr(seen, name, None), int):
                    return status
            seen = seen.__cause__ or seen.__context__
        raise
    return None


def attempt(case: Callable[[], Any]) -> Any:
    try:
        return case()
    except Exception:
        return {"failed": traceback.format_exc()[-2000:]}


FRAMEWORKS: dict[str, Callable[[str, str], dict[str, Callable[[], Any]]]] = {
    "langchain-openai": lambda url, model: langchain("openai", url, model),
    "langchain-anthropic": lambda url, model: langchain("anthropic", url, model),
    "langchain-google-genai": lambda url, model: langchain("google", url, model),
    "instructor": instructor,
    "openai-agents": agents,
}

if __name__ == "__main__":
    framework, url, *models = sys.argv[1:]
    made = FRAMEWORKS[framework]
    results = {
        model: {name: attempt(case) for name, case in made(url, model).items()} for model in models
    }
    print(json.dumps(results))
