"""Turn a configuration of the LiteLLM proxy into ours. Pure: dicts in, text out.

Secrets are never written: keys become variables to set. What has no counterpart is listed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from asgi_llmgate.core.registry import Registry

__all__ = ["Imported", "import_litellm"]

# Their names of providers, where neither ours nor our aliases are the same.
_PROVIDERS = {
    "azure_ai": "azure-openai",
    "fireworks_ai": "fireworks",
    "hosted_vllm": "vllm",
    "text-completion-openai": "openai",
    "together_ai": "together",
    "vertex_ai": "google-vertex",
}
_STRATEGIES = {
    "simple-shuffle": "weighted",
    "least-busy": "latency",
    "latency-based-routing": "latency",
    "usage-based-routing": "weighted",
    "usage-based-routing-v2": "weighted",
    "cost-based-routing": "cost",
}
# So small that a fallback is only drawn after all others.
_LAST = 1e-6

# A value that is a variable of the environment, by its name.
_VARIABLE = re.compile(r"os\.environ/(\S+)")


@dataclass(slots=True)
class Imported:
    """The result.

    Args:
        toml: `llmgate.toml`.
        variables: What to set in the environment, to where its value comes from: the name of
            another variable, or a remark.
        lost: What could not be carried, one line each.
    """

    toml: str = ""
    variables: dict[str, list[str]] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Target:
    name: str
    weight: float


class _Import:
    def __init__(self, config: Mapping[str, Any], registry: Registry) -> None:
        self.config = config
        self.registry = registry
        self.out = Imported()
        self.bases: dict[str, str] = {}
        self.models: dict[str, list[_Target]] = {}

    def run(self) -> Imported:
        for number, entry in enumerate(_list(self.config.get("model_list")), 1):
            self._model(_dict(entry), f"model_list[{number}]")
        router = _dict(self.config.get("router_settings"))
        general = _dict(self.config.get("litellm_settings"))
        self.out.toml = self._written(router, general)
        self._rest()
        return self.out

    def _model(self, entry: dict[str, Any], where: str) -> None:
        name, params = entry.pop("model_name", None), _dict(entry.pop("litellm_params", None))
        model = params.pop("model", None)
        if not isinstance(name, str) or not isinstance(model, str):
            self.out.lost.append(f"{where}: has no model_name or litellm_params.model")
            return
        first, slash, rest = model.partition("/")
        provider = self.registry.get(_PROVIDERS.get(first, first)) if slash else None
        if provider is None and slash and first in _PROVIDERS:
            self.out.lost.append(f"{where}: no provider is called {first!r} here")
            return
        provider_id = provider.id if provider is not None else "openai"
        rest = rest if provider is not None else model
        base = params.pop("api_base", None) or params.pop("base_url", None)
        if isinstance(base, str):
            provider_id = self._provider_at(provider_id, base, where)
        self._key(provider_id, params.pop("api_key", None), where)
        weight = params.pop("weight", None) or params.pop("rpm", None) or params.pop("tpm", 1)
        targets = self.models.setdefault(name, [])
        target = f"{provider_id}/{rest}"
        number = float(weight) if isinstance(weight, int | float) and weight > 0 else 1.0
        known = next((other for other in targets if other.name == target), None)
        if known is None:
            targets.append(_Target(target, number))
        # The same model with another key: keys are drawn by the provider's own weights here.
        for left in sorted(params):
            self.out.lost.append(f"{where}.litellm_params.{left}")
        for left in sorted(entry):
            self.out.lost.append(f"{where}.{left}")

    def _provider_at(self, provider_id: str, base: str, where: str) -> str:
        if named := _VARIABLE.fullmatch(base):
            variable = f"LLMGATE_PROVIDERS__{_upper(provider_id)}__BASE_URL"
            self.out.variables.setdefault(variable, []).append(named[1])
            return provider_id
        base = base.rstrip("/")
        if provider_id != "openai":  # Another place of the same provider.
            if self.bases.setdefault(provider_id, base) != base:
                self.out.lost.append(f"{where}: a second api_base of {provider_id}")
            return provider_id
        for known, url in self.bases.items():
            if url == base:
                return known
        host = urlsplit(base).hostname or provider_id
        name = re.sub(r"[^a-z0-9]+", "-", f"{provider_id}-{host}".lower()).strip("-")[:60]
        while name in self.bases:
            name += "-2"
        self.bases[name] = base
        return name

    def _key(self, provider_id: str, key: object, where: str) -> None:
        if not isinstance(key, str) or not key:
            return
        variable = f"LLMGATE_PROVIDERS__{_upper(provider_id)}__API_KEYS"
        named = _VARIABLE.fullmatch(key)
        source = named[1] if named else f"the key written in {where}"
        sources = self.out.variables.setdefault(variable, [])
        if source not in sources:
            sources.append(source)

    def _written(self, router: dict[str, Any], general: dict[str, Any]) -> str:
        lines = ["# Written by `llmgate import litellm`."]
        retries = router.pop("num_retries", None)
        retries = general.pop("num_retries", None) if retries is None else retries
        if isinstance(retries, int) and retries > 0:
            lines += ["", "[fallback.retry]", f"attempts = {min(retries + 1, 10)}"]
        timeout = router.pop("timeout", None) or general.pop("request_timeout", None)
        if isinstance(timeout, int | float) and timeout > 0:
            lines += ["", "[upstream.timeouts]", f"total = {timeout}"]
        breaker = []
        if isinstance(fails := router.pop("allowed_fails", None), int) and fails > 0:
            breaker.append(f"failures = {fails}")
        if isinstance(seconds := router.pop("cooldown_time", None), int | float) and seconds > 0:
            breaker += [f"open = {seconds}", f"max_open = {max(60, seconds)}"]
        if breaker:
            lines += ["", "[breaker]", *breaker]
        for name, base in self.bases.items():
            lines += ["", f"[providers.{name}]", f"base_url = {_quoted(base)}"]
        strategy = _STRATEGIES.get(
            str(router.pop("routing_strategy", "simple-shuffle")), "weighted"
        )
        lines += self._cache(general)
        self._group_aliases(router)
        after = self._fallbacks(router, general)
        for name, targets in self.models.items():
            lines += self._alias(name, targets, after.get(name, []), strategy)
        self.out.lost += [f"router_settings.{left}" for left in sorted(router)]
        self.out.lost += [f"litellm_settings.{left}" for left in sorted(general)]
        return "\n".join(lines) + "\n"

    def _cache(self, general: dict[str, Any]) -> list[str]:
        """Carry that answers are kept, and for how long; where, our own settings say."""
        is_on, params = general.pop("cache", None), _dict(general.pop("cache_params", None))
        lines = ["", "[cache]", "enabled = true"] if is_on is True else []
        seconds = params.pop("ttl", None)
        if lines and isinstance(seconds, int | float) and seconds > 0:
            lines.append(f"ttl = {seconds}")
        self.out.lost += [f"litellm_settings.cache_params.{left}" for left in sorted(params)]
        return lines

    def _group_aliases(self, router: dict[str, Any]) -> None:
        """Carry other names of a model: aliases with the same targets."""
        for name, other in _dict(router.pop("model_group_alias", None)).items():
            named = other.get("model") if isinstance(other, dict) else other
            if isinstance(named, str) and named in self.models and name not in self.models:
                self.models[name] = list(self.models[named])
            else:
                self.out.lost.append(f"router_settings.model_group_alias.{name}")

    def _fallbacks(self, router: dict[str, Any], general: dict[str, Any]) -> dict[str, list[str]]:
        after: dict[str, list[str]] = {}
        for kind in ("fallbacks", "context_window_fallbacks", "content_policy_fallbacks"):
            given = [*_list(router.pop(kind, None)), *_list(general.pop(kind, None))]
            for entry in given:
                for name, others in _dict(entry).items():
                    after.setdefault(name, []).extend(str(other) for other in _list(others))
            if given and kind == "content_policy_fallbacks":
                self.out.lost.append(
                    'content_policy_fallbacks: carried as fallbacks; add "content_filter" to `on`'
                )
        for settings in (router, general):
            for other in _list(settings.pop("default_fallbacks", None)):
                for name in self.models:
                    after.setdefault(name, []).append(str(other))
        return after

    def _alias(
        self, name: str, targets: list[_Target], after: list[str], strategy: str
    ) -> list[str]:
        if "*" in name:
            self.out.lost.append(f"{name}: wildcards; send `provider/model` instead")
            return []
        last: list[_Target] = []
        for other in dict.fromkeys(after):
            if other == name:
                continue
            known = self.models.get(other)
            if known is None:
                self.out.lost.append(f"{name}: its fallback {other!r} is not in model_list")
            else:
                last += [_Target(target.name, _LAST) for target in known]
        names = {target.name for target in targets}
        last = list({target.name: target for target in last if target.name not in names}.values())
        whole = [*targets, *last]
        if len(whole) > 9:
            self.out.lost.append(f"{name}: only the first 9 of its {len(whole)} targets")
            whole = whole[:9]
        strategy = "priority" if len(targets) == 1 else strategy
        if last and strategy in ("latency", "cost"):
            self.out.lost.append(f"{name}: {strategy} with fallbacks; weighted instead")
            strategy = "weighted"
        rows = []
        for target in whole:
            weight = (
                ""
                if target.weight == 1 or strategy != "weighted"
                else f", weight = {target.weight:g}"
            )
            rows.append(f"    {{ target = {_quoted(target.name)}{weight} }},")
        return [
            "",
            f"[models.{_quoted(name)}]",
            "targets = [",
            *rows,
            "]",
            f"strategy = {_quoted(strategy)}",
        ]

    def _rest(self) -> None:
        general = _dict(self.config.get("general_settings"))
        if general.pop("master_key", None) is not None:
            self.out.variables["LLMGATE_KEYS"] = ["name:key, one for each caller; was master_key"]
        self.out.lost += [f"general_settings.{left}" for left in sorted(general)]
        known = {"model_list", "router_settings", "litellm_settings", "general_settings"}
        self.out.lost += sorted(str(left) for left in self.config.keys() - known)


def import_litellm(config: Mapping[str, Any], registry: Registry) -> Imported:
    """Return our settings for `config`, the parsed `config.yaml` of LiteLLM's proxy."""
    return _Import(json.loads(json.dumps(config, default=str)), registry).run()


def _upper(provider_id: str) -> str:
    return provider_id.upper().replace("-", "_")


def _quoted(text: str) -> str:
    return json.dumps(text)  # a TOML basic string has the same escapes


def _dict(value: object) -> dict[str, Any]:
    return dict(value) if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return list(value) if isinstance(value, list) else []
