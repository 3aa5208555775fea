"""What sections of the settings are made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict
from pydantic_settings import NoDecode

__all__ = ["GIB", "MIB", "CommaList", "Section", "split_commas"]

MIB = 1024 * 1024
GIB = 1024 * MIB


def split_commas(value: object) -> object:
    """Read a comma-separated list, as environment variables have it."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


CommaList = Annotated[list[str], NoDecode, BeforeValidator(split_commas)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
