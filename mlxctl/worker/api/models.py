"""GET /v1/models: the one model that is really loaded."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from mlxctl.worker.api.asks import check_model
from mlxctl.worker.api.documents import ModelCard, ModelList, answers
from mlxctl.worker.service import Service


def model_routes(service: Service) -> APIRouter:
    router = APIRouter()

    def card() -> dict[str, Any]:
        _, facts = service.ready()
        return {
            "id": service.model,
            "object": "model",
            "created": int(service.started_s),
            "owned_by": "mlxctl",
            "root": facts.path,
            "context_length": facts.context_length,
            "max_model_len": facts.context_length,
        }

    @router.get("/v1/models", summary="The model that is loaded", responses=answers(ModelList))
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [card()]}

    @router.get("/v1/models/{name:path}", summary="One model", responses=answers(ModelCard))
    async def model(name: str) -> dict[str, Any]:
        check_model(name, service.model)
        return card()

    return router
