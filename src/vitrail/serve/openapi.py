"""The OpenAPI document of a server: what it really takes and gives, its own limits included."""

from __future__ import annotations

from typing import Any

from vitrail import __version__
from vitrail.serve.config import ServeConfig

_TEXT, _NUMBER, _FLAG = {"type": "string"}, {"type": "number"}, {"type": "boolean"}
_TEXT_OR_NULL = {"type": ["string", "null"]}
_SHARE = {"type": "number", "minimum": 0, "maximum": 1}
_SHARES = {"type": "array", "items": _SHARE, "minItems": 2, "maxItems": 2}
_PICTURES = {
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "properties": {
                "pictures": {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1}
            },
            "required": ["pictures"],
            "additionalProperties": False,
        },
        "encoding": {"pictures": {"contentType": "image/jpeg, image/png, image/webp"}},
    },
    **{
        kind: {"schema": {"type": "string", "format": "binary"}}
        for kind in ("image/jpeg", "image/png", "image/webp", "application/octet-stream")
    },
}
_ERRORS = {
    400: "The request cannot be understood: an option that there is not, a form that is none.",
    401: "The token is missing or wrong.",
    403: "A page of another origin asked.",
    408: "The request did not arrive in time.",
    413: "The request is too large.",
    415: "Its content type is none of those taken.",
    421: "The server is not called by this name.",
    429: "Too much is waiting; Retry-After says for how many seconds.",
    500: "The server failed; its log has the reason under request_id.",
    503: "The model is being loaded, or the server is ending.",
}
_ANY = tuple(_ERRORS)
DEFAULT_TOP_K, MAX_TOP_K = 3, 999_999_999  # more classes than there are mean all of them
MAX_NEAREST = 20


def document(config: ServeConfig) -> dict[str, Any]:
    """The document, for a server of this config."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Vitrail",
            "version": __version__,
            "description": "What a picture classifier sees in pictures, as `vitrail predict` says it.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {
            "/v1/predict": {"post": _predict(config)},
            "/v1/embed": {"post": _embed(config)},
            "/v1/model": {"get": _get("model", "What the model is, and what the server takes.", _ref("Model"), True)},
            "/livez": {"get": _get("livez", "Whether the process answers.", _status("ok"), False)},
            "/readyz": {"get": _get("readyz", "Whether the model answers.", _status("ready"), False)},
            "/metrics": {"get": _metrics()},
        },
        "components": {
            "schemas": _schemas(),
            **({"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}} if config.token else {}),
        },
        **({"security": [{"token": []}]} if config.token else {}),
    }


def _predict(config: ServeConfig) -> dict[str, Any]:
    return {
        "operationId": "predict",
        "summary": "Name what is in pictures, with probabilities.",
        "parameters": [
            _option(
                "top_k",
                {"type": "integer", "minimum": 1, "maximum": MAX_TOP_K, "default": DEFAULT_TOP_K},
                "Classes a picture; all of them where there are fewer.",
            ),
            _option(
                "attention",
                {**_FLAG, "default": False},
                f"Where the model looked, for at most {config.max_attention} pictures a request.",
            ),
            _option(
                "nearest",
                {"type": "integer", "minimum": 0, "maximum": MAX_NEAREST, "default": 0},
                "Training pictures that are most alike to the model.",
            ),
        ],
        "requestBody": {"required": True, "content": _PICTURES},
        "responses": _responses(_ref("Predictions"), _ANY, _ref("Predictions")),
    }


def _embed(config: ServeConfig) -> dict[str, Any]:
    return {
        "operationId": "embed",
        "summary": "What the model's head sees of pictures: vectors for search, clustering or another classifier.",
        "requestBody": {"required": True, "content": _PICTURES},
        "responses": _responses(_ref("Embeddings"), _ANY, _ref("Embeddings")),
    }


def _get(name: str, summary: str, schema: dict[str, Any], takes_token: bool) -> dict[str, Any]:
    errors = (400, 401, 403, 421, 500, 503) if takes_token else (403, 421, 500, 503)
    return {
        "operationId": name,
        "summary": summary,
        "responses": _responses(schema, errors),
        **({} if takes_token else {"security": []}),
    }


def _metrics() -> dict[str, Any]:
    responses = _responses({}, (401, 403, 421, 500))
    responses["200"] = {"description": "Prometheus's text format.", "content": {"text/plain": {"schema": _TEXT}}}
    return {"operationId": "metrics", "summary": "What the server counts.", "responses": responses}


def _responses(schema: dict[str, Any], errors: tuple[int, ...], unread: dict[str, Any] | None = None) -> dict[str, Any]:
    def json_of(description: str, content: dict[str, Any]) -> dict[str, Any]:
        return {"description": description, "content": {"application/json": {"schema": content}}}

    more = {} if unread is None else {"422": json_of("No picture could be read; each says why.", unread)}
    return {
        "200": json_of("The answer.", schema),
        **more,
        **{str(status): json_of(_ERRORS[status], _ref("Error")) for status in errors},
    }


def _option(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": description}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _status(word: str) -> dict[str, Any]:
    return _object({"status": {"const": word}})


def _object(properties: dict[str, Any], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    """An object of exactly these fields, all there but the optional ones."""
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _schemas() -> dict[str, Any]:
    anything = {"type": "object", "additionalProperties": True}
    base64 = {"type": "string", "contentEncoding": "base64"}
    count = {"type": "integer", "minimum": 0}
    answer = _object({"label": _TEXT, "probability": _SHARE})
    attention = _object(
        {"grid": _list(count), "depth": count, "heads": count, "source": _TEXT, "rollout": base64, "maps": base64,
         "picture": base64}
    )  # fmt: skip
    prediction = _object(
        {
            "file": _TEXT,
            "label": _TEXT_OR_NULL,
            "probability": {"anyOf": [_SHARE, {"type": "null"}]},
            "top": _list(answer),
            "error": _TEXT_OR_NULL,
            "record": _object({"right": count, "pictures": count, "interval": _SHARES, "sureness": _SHARES}),
            "attention": attention,
            "nearest": _list(_object({"name": _TEXT, "label": _TEXT, "similarity": _NUMBER, "thumbnail": base64})),
        },
        optional=("record", "attention", "nearest"),
    )
    embedding = _object(
        {"file": _TEXT, "features": {"anyOf": [_list(_NUMBER), {"type": "null"}]}, "error": _TEXT_OR_NULL}
    )
    limits = _object(
        {"max_body_bytes": count, "max_pixels": count, "max_pictures": count, "max_attention": count,
         "formats": _list(_TEXT)}
    )  # fmt: skip
    return {
        "Predictions": _object({"model": _TEXT, "predictions": _list(prediction)}),
        "Embeddings": _object({"model": _TEXT, "embeddings": _list(embedding)}),
        "Model": _object(
            {
                "name": _TEXT,
                "version": _TEXT,
                "labels": _list(_TEXT),
                "architecture": anything,
                "num_parameters": count,
                "preprocessing": anything,
                "temperature": _NUMBER,
                "metrics": anything,
                "provenance": anything,
                "licence": _TEXT_OR_NULL,
                "engine": _TEXT,
                "has_attention": _FLAG,
                "has_track_record": _FLAG,
                "has_nearest": _FLAG,
                "limits": limits,
            }
        ),
        "Error": _object({"error": _object({"code": _TEXT, "message": _TEXT, "request_id": _TEXT})}),
    }
