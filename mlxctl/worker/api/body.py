"""Reads JSON bodies without letting anything in that no tokenizer or template could take."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any

import pydantic_core
from fastapi import Request, Response
from fastapi.routing import APIRoute


class JsonRequest(Request):
    """Refuses broken UTF-8, NaN, infinities, lone surrogates and bottomless nesting as malformed JSON."""

    async def json(self) -> Any:
        data = await self.body()
        try:
            return pydantic_core.from_json(data, allow_inf_nan=False)
        except ValueError as error:
            # FastAPI knows this one as a client's mistake
            raise json.JSONDecodeError(str(error), "", 0) from error


class JsonRoute(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def read_and_answer(request: Request) -> Response:
            return await answer(JsonRequest(request.scope, request.receive))

        return read_and_answer
