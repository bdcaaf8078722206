"""The /health pages and /metrics: what the supervisor, a load balancer and Prometheus read."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from mlxctl.worker.api.documents import Health, Life, refusals
from mlxctl.worker.service import Service

NOT_READY: dict[int | str, dict[str, Any]] = {503: {"model": Health, "description": "Loading, draining, or failed"}}


def health_routes(service: Service) -> APIRouter:
    router = APIRouter()

    @router.get("/health/live", summary="The process answers", responses={200: {"model": Life}})
    async def live() -> dict[str, Any]:
        return {"status": "live"}

    @router.get("/health/ready", summary="Requests are welcome", responses={200: {"model": Life}, 503: {"model": Life}})
    async def ready() -> Response:
        phase, why = service.phase(service.engine.stats())
        return JSONResponse({"status": phase, "reason": why}, 200 if phase == "ready" else 503)

    @router.get("/health", summary="The state of the whole", responses={200: {"model": Health}, **NOT_READY})
    async def health() -> Response:
        body = health_body(service)
        return JSONResponse(body, 200 if body["status"] == "ready" else 503)

    if service.config.metrics:

        @router.get("/metrics", summary="Figures for Prometheus", response_class=Response, responses=refusals(401))
        async def metrics() -> Response:
            page = service.metrics.render(service.engine.stats())
            return Response(page, media_type=service.metrics.content_type)

    return router


def health_body(service: Service) -> dict[str, Any]:
    """Sizes in bytes, times in seconds."""
    stats, facts = service.engine.stats(), service.engine.facts()
    phase, why = service.phase(stats)
    return {
        "status": phase,
        "reason": why,
        "model": service.model,
        "uptime_s": round(time.time() - service.started_s, 3),
        "in_flight": service.in_flight,
        "queue": stats.waiting,
        "running": stats.running,
        "prefilling": stats.prefilling,
        "last_progress_s": stats.last_progress_s,
        "context_length": facts.context_length if facts else None,
        "decoder": facts.decoder if facts else "",
        "prefix_cache": facts.prefix_cache if facts else False,
        "self_test": dict(facts.self_test) if facts else {},
        "cache": {
            "bytes": stats.cache_bytes,
            "budget_bytes": stats.cache_budget_bytes,
            "blocks": stats.cache_blocks,
        },
        "memory": {
            "weight_bytes": facts.weight_bytes if facts else 0,
            "kv_bytes": stats.kv_bytes,
            "kv_reserved_bytes": stats.kv_reserved_bytes,
            "kv_budget_bytes": stats.kv_budget_bytes,
            "mlx_active_bytes": stats.mlx_active_bytes,
            "mlx_peak_bytes": stats.mlx_peak_bytes,
        },
        "totals": asdict(stats.totals),
    }
