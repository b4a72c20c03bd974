"""The OpenAPI document of the endpoint, made from the same models that validate requests."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from serve.api.schema import REQUESTS

_REFERENCE = "#/components/schemas/{model}"


def request_body(kind: str) -> dict[str, Any]:
    """The OpenAPI entry for a route's body, which the route reads and validates itself."""
    schema = {"$ref": _REFERENCE.format(model=REQUESTS[kind].__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def document_requests(app: FastAPI) -> None:
    """Add the schemas that `request_body` refers to to the application's document.

    FastAPI documents only what it validates itself; replacing `app.openapi` is its own way to extend the document.
    """

    def openapi() -> dict[str, Any]:
        if not app.openapi_schema:
            document = get_openapi(title=app.title, version=app.version, routes=app.routes)
            requests = [(model, "validation") for model in REQUESTS.values()]
            _, schemas = models_json_schema(requests, ref_template=_REFERENCE)  # type: ignore[arg-type]
            document.setdefault("components", {}).setdefault("schemas", {}).update(schemas["$defs"])
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
