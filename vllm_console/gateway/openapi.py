"""The gateway's own OpenAPI 3.1 document: what it serves, asks for and answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from vllm_console.gateway.paths import KIND, Kind

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_WHOLE: Schema = {"type": "integer"}
_FLAG: Schema = {"type": "boolean"}
_OBJECT: Schema = {"type": "object"}
_LIST: Schema = {"type": "array"}
_NAME: Schema = {"type": "string", "minLength": 1, "description": "A name that /v1/models lists."}
_ANY: Schema = {}
_PROMPT: Schema = {"type": ["string", "array"]}
_MESSAGES: Schema = {"type": "array", "items": {"type": "object", "required": ["role"]}}

_FIELDS: Mapping[str, tuple[Schema, tuple[str, ...]]] = {
    "/v1/chat/completions": ({"messages": _MESSAGES}, ("messages",)),
    "/v1/completions": ({"prompt": _PROMPT}, ("prompt",)),
    "/v1/responses": ({"input": _PROMPT}, ("input",)),
    "/v1/messages": ({"messages": _MESSAGES}, ("messages", "max_tokens")),
    "/v1/messages/count_tokens": ({"messages": _MESSAGES}, ("messages",)),
    "/v1/embeddings": ({"input": _PROMPT, "messages": _MESSAGES}, ()),
    "/pooling": ({"input": _PROMPT, "messages": _MESSAGES}, ()),
    "/classify": ({"input": _PROMPT, "messages": _MESSAGES}, ()),
    "/rerank": ({"query": _ANY, "documents": _ANY}, ("query", "documents")),
    "/v1/rerank": ({"query": _ANY, "documents": _ANY}, ("query", "documents")),
    "/v2/rerank": ({"query": _ANY, "documents": _ANY}, ("query", "documents")),
    "/score": ({}, ()),
    "/v1/score": ({}, ()),
    "/tokenize": ({"prompt": _TEXT, "messages": _MESSAGES}, ()),
    "/detokenize": ({"tokens": {"type": "array", "items": _WHOLE}}, ("tokens",)),
}
"""What requests hold beside `model`, by path: properties, and which of them must be there; from
`vllm/entrypoints/*/protocol.py` of vLLM 0.32. All else is passed on as it comes."""
_LIMIT: Schema = {"type": ["integer", "null"], "minimum": 1}
_PRIORITY: Schema = {
    "type": ["integer", "null"],
    "description": "Below 0 is high, above 0 low.",
}
_FILE: Schema = {"type": "string", "format": "binary"}
_REFUSALS = {
    400: "The request is malformed.",
    401: "The key is missing, unknown, revoked or expired.",
    403: "The key may not use this model.",
    404: "No such model, or the engine has no such endpoint.",
    408: "The body did not come in time.",
    413: "The body is too large.",
    415: "The body is of a type that this endpoint does not take.",
    422: "The engine does not take these values.",
    429: "A limit of the key, or of the queue, is reached.",
    431: "The header is too large.",
    500: "The engine failed.",
    501: "The engine cannot do this.",
    502: "The worker's answer broke off.",
    503: "No worker can take it now.",
    504: "The answer did not come in time.",
}
_HEADERS = (
    ("X-Priority", {"type": "string", "enum": ["high", "normal", "low"]}, "The class it waits in."),
    ("X-Request-Id", {"type": "string"}, "Names it in logs; made up if absent or over 128 bytes."),
    ("X-Session-Id", {"type": "string"}, "Requests of one session go to one worker."),
)
_COMPONENTS: Schema = {
    "Error": {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["message"],
                "properties": {
                    "message": _TEXT,
                    "type": {"type": ["string", "null"]},
                    "param": {"type": ["string", "null"]},
                    "code": {"type": ["string", "integer", "null"]},
                },
            }
        },
    },
    "MessagesError": {
        "type": "object",
        "required": ["type", "error"],
        "properties": {
            "type": {"const": "error"},
            "error": {
                "type": "object",
                "required": ["type", "message"],
                "properties": {"type": _TEXT, "message": _TEXT},
            },
        },
    },
    "Model": {
        "type": "object",
        "required": ["id", "object", "created", "owned_by", "state", "ready"],
        "properties": {
            "id": _TEXT,
            "object": {"const": "model"},
            "created": _WHOLE,
            "owned_by": _TEXT,
            "root": _TEXT,
            "parent": {"type": ["string", "null"]},
            "max_model_len": {"type": ["integer", "null"]},
            "state": _TEXT,
            "ready": _FLAG,
        },
    },
    "Models": {
        "type": "object",
        "required": ["object", "data"],
        "properties": {
            "object": {"const": "list"},
            "data": {"type": "array", "items": {"$ref": "#/components/schemas/Model"}},
        },
    },
    "Stats": {
        "type": "object",
        "required": ["schema", "models", "workers", "total"],
        "properties": {
            "schema": {"const": "vllm-console/gateway-stats/1"},
            "models": _LIST,
            "workers": _LIST,
            "total": _OBJECT,
        },
    },
}


def document(version: str) -> bytes:
    """The document as JSON; `version` is that of vllm-console."""
    paths: Schema = {path: {"post": _post(path, kind)} for path, kind in _kinds()}
    paths |= {path: {"get": operation} for path, operation in _own()}
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "vllm-console gateway",
                "version": version,
                "description": "One OpenAI-compatible endpoint for all models of a fleet.",
            },
            "paths": paths,
            "components": {
                "schemas": _COMPONENTS,
                "securitySchemes": {
                    "bearer": {"type": "http", "scheme": "bearer"},
                    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                },
            },
            "security": [{}, {"bearer": []}, {"x-api-key": []}],
        }
    )


def _kinds() -> Iterator[tuple[str, Kind]]:
    for path, kind in sorted(KIND.items()):
        yield path.decode(), kind


def _post(path: str, kind: Kind) -> Schema:
    """One endpoint that is passed on to a worker."""
    properties, required = _FIELDS.get(path, ({}, ()))
    more: Schema = {}
    if kind.multipart:
        media = "multipart/form-data"
        properties, required = {"file": _FILE}, ("file",)
        more = {"propertyNames": {"pattern": r"^[A-Za-z0-9_\[\]]+$"}}
    else:
        media = "application/json"
        properties = {**properties, **dict.fromkeys(kind.limits, _LIMIT)}
        if kind.prioritised:
            properties["priority"] = _PRIORITY
        if kind.streams:
            properties["stream"] = {"type": ["boolean", "null"]}
    answers: Schema = {"application/json": {"schema": _ANY}}
    if kind.streams:
        answers["text/event-stream"] = {"schema": _ANY}
    if kind.multipart:
        answers["text/plain"] = {"schema": _TEXT}
    error = "MessagesError" if kind.shape == "anthropic" else "Error"
    return {
        "operationId": path.strip("/").replace("/", "_"),
        "parameters": [
            {"name": name, "in": "header", "required": False, "schema": schema, "description": text}
            for name, schema, text in _HEADERS
        ],
        "requestBody": {
            "required": True,
            "content": {
                media: {
                    "schema": {
                        "type": "object",
                        "required": ["model", *required],
                        "properties": {"model": _NAME, **properties},
                        **more,
                    }
                }
            },
        },
        "responses": {"200": {"description": "The engine's answer.", "content": answers}}
        | _refusals(error, *_REFUSALS),
    }


def _own() -> Iterator[tuple[str, Schema]]:
    """The endpoints that the gateway answers itself."""
    models = _content("application/json", {"$ref": "#/components/schemas/Models"})
    model = _content("application/json", {"$ref": "#/components/schemas/Model"})
    stats = _content("application/json", {"$ref": "#/components/schemas/Stats"})
    yield "/v1/models", _get("models", "All models, loaded or not.", models, 401)
    named = _get("model", "One model, alias or adapter.", model, 401, 404)
    where = {"name": "model", "in": "path", "required": True, "schema": _NAME}
    yield "/v1/models/{model}", {**named, "parameters": [where]}
    status = _content("application/json", _OBJECT)
    yield "/health", _get("health", "200 while the gateway serves.", status)
    yield "/ready", _get("ready", "200 when a model takes requests.", status, 503)
    yield "/metrics", _get("metrics", "Counts for Prometheus.", _content("text/plain", _TEXT), 401)
    yield "/stats", _get("stats", "What happens now, and of the last minute.", stats, 401)
    described = _content("application/json", _OBJECT)
    yield "/openapi.json", _get("openapi", "This document.", described)


def _get(name: str, summary: str, content: Schema, *refusals: int) -> Schema:
    answers = {"200": {"description": "As asked.", "content": content}}
    return {
        "operationId": f"get_{name}",
        "summary": summary,
        "responses": answers | _refusals("Error", *refusals),
    }


def _refusals(error: str, *statuses: int) -> Schema:
    content = _content("application/json", {"$ref": f"#/components/schemas/{error}"})
    return {
        str(status): {"description": _REFUSALS[status], "content": content} for status in statuses
    }


def _content(media: str, schema: Schema) -> Schema:
    return {media: {"schema": schema}}
