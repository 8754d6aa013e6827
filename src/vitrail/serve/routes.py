"""The answers of every route, from a request to JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from vitrail.errors import did_you_mean
from vitrail.serve.bodies import Upload
from vitrail.serve.errors import ApiError
from vitrail.serve.guard import cookie_of, same_token
from vitrail.serve.metrics import CONTENT_TYPE
from vitrail.serve.openapi import DEFAULT_TOP_K, MAX_NEAREST, MAX_TOP_K, document
from vitrail.serve.served_model import Reply, ServedModel
from vitrail.serve.service import Answered, Service
from vitrail.serve.sign_in import COOKIE
from vitrail.tasks.predictor import NOT_FINITE, Prediction

_SIGN_IN_BYTES = 4096


class Routes:
    """What each address answers."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def predict(self, request: Request) -> Response:
        """POST /v1/predict."""
        options = _options(request, ("top_k", "attention", "nearest"))
        model = self._service.model
        top_k = _whole(options, "top_k", DEFAULT_TOP_K, 1, MAX_TOP_K)
        nearest = _whole(options, "nearest", 0, 0, MAX_NEAREST)
        with_attention = _flag(options, "attention")
        if with_attention and not model.has_attention:
            raise _bad("attention", "this model has no attention to show")
        if nearest and not model.has_nearest:
            raise _bad("nearest", "this server knows no training pictures: serve the run folder that `fit` wrote")
        async with self._service.bodies.receive(request) as body:
            uploads = await self._service.uploads(body, request.headers.get("content-type", ""))
            if with_attention and len(uploads) > self._service.config.max_attention:
                most = self._service.config.max_attention
                raise _bad("attention", f"is for {most} pictures a request at most, and these are {len(uploads)}")
            answered = await self._service.answer(uploads, with_features=nearest > 0, with_attention=with_attention)
            # Beside the event loop: many pictures are sorted, neighbours looked up, a long answer written.
            return await self._service.beside(
                lambda: _answer(model, "predictions", _predictions(model, answered, top_k, nearest))
            )

    async def embed(self, request: Request) -> Response:
        """POST /v1/embed."""
        _options(request, ())
        model = self._service.model
        async with self._service.bodies.receive(request) as body:
            uploads = await self._service.uploads(body, request.headers.get("content-type", ""))
            answered = await self._service.answer(uploads, with_features=True)
            return await self._service.beside(
                lambda: _answer(model, "embeddings", [_embedding(upload, reply) for upload, reply in answered])
            )

    async def model(self, request: Request) -> Response:
        """GET /v1/model."""
        _options(request, ())
        config = self._service.config
        limits = {
            "max_body_bytes": config.max_body_bytes,
            "max_pixels": config.max_pixels,
            "max_pictures": config.max_pictures,
            "max_attention": config.max_attention,
            "formats": list(config.limits.formats),
        }
        return JSONResponse({**self._service.model.describe(), "limits": limits})

    async def livez(self, request: Request) -> Response:
        """GET /livez: the process answers."""
        return JSONResponse({"status": "ok"})

    async def readyz(self, request: Request) -> Response:
        """GET /readyz: the model answers."""
        self._service.model  # noqa: B018  it raises while there is none
        return JSONResponse({"status": "ready"})

    async def metrics(self, request: Request) -> Response:
        """GET /metrics."""
        return Response(self._service.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def openapi(self, request: Request) -> Response:
        """GET /openapi.json."""
        return JSONResponse(document(self._service.config))

    async def sign_in(self, request: Request) -> Response:
        """POST /sign-in: the token of a form becomes a cookie of this browser."""
        token = self._service.config.token
        async with self._service.bodies.receive(request) as body:
            fields = dict(parse_qsl(body[:_SIGN_IN_BYTES].decode("utf-8", "replace")))
        if token is None or not same_token(fields.get("token", ""), token):
            raise ApiError(401, "wrong_token", "that is not this server's token", {"WWW-Authenticate": "Bearer"})
        response = RedirectResponse("/", 303)
        response.set_cookie(COOKIE, cookie_of(token), httponly=True, samesite="strict", path="/")
        return response


def _answer(model: ServedModel, name: str, rows: Sequence[Mapping[str, Any]]) -> Response:
    """200 where any picture has an answer; 422, with the same content, where none has.

    Each picture's is written by itself: the interpreter does nothing else, in no thread, while it writes one text.
    """
    written = b",".join(_json(row) for row in rows)
    content = b'{"model":%b,"%b":[%b]}' % (_json(model.version), name.encode(), written)
    return Response(content, 200 if any(row["error"] is None for row in rows) else 422, media_type="application/json")


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _predictions(model: ServedModel, answered: Answered, top_k: int, nearest: int) -> list[dict[str, Any]]:
    """A prediction of each picture, in their order."""
    names = [upload.name for upload, reply in answered if isinstance(reply, Reply)]
    replies = [reply for _, reply in answered if isinstance(reply, Reply)]
    found = iter(model.predictions(names, replies, top_k, nearest))
    return [
        next(found) if isinstance(reply, Reply) else Prediction(upload.name, error=_error(upload, reply)).to_json()
        for upload, reply in answered
    ]


def _embedding(upload: Upload, reply: Reply | str) -> dict[str, Any]:
    features = reply.features if isinstance(reply, Reply) else None
    error = _error(upload, reply)
    if features is not None and not np.isfinite(features).all():
        features, error = None, f"{upload.name}: {NOT_FINITE}"
    return {"file": upload.name, "features": None if features is None else features.tolist(), "error": error}


def _error(upload: Upload, reply: Reply | str) -> str | None:
    return f"{upload.name}: {reply}" if isinstance(reply, str) else None


def _options(request: Request, known: tuple[str, ...]) -> dict[str, str]:
    """The options in the address. Raises ApiError, 400, for one that there is not, or that is there twice."""
    options: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in known:
            there_are = f" There are {', '.join(known)}." if known else ""
            raise _bad(name[:40], f"there is no such option.{did_you_mean(name, known)}{there_are}")
        if name in options:
            raise _bad(name, "is there twice")
        options[name] = value
    return options


def _whole(options: dict[str, str], name: str, default: int, least: int, most: int) -> int:
    text = options.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and least <= int(text) <= most):
        raise _bad(name, f"{text[:40]!r} is no whole number from {least} to {most}")
    return int(text)


def _flag(options: dict[str, str], name: str) -> bool:
    text = options.get(name, "false")
    if text not in ("true", "false"):
        raise _bad(name, f"{text[:40]!r} is neither true nor false")
    return text == "true"


def _bad(name: str, why: str) -> ApiError:
    return ApiError(400, "bad_option", f"{name}: {why}")
