"""The service's description for programs, as OpenAPI 3.1."""

from typing import Any

from kdjax.teachers.serving.answering import Offer
from kdjax.teachers.serving.wire import JSON, NPY, TENSORS

REFUSALS = {
    "400": "No request id, or a body that cannot be read.",
    "401": "No key, or a wrong one.",
    "402": "The images asked are more than the budget leaves.",
    "403": "Too many of the client's images were near earlier ones.",
    "408": "The body came too slowly.",
    "409": "The request id has answered other images.",
    "411": "No Content-Length.",
    "412": "The model is not the one of If-Match.",
    "413": "The body is longer than the largest request.",
    "415": "Another media type.",
    "422": "Images of another type, shape or range.",
    "429": "Faster than the client's rate; Retry-After says how long to wait.",
}
"""Every status with which a request for answers is refused; none is charged."""


def document(offer: Offer) -> dict[str, Any]:
    """The whole document."""
    refusal = {"content": {JSON: {"schema": {"$ref": "#/components/schemas/Refusal"}}}}
    no_key = {"401": {"description": REFUSALS["401"], **refusal}}
    images: dict[str, Any] = {"type": "number", "minimum": 0, "maximum": 1}
    for size in reversed(offer.image_shape):
        images = {"type": "array", "items": images, "minItems": size, "maxItems": size}
    images = {"type": "array", "items": images, "minItems": 1, "maxItems": offer.most}

    def header(name: str, text: str, *, required: bool, **schema: Any) -> dict[str, Any]:
        own = {"type": "string", **schema}
        return {"name": name, "in": "header", "required": required, "description": text, "schema": own}

    def page(text: str, media: str, *, key: bool) -> dict[str, Any]:
        found: dict[str, Any] = {"200": {"description": text, "content": {media: {"schema": {}}}}}
        return {"get": {"responses": found | (no_key if key else {}), **({"security": [{"key": []}]} if key else {})}}

    answered = {
        "description": "Columns of an answer, a row for each image, and the model's checksum.",
        "headers": {"Model-Checksum": {"schema": {"type": "string"}}, "Idempotency-Replayed": {"schema": {}}},
        "content": {
            JSON: {"schema": {"$ref": "#/components/schemas/Answer"}},
            TENSORS: {"schema": {"type": "string", "contentMediaType": TENSORS}},
        },
    }
    post = {
        "summary": f"Answers by the policy {offer.policy}, at {offer.price:g} an image.",
        "security": [{"key": []}],
        "parameters": [
            header(
                "Idempotency-Key", "The request's id; a repeat of it is answered again and costs nothing.",
                required=True, minLength=1, maxLength=200, pattern="^[!-~]+$",
            ),
            header("If-Match", "The checksum of the model that is to answer.", required=False),
        ],
        "requestBody": {
            "required": True,
            "content": {
                NPY: {"schema": {"type": "string", "contentMediaType": NPY}},
                JSON: {
                    "schema": {
                        "type": "object", "required": ["images"], "additionalProperties": False,
                        "properties": {"images": images},
                    }
                },
            },
        },
        "responses": {"200": answered} | {s: {"description": text, **refusal} for s, text in REFUSALS.items()},
    }  # fmt: skip
    text = {"type": "string"}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Answers of a network", "version": "1"},
        "paths": {
            "/v1/answers": {"post": post},
            "/v1/model": page("What is served.", JSON, key=True),
            "/v1/account": page("Budget, and what is spent of it.", JSON, key=True),
            "/health": page("The service runs.", JSON, key=False),
            "/metrics": page("Counts, for Prometheus.", "text/plain", key=False),
            "/openapi.json": page("This document.", JSON, key=False),
        },
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                "Answer": {
                    "type": "object", "required": ["request", "model", "policy", "images", "price", "answers"],
                    "properties": {
                        **dict.fromkeys(("request", "model", "policy", "images", "price"), text),
                        "answers": {"type": "object", "additionalProperties": {"type": "array"}},
                    },
                },
                "Refusal": {
                    "type": "object", "required": ["error"],
                    "properties": {
                        "error": {
                            "type": "object", "required": ["reason", "message"],
                            "properties": {"reason": text, "message": text},
                        }
                    },
                },
            },
        },
    }  # fmt: skip
