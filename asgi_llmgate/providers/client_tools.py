"""Tools that callers run themselves and that are no functions: as functions, and back.

OpenAI's dialects have custom tools (text instead of JSON, at times held to a grammar), the local
shell, and namespaces of tools. Codex offers its patches, its shell and its MCP servers as these.
Other formats have functions only, so a custom tool becomes a function of one text, `input`; the
shell a function of its action; a tool in a namespace one with a longer name. A call of theirs
goes back in the caller's form. Only a grammar is lost: the model reads it, nothing enforces it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from asgi_llmgate.core.json import dumps
from asgi_llmgate.providers._one_by_one import OneByOne
from asgi_llmgate.providers._parts import arguments_object, delta
from asgi_llmgate.providers.inner import Inner, Losses

__all__ = ["CallRestorer", "ClientTool", "as_functions", "restored"]

SHELL: Literal["local_shell"] = "local_shell"
_SHELL_PARAMETERS = {
    "type": "object",
    "properties": {
        "command": {"type": "array", "items": {"type": "string"}},
        "working_directory": {"type": "string"},
        "timeout_ms": {"type": "integer"},
        "env": {"type": "object", "additionalProperties": {"type": "string"}},
    },
    "required": ["command"],
}
_TEXT_PARAMETERS = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
    "additionalProperties": False,
}


Kind = Literal["function", "custom", "local_shell"]


@dataclass(frozen=True, slots=True)
class ClientTool:
    """What a function stands for. `name` and `namespace` are the caller's."""

    kind: Kind
    name: str
    namespace: str | None = None


def as_functions(request: Inner, losses: Losses) -> tuple[Inner, dict[str, ClientTool]]:
    """Return `request` with functions only, and what each of the new ones stands for.

    Tools that run at OpenAI are dropped here, under the numbers that their caller knows.
    """
    changed: Inner = {}
    stands_for: dict[str, ClientTool] = {}
    tools = request.get("tools")
    if tools and not _are_functions(tools):
        made: list[dict[str, Any]] = []
        for index, tool in enumerate(tools):
            made += _functions(tool, f"tools[{index}]", stands_for, losses)
        # A tool that was found may be offered a second time.
        changed["tools"] = list({tool["function"]["name"]: tool for tool in made}.values())
    messages = request["messages"]
    if any(map(_has_client_calls, messages)):
        changed["messages"] = [
            {**message, "tool_calls": list(map(_function_call, message["tool_calls"]))}
            if _has_client_calls(message)
            else message
            for message in messages
        ]
    choice = request.get("tool_choice")
    if isinstance(choice, Mapping):
        changed["tool_choice"] = _choice(choice)
    return ({**request, **changed} if changed else request), stands_for


def restored(call: Mapping[str, Any], stands_for: Mapping[str, ClientTool]) -> dict[str, Any]:
    """Return a whole function call as the call of the tool it stands for."""
    function = call["function"]
    tool = stands_for.get(function["name"])
    if tool is None:
        return dict(call)
    made = {k: v for k, v in call.items() if k != "function"} | {"type": tool.kind}
    if tool.namespace is not None:
        made["namespace"] = tool.namespace
    match tool.kind:
        case "custom":
            text = arguments_object(function.get("arguments")).get("input")
            given = text if isinstance(text, str) else function.get("arguments") or ""
            return made | {"custom": {"name": tool.name, "input": given}}
        case "local_shell":
            action = arguments_object(function.get("arguments"))
            command = action.get("command")
            action["command"] = command if isinstance(command, list) else [str(command or "")]
            return made | {SHELL: {"type": "exec", "env": {}, **action}}
    return made | {"function": {**function, "name": tool.name}}


class CallRestorer:
    """The same for a stream: a call that is no function waits until it is whole."""

    def __init__(self, stands_for: Mapping[str, ClientTool]) -> None:
        self._stands_for = stands_for
        self._order = OneByOne()
        self._held: dict[str, Any] | None = None
        self._pieces: list[str] = []

    def feed(self, chunk: Inner) -> list[Inner]:
        """Return `chunk` with the calls that are whole now, before or in it."""
        choices = chunk.get("choices")
        if not choices or choices[0].get("index"):
            return [chunk]
        fields = choices[0]["delta"]
        fragments = fields.pop("tool_calls", ())
        calls: list[dict[str, Any]] = []
        for fragment in fragments:
            for ordered in self._order.feed(fragment):
                calls += self._take(ordered)
        if choices[0].get("finish_reason") or fields.get("content"):
            for ordered in self._order.rest():
                calls += self._take(ordered)
            calls += self._release()
        out = []
        if calls:
            head = {name: chunk[name] for name in ("id", "model", "created") if name in chunk}
            out.append(head | delta({"tool_calls": calls}))
        is_empty = fragments and not fields and not choices[0].get("finish_reason")
        return out if is_empty and not chunk.get("usage") else [*out, chunk]

    def _take(self, fragment: Mapping[str, Any]) -> list[dict[str, Any]]:
        function = fragment.get("function") or {}
        held = self._held
        if held is not None and held["index"] == fragment["index"]:
            self._pieces.append(function.get("arguments") or "")
            return []
        out = self._release()
        tool = self._stands_for.get(function.get("name") or "")
        if tool is None:
            return [*out, dict(fragment)]
        if tool.kind == "function":
            return [*out, restored(fragment, self._stands_for)]
        self._held = dict(fragment)
        self._pieces = [function.get("arguments") or ""]
        return out

    def _release(self) -> list[dict[str, Any]]:
        held, self._held = self._held, None
        if held is None:
            return []
        function = {**held["function"], "arguments": "".join(self._pieces)}
        return [restored({**held, "function": function}, self._stands_for)]


def _functions(
    tool: Mapping[str, Any],
    where: str,
    stands_for: dict[str, ClientTool],
    losses: Losses,
    namespace: str | None = None,
) -> list[dict[str, Any]]:
    # Some clients leave the type of a function out.
    kind: Any = tool.get("type") or ("function" if "function" in tool else None)
    given = tool.get(kind)
    if kind == "namespace":
        return [
            made
            for number, inner in enumerate(tool.get("tools") or ())
            for made in _functions(
                inner, f"{where}.tools[{number}]", stands_for, losses, tool["name"]
            )
        ]
    if kind == SHELL:
        hint = "Run a command on the user's machine. `command` is the program and its arguments."
        stands_for[SHELL] = ClientTool(SHELL, SHELL)
        shell = {"name": SHELL, "description": hint, "parameters": _SHELL_PARAMETERS}
        return [{"type": "function", "function": shell}]
    if kind not in {"function", "custom"}:
        losses.drop(where, f"`{kind}` runs at another provider")
        return []
    plain = dict(given) if isinstance(given, Mapping) else dict(tool)
    for name in ("type", "defer_loading", "allowed_callers", "async", "output_schema"):
        plain.pop(name, None)
    name = _joined(namespace, plain["name"])
    if kind == "custom":
        plain = {
            "description": _described(plain, where, losses),
            "parameters": _TEXT_PARAMETERS,
        }
    if kind == "custom" or namespace is not None:
        stands_for[name] = ClientTool(kind, (given or tool)["name"], namespace)
    return [{"type": "function", "function": {**plain, "name": name}}]


def _described(custom: Mapping[str, Any], where: str, losses: Losses) -> str:
    lines = [custom["description"]] if custom.get("description") else []
    lines.append("The one argument, `input`, is plain text: all that this tool is given.")
    wanted = custom.get("format") or {}
    if wanted.get("type") == "grammar":
        losses.drop(f"{where}.format", "a grammar can be told to the model, but not enforced")
        grammar = wanted.get("grammar") or wanted
        lines.append(f"It follows this grammar ({grammar['syntax']}):\n{grammar['definition']}")
    return "\n\n".join(lines)


def _are_functions(tools: list[dict[str, Any]]) -> bool:
    """Tell whether all are functions, and none is there twice."""
    if any(tool.get("type") != "function" for tool in tools):
        return False
    return len({tool["function"]["name"] for tool in tools}) == len(tools)


def _joined(namespace: str | None, name: str) -> str:
    if namespace is None:
        return name
    return f"{namespace}{name}" if namespace.endswith("__") else f"{namespace}__{name}"


def _has_client_calls(message: Mapping[str, Any]) -> bool:
    calls = message.get("tool_calls") or ()
    return any(call.get("type") != "function" or "namespace" in call for call in calls)


def _function_call(call: Mapping[str, Any]) -> dict[str, Any]:
    kind, namespace = call.get("type"), call.get("namespace")
    kept = {k: v for k, v in call.items() if k not in {"custom", SHELL, "namespace"}}
    match kind:
        case "custom":
            custom = call["custom"]
            arguments = dumps({"input": custom.get("input") or ""}).decode()
            function = {"name": _joined(namespace, custom["name"]), "arguments": arguments}
        case "local_shell":
            action = {k: v for k, v in call[SHELL].items() if k != "type" and v}
            function = {"name": SHELL, "arguments": dumps(action).decode()}
        case _:
            function = {**call["function"], "name": _joined(namespace, call["function"]["name"])}
    return kept | {"type": "function", "function": function}


def _choice(choice: Mapping[str, Any]) -> dict[str, Any]:
    match choice.get("type"):
        case "custom" | "function" if isinstance(given := choice.get(str(choice["type"])), Mapping):
            name = _joined(choice.get("namespace"), given["name"])
            return {"type": "function", "function": {"name": name}}
        case "local_shell":
            return {"type": "function", "function": {"name": SHELL}}
        case "allowed_tools":
            allowed = choice.get("allowed_tools") or {}
            tools = list(map(_choice, allowed.get("tools") or ()))
            return {"type": "allowed_tools", "allowed_tools": {**allowed, "tools": tools}}
    return dict(choice)
