"""What the document of OpenAPI says of bodies: plain JSON Schema, kept beside the paths that take them."""

from __future__ import annotations

from typing import Any

from softmaxnet.server.handlers import Route

__all__ = ["details"]

CELL = {"type": ["string", "number", "boolean", "null"]}
OPTIONS: dict[str, Any] = {
    "top": {"type": "integer", "minimum": 1, "description": "also the k most probable classes"},
    "probabilities": {"type": "boolean", "description": "all of them; by default up to 1,000 classes"},
    "logits": {"type": "boolean", "description": "logits before and after calibration"},
    "coverage": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1, "description": "a prediction set"},
    "explain": {"type": ["boolean", "object"], "description": "contributions of the inputs"},
    "seen": {"type": "boolean", "description": "the pixels that the model was given"},
    "drawing": {"type": "boolean", "description": "false: pictures are only resized"},
}
REQUEST = {
    "type": "object",
    "properties": {
        "rows": {
            "type": "array",
            "items": {
                "oneOf": [{"type": "object", "additionalProperties": CELL}, {"type": "array", "items": CELL}],
            },
        },
        "columns": {"type": "object", "additionalProperties": {"type": "array", "items": CELL}},
        "texts": {"type": "array", "items": {"type": ["string", "null"]}},
        "images": {"type": "array", "items": {"type": "string", "contentEncoding": "base64"}},
        **OPTIONS,
    },
    "additionalProperties": False,
}
LABEL = {"type": ["string", "number", "boolean"]}
NUMBERS = {"type": "array", "items": {"type": "number"}}
ANSWER = {
    "type": "object",
    "required": ["model", "predictions"],
    "properties": {
        "model": {"type": "string"},
        "classes": {"type": "array", "items": LABEL},
        "predictions": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["label", "probability"],
                "properties": {
                    "label": LABEL,
                    "probability": {"type": "number"},
                    "probabilities": NUMBERS,
                    "logits": NUMBERS,
                    "raw_logits": NUMBERS,
                    "top": {"type": "array", "items": {"type": "object"}},
                    "set": {"type": "array", "items": LABEL},
                    "explanation": {"type": "object"},
                    "seen": {"type": "array"},
                },
            },
        },
        "unseen": {"type": "object", "additionalProperties": {"type": "integer"}},
        "warnings": {"type": "array", "items": {"type": "string"}},
    },
}
PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "errors", "error"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
        "errors": {"type": "array", "items": {"type": "object"}},
        "error": {"type": "string"},
    },
}
TENSOR = {
    "type": "object",
    "required": ["name", "datatype", "shape"],
    "properties": {
        "name": {"type": "string"},
        "datatype": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "data": {"type": "array"},
        "parameters": {"type": "object"},
    },
}
INFERENCE = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "parameters": {"type": "object"},
        "inputs": {"type": "array", "items": TENSOR},
        "outputs": {"type": "array", "items": {"type": "object", "required": ["name"]}},
    },
}
INFERRED = {
    "type": "object",
    "required": ["model_name", "outputs"],
    "properties": {
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "id": {"type": "string"},
        "outputs": {"type": "array", "items": TENSOR},
    },
}
BINARY = {"type": "string", "format": "binary"}


def details(route: Route) -> dict[str, Any]:
    """Return what ``FastAPI.add_api_route`` is to be told of a path."""
    answers: dict[Any, dict[str, Any]] = {
        "default": {
            "description": "Problem details (RFC 9457)",
            "content": {"application/problem+json": {"schema": PROBLEM}},
        }
    }
    extra: dict[str, Any] = {}
    if route.path == "/predict":
        answers[200] = _json("The predictions, a row for each row", ANSWER)
        bodies = {
            "application/json": REQUEST,
            "text/csv": {"type": "string"},
            "image/png": BINARY,
            "image/jpeg": BINARY,
        }
        extra["requestBody"] = {"required": True, "content": {name: {"schema": body} for name, body in bodies.items()}}
        extra["parameters"] = [
            {"name": name, "in": "query", "schema": schema, "description": "of CSV texts and pictures"}
            for name, schema in OPTIONS.items()
        ]
    elif route.path.endswith("/infer"):
        answers[200] = _json("The tensors of the answer", INFERRED)
        answers[200]["content"]["application/octet-stream"] = {"schema": BINARY}
        bodies = {"application/json": INFERENCE, "application/octet-stream": BINARY}
        extra["requestBody"] = {"required": True, "content": {name: {"schema": body} for name, body in bodies.items()}}
    return {"summary": route.summary, "responses": answers, "openapi_extra": extra}


def _json(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}
