"""The OpenAPI document is true: what it says can be sent, and what comes back is what it says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from vitrail.serve.app import create_app
from vitrail.serve.config import ServeConfig
from vitrail.serve.openapi import document

from .conftest import TOKEN, Server

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis, which reads OpenAPI documents, is missing")
from schemathesis.specs.openapi.checks import positive_data_acceptance  # noqa: E402

UNDOCUMENTED = {"/openapi.json", "/sign-in"}  # the document itself, and what only the page needs


def test_every_route_is_in_it_and_no_other() -> None:
    config = ServeConfig(model="nothing-yet")
    routes = {route.path for route in create_app(config).routes}  # type: ignore[attr-defined]
    routes = {path for path in routes if not path.startswith("/page/") and path != "/"}
    assert set(document(config)["paths"]) == routes - UNDOCUMENTED


def test_it_is_served_as_it_is_made(server: Server) -> None:
    answer = server.get("/openapi.json")
    assert answer.json() == document(ServeConfig(model=""))
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.filterwarnings("ignore")  # of schemathesis's own
@pytest.mark.parametrize("with_token", [False, True])
def test_the_server_keeps_to_it(request: pytest.FixtureRequest, with_token: bool) -> None:
    server: Server = request.getfixturevalue("guarded" if with_token else "server")
    headers = {"Authorization": f"Bearer {TOKEN}"} if with_token else {}
    schema = schemathesis.openapi.from_url(f"http://{server.address}/openapi.json", headers=headers)
    schema.validate()
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) == 6
    for operation in operations:

        @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(operation.as_strategy())
        def ask(case: Any) -> None:
            # Bytes that were made up are no picture, and are told so.
            excluded = [positive_data_acceptance] if case.method == "POST" else []
            case.call_and_validate(excluded_checks=excluded, headers=headers)

        ask()
