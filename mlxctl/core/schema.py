"""The full check of a registry, in pydantic: what every write and `mlxctl registry validate` pass through."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mlxctl.core.registry import ModelEntry, Registry

ENGINES = ("auto", "worker", "mlx-lm", "mlx-openai-server", "command")


class EntrySchema(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    repo_id: Annotated[str, Field(min_length=1)]
    model_id: Annotated[str, Field(min_length=1)]
    cache_path: Annotated[str, Field(min_length=1)]
    format: Literal["mlx", "gguf"] = "mlx"
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    source_path: str | None = None
    og_path: str | None = None
    chat_template: str | None = None
    tool_call_parser: str | None = None
    reasoning_parser: str | None = None
    context_length: Annotated[int, Field(ge=1)] | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    request_params: dict[str, str | int | float | bool | None] | None = None
    engine: Literal["auto", "worker", "mlx-lm", "mlx-openai-server", "command"] | None = None
    pinned: bool | None = None
    boot: bool | None = None
    priority: Literal["high", "normal", "low"] | None = None
    idle_timeout_s: Annotated[int, Field(ge=0)] | None = None
    quantization: dict[str, Any] | None = None
    last_known_good: dict[str, Any] | None = None


def invalid_fields(registry: Registry) -> list[str]:
    """One line for each field that has a wrong value, named `models.ID.FIELD`."""
    return [line for entry in registry.models.values() for line in _invalid_in(entry)]


def _invalid_in(entry: ModelEntry) -> list[str]:
    try:
        EntrySchema.model_validate(entry.to_json())
    except ValidationError as error:
        return [
            f"models.{entry.model_id}.{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}"
            for fault in error.errors(include_url=False)
        ]
    return []
