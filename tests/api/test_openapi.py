"""The description of the API, and that the API is as described."""

import os
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from jsonschema_rs import validator_for
from schemathesis import GenerationMode
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import positive_data_acceptance

from insa_anomaly.services.keys import Permission, Wish
from tests.api.office import Office, now

EXAMPLES = int(os.environ.get("INSA_API_EXAMPLES", "5"))


@pytest.fixture
def described(office: Office) -> dict[str, Any]:
    """Return the description."""
    said: dict[str, Any] = office.get("/api/v1/openapi.json")
    return said


def test_every_guarded_route_is_described(office: Office, described: dict[str, Any]) -> None:
    """A guarded route has its permission, a summary, and an example of each answer.

    The open routes and the document itself are not described.
    """
    found = {
        (method.upper(), path)
        for path, operations in described["paths"].items()
        for method in operations
    }
    hidden = {
        "/healthz",
        "/readyz",
        "/metrics",
        "/metrics/models",
        "/api/v1/status",
        "/api/v1/openapi.json",
    }
    assert found == {(method, path) for method, path in office.routes() if path not in hidden}
    for operations in described["paths"].values():
        for operation in operations.values():
            assert operation["x-permission"]
            assert operation["description"]
            assert {"200", "400", "401", "403", "503"} <= operation["responses"].keys()
            for response in operation["responses"].values():
                [content] = response["content"].values()
                assert "example" in content


def test_the_examples_are_what_the_schemas_say(described: dict[str, Any]) -> None:
    """The examples of requests and answers are valid under their schemas."""
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            parts = [
                *operation["responses"].values(),
                *([operation["requestBody"]] if "requestBody" in operation else []),
            ]
            for content in (content for part in parts for content in part["content"].values()):
                schema = {**content["schema"], "components": described["components"]}
                if "example" in content:
                    assert not list(validator_for(schema).iter_errors(content["example"])), (
                        method,
                        path,
                    )


def test_the_api_is_as_described(office: Office) -> None:
    """Schemathesis finds no internal error, no undescribed answer and no way round the key.

    All checks but `positive_data_acceptance` run: a name that cannot be printed, a cursor that no
    page returned and a payload without a reading are well-formed by the schema, and refused all the
    same.
    """
    office.serve(office.train())
    office.stream([10.0 + number % 3 for number in range(80)])
    token = office.service.create(
        Wish("tireless", [Permission.ADMIN], None, 10**9), "tests", now()
    )[1]
    office.ring.refresh()
    headers = {"Authorization": f"Bearer {token}"}
    schema = schemathesis.openapi.from_asgi(
        "/api/v1/openapi.json", office.application, headers=headers
    )
    for found in schema.get_all_operations():
        assert isinstance(found, Ok)
        operation = found.ok()
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            hold(operation, mode, headers)


def hold(
    operation: schemathesis.APIOperation[Any, Any, Any, Any],
    mode: GenerationMode,
    headers: dict[str, str],
) -> None:
    """Check an operation against its description, with valid or with invalid requests."""

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def holds(case: schemathesis.Case[Any]) -> None:
        case.call_and_validate(headers=headers, excluded_checks=[positive_data_acceptance])

    holds()
