"""Lets a model of mlx-lm attend over lanes: its modules' attention asks the cache first, and is otherwise untouched."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from functools import wraps
from typing import Any

import mlx.core as mx

NAME = "scaled_dot_product_attention"


class LaneKeys(ABC):
    """What `update_and_fetch` of a lane cache hands to the model in place of keys: the model passes it on unopened."""

    @abstractmethod
    def attend(self, queries: mx.array, scale: float, mask: Any, sinks: mx.array | None) -> mx.array: ...


def attend_over_lanes(model: Any) -> bool:
    """Install the question in every module that the model is made of. False: none of them calls mlx-lm's attention."""
    found = False
    for module_name in {type(part).__module__ for part in model.modules()}:
        module = sys.modules.get(module_name)
        attention = getattr(module, NAME, None)
        if attention is None:
            continue
        found = True
        if not getattr(attention, "asks_lanes", False):
            setattr(module, NAME, _asking(attention))
    return found


def _asking(attention: Any) -> Any:
    @wraps(attention)
    def ask(
        queries: mx.array, keys: Any, values: Any, cache: Any = None, scale: float = 1.0, mask: Any = None, **rest: Any
    ) -> mx.array:
        if isinstance(keys, LaneKeys):
            return keys.attend(queries, scale, mask, rest.get("sinks"))
        answer: mx.array = attention(queries, keys, values, cache=cache, scale=scale, mask=mask, **rest)
        return answer

    ask.asks_lanes = True  # type: ignore[attr-defined]
    return ask
