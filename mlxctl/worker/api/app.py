"""The HTTP application, put together: who may come in, what they may send, where it goes."""

from __future__ import annotations

from fastapi import FastAPI

from mlxctl import __version__
from mlxctl.worker.api.auth import Auth
from mlxctl.worker.api.chat import chat_routes
from mlxctl.worker.api.completions import completion_routes
from mlxctl.worker.api.documents import document
from mlxctl.worker.api.faults import answer_errors
from mlxctl.worker.api.health import health_routes
from mlxctl.worker.api.limits import BodyLimit
from mlxctl.worker.api.models import model_routes
from mlxctl.worker.config import ServeConfig
from mlxctl.worker.service import Service


def create_app(config: ServeConfig, service: Service) -> FastAPI:
    """Raises `ValueError` for `request_params` that no request could say."""
    app = FastAPI(title="mlxctl worker", version=__version__, docs_url=None, redoc_url=None)
    answer_errors(app)
    app.include_router(chat_routes(service))
    app.include_router(completion_routes(service))
    app.include_router(model_routes(service))
    app.include_router(health_routes(service))
    document(app, with_keys=bool(config.api_keys))
    app.add_middleware(BodyLimit, max_bytes=config.max_body_bytes)
    app.add_middleware(Auth, keys=config.api_keys, default=config.default_priority)
    return app
