"""The OpenAPI document of the endpoint: the very models that admit requests."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from serve.api.schema import REQUESTS

_REFERENCE = "#/components/schemas/{model}"


def body_of(kind: str) -> dict[str, Any]:
    """What a route says of its body, which it reads and validates itself."""
    schema = {"$ref": _REFERENCE.format(model=REQUESTS[kind].__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def document_requests(app: FastAPI) -> None:
    """Have the application's document hold the schemas that `body_of` refers to."""

    def document() -> dict[str, Any]:
        if not app.openapi_schema:
            made = get_openapi(title=app.title, version=app.version, routes=app.routes)
            requests = [(model, "validation") for model in REQUESTS.values()]
            _, schemas = models_json_schema(requests, ref_template=_REFERENCE)  # type: ignore[arg-type]
            made.setdefault("components", {}).setdefault("schemas", {}).update(schemas["$defs"])
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]
