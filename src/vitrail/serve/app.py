"""The ASGI application: `create_app(ServeConfig(model="runs/photos"))`, for uvicorn or any other server of its kind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import NoReturn

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from vitrail.report.document import PALETTE
from vitrail.serve.config import ServeConfig
from vitrail.serve.errors import ApiError
from vitrail.serve.guard import Guard
from vitrail.serve.routes import Routes
from vitrail.serve.served_model import load_served_model
from vitrail.serve.service import Service
from vitrail.serve.sign_in import SIGN_IN_PATH
from vitrail.training.events import Events

PAGE = Path(__file__).with_name("page")
_PAGE_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


def create_app(
    config: ServeConfig,
    events: Events | None = None,
    *,
    failed: Callable[[BaseException], None] = lambda error: None,
) -> Starlette:
    """The application; its lifespan loads the model, and answers what is waiting before it ends.

    Args:
        events: hears what loading says.
        failed: called in the loading thread where there will be no model.

    Returns:
        An app whose `state.service` is the `Service`.
    """
    service = Service(config, partial(load_served_model, config, events or Events()), failed)
    own = Routes(service)
    routes = [
        Route("/v1/predict", own.predict, methods=["POST"]),
        Route("/v1/embed", own.embed, methods=["POST"]),
        Route("/v1/model", own.model, methods=["GET"]),
        Route("/livez", own.livez, methods=["GET"]),
        Route("/readyz", own.readyz, methods=["GET"]),
        Route("/metrics", own.metrics, methods=["GET"]),
        Route("/openapi.json", own.openapi, methods=["GET"]),
        Route(SIGN_IN_PATH, own.sign_in, methods=["POST"]),
        *_page_routes(),
    ]

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        service.start()
        try:
            yield
        finally:
            service.close()

    app = Starlette(
        routes=routes,
        middleware=[Middleware(Guard, service=service, paths=[route.path for route in routes])],
        exception_handlers={HTTPException: _as_api_error},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.service = service
    return app


def _page_routes() -> list[Route]:
    """One route for each file of the page, found now: no name that a client sends is ever looked up on the disk."""

    def route(path: str, file: Path) -> Route:
        async def show(request: Request) -> Response:
            return FileResponse(file, media_type=_PAGE_TYPES[file.suffix], headers={"Cache-Control": "no-cache"})

        return Route(path, show, methods=["GET"])

    files = sorted(file for file in (*PAGE.iterdir(), PALETTE) if file.suffix in _PAGE_TYPES)
    return [route("/" if file.name == "index.html" else f"/page/{file.name}", file) for file in files]


async def _as_api_error(request: Request, error: Exception) -> NoReturn:
    """What Starlette refuses (no such address, no such method) in our own words."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        raise ApiError(404, "not_found", "there is no such address; /openapi.json says which there are") from None
    headers = dict(error.headers or {})
    raise ApiError(error.status_code, "refused", f"{error.detail}: see /openapi.json", headers) from None
