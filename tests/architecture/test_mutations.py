# SPDX-License-Identifier: Apache-2.0
"""What every operation of the API declares: counted from the API document, none left out.

A mutating operation says which permission it needs, which facts it announces (an audit row and
an outbox row each) and why asking twice is harmless; `base.web` holds each request to it.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts

from nimbus.app import create_app
from nimbus.base import config
from nimbus.base.events import Event
from nimbus.identity.permissions import Permission
from tests.architecture.tree import assert_none

Document = dict[str, Any]

MUTATING = {"post", "put", "patch", "delete"}
IDEMPOTENCY = {"key", "natural", "version", "token"}
ANYONE = {"public"}
PERMISSIONS = {*Permission, *ANYONE, "signed_in", "platform_admin", "support"}

# Operations that send something in but change nothing.
CHANGES_NOTHING: dict[str, str] = {
    "estimate": "it answers what an invoice would come to, and keeps nothing",
    "preview_subscription_change": "what it says is kept to be done by; the subscription stays",
}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    folder = str(tmp_path_factory.mktemp("data"))
    return create_app(config.load({"NIMBUS_DATA_DIR": folder}))


@pytest.fixture(scope="module")
def document(app: FastAPI) -> Document:
    return app.openapi()


def operations(document: Document) -> Iterator[tuple[str, Document]]:
    """`POST /path` and the operation, for each of the document."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def undeclared(document: Document) -> Iterator[str]:
    """What mutating operations leave unsaid or say of what does not exist."""
    known = {getattr(event, "name", None) for event in all_events(Event)}
    for name, operation in operations(document):
        if name.partition(" ")[0].lower() not in MUTATING:
            continue
        declared = operation.get("x-nimbus", {})
        if declared.get("permission") not in PERMISSIONS:
            yield f"{name}: permission {declared.get('permission')}"
        if declared.get("idempotency") not in IDEMPOTENCY:
            yield f"{name}: idempotency {declared.get('idempotency')}"
        events = declared.get("events", [])
        if bool(events) == (operation.get("operationId") in CHANGES_NOTHING):
            yield f"{name}: events {events}"
        yield from (f"{name}: no event {event}" for event in events if event not in known)


def all_events(base: type[Event]) -> Iterator[type[Event]]:
    for event in base.__subclasses__():
        yield event
        yield from all_events(event)


def missing_problems(document: Document) -> Iterator[str]:
    """Problem answers that an operation can give and does not document."""
    for name, operation in operations(document):
        declared = operation.get("x-nimbus", {})
        wanted = set()
        if operation.get("requestBody"):
            wanted |= {"415", "422"}
        if operation.get("parameters"):
            wanted |= {"422"}
        if declared and declared.get("permission") not in ANYONE:
            wanted |= {"401"}
        if declared.get("permission") in set(Permission):
            wanted |= {"403"}
        if "{" in name:
            wanted |= {"404"}
        if declared.get("idempotency") in {"key", "version"}:
            wanted |= {"409"}
        missing = wanted - set(operation["responses"])
        if missing:
            yield f"{name}: does not document {', '.join(sorted(missing))}"


def other_errors(document: Document) -> Iterator[str]:
    """Documented errors that are not problem documents."""
    for name, operation in operations(document):
        for status, answer in operation["responses"].items():
            content = answer.get("content", {})
            problem = content.get("application/problem+json", {}).get("schema", {})
            if status >= "400" and not str(problem.get("$ref", "")).endswith("/Problem"):
                yield f"{name}: {status} is no problem document"
            if status >= "400" and set(content) != {"application/problem+json"}:
                yield f"{name}: {status} as {', '.join(content) or 'nothing'}"


def routes(app: FastAPI) -> list[Any]:
    """Every route of the API, those of included routers too."""
    contexts = iter_route_contexts(app.routes)
    return [route for route in contexts if isinstance(route.original_route, APIRoute)]


def test_every_mutating_operation_declares_permission_facts_and_idempotency(
    document: Document,
) -> None:
    assert_none(list(undeclared(document)))


def test_every_operation_documents_the_problems_it_can_answer(document: Document) -> None:
    assert_none(list(missing_problems(document)))


def test_every_error_is_a_problem_document(document: Document) -> None:
    assert_none(list(other_errors(document)))


def test_every_operation_has_an_id_of_its_own_that_somebody_chose(app: FastAPI) -> None:
    chosen = [route.operation_id for route in routes(app) if route.include_in_schema]

    assert None not in chosen
    assert len(chosen) == len(set(chosen))


def test_the_document_names_every_route_or_its_handler_s_other_path(
    app: FastAPI, document: Document
) -> None:
    documented = {name for name, _ in operations(document)}
    named = {
        f"{method} {route.path}"
        for route in routes(app)
        if route.include_in_schema
        for method in route.methods
    }
    handlers = {route.endpoint for route in routes(app) if route.include_in_schema}

    assert named == documented
    assert_none([r.path for r in routes(app) if r.endpoint not in handlers])


def test_a_second_path_of_a_handler_declares_the_same(app: FastAPI) -> None:
    declared = {r.endpoint: r.openapi_extra for r in routes(app) if r.include_in_schema}

    assert_none(
        [
            f"{route.path} declares nothing"
            for route in routes(app)
            if route.openapi_extra != declared.get(route.endpoint)
        ]
    )


def test_the_document_is_openapi_3_1(document: Document) -> None:
    assert document["openapi"].startswith("3.1")
    assert document["paths"]


PLANTED = {
    "paths": {"/x/{id}": {"post": {"requestBody": {"content": {}}, "responses": {"422": {}}}}}
}


def test_a_planted_operation_without_declaration_is_found() -> None:
    assert list(undeclared(PLANTED)) == [
        "POST /x/{id}: permission None",
        "POST /x/{id}: idempotency None",
        "POST /x/{id}: events []",
    ]
    assert list(missing_problems(PLANTED)) == ["POST /x/{id}: does not document 404, 415"]
    assert len(list(other_errors(PLANTED))) == 2
