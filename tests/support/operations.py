# SPDX-License-Identifier: Apache-2.0
"""The operations of the API, read from its own document, so that none can be left out."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from nimbus.app import create_app
from nimbus.base import config


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation; `path_ids`, `query_ids` and `body_ids` are where ids of objects go."""

    id: str
    method: str
    path: str
    declared: dict[str, Any]
    parameters: tuple[tuple[str, str], ...]
    path_ids: tuple[str, ...]
    query_ids: tuple[str, ...]
    body_ids: tuple[str, ...]
    has_body: bool

    @property
    def ids(self) -> tuple[str, ...]:
        """Every name under which it takes an object's id."""
        return self.path_ids + self.query_ids + self.body_ids


@cache
def operations() -> tuple[Operation, ...]:
    """Every operation of the API document."""
    with tempfile.TemporaryDirectory(prefix="nimbus-document-") as folder:
        document = create_app(config.load({"NIMBUS_DATA_DIR": folder})).openapi()
    schemas = document["components"]["schemas"]
    return tuple(
        _operation(method.upper(), path, operation, schemas)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    )


def _operation(
    method: str, path: str, operation: dict[str, Any], schemas: dict[str, Any]
) -> Operation:
    parameters = operation.get("parameters", [])
    media = operation.get("requestBody", {}).get("content", {})
    body = media.get("application/json", {}).get("schema", {})
    ids = {
        place: tuple(p["name"] for p in parameters if p["in"] == place and _is_id(p["schema"]))
        for place in ("path", "query")
    }
    return Operation(
        id=operation["operationId"],
        method=method,
        path=path,
        declared=operation.get("x-nimbus", {}),
        parameters=tuple((p["in"], p["name"]) for p in parameters),
        path_ids=ids["path"],
        query_ids=ids["query"],
        body_ids=tuple(_ids_within(body, schemas, "")),
        has_body=bool(media),
    )


def _is_id(schema: dict[str, Any]) -> bool:
    options = schema.get("anyOf", [schema])
    return any(option.get("format") == "uuid" for option in options)


def _ids_within(schema: dict[str, Any], schemas: dict[str, Any], name: str) -> Iterator[str]:
    """`a.b` for each property that is an id, however deep it lies."""
    if _is_id(schema):
        yield name
    if reference := schema.get("$ref"):
        yield from _ids_within(schemas[reference.rpartition("/")[2]], schemas, name)
    for inner in schema.get("properties", {}).items():
        yield from _ids_within(inner[1], schemas, f"{name}.{inner[0]}".lstrip("."))
    items = [schema.get("items"), schema.get("additionalProperties")]
    options = [option for option in schema.get("anyOf", []) if "$ref" in option]
    for option in [*items, *options]:
        if isinstance(option, dict):
            yield from _ids_within(option, schemas, name)
