"""The service keeps to its own OpenAPI: no answer of another form, and none that is a fault."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from running_service import RunningService
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
COMMON = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "phases": (Phase.explicit, Phase.generate),
    "suppress_health_check": list(HealthCheck),
}


def operations(served: RunningService) -> Iterator[Any]:
    found = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    for each in found.get_all_operations():
        yield each.ok()


def hold(
    served: RunningService,
    examples: int,
    methods: Collection[str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> None:
    """Ask every operation, or those of some methods, for made-up examples, right and wrong."""
    count = 0
    for operation in operations(served):
        if methods is not None and operation.method.lower() not in methods:
            continue

        @settings(max_examples=examples, **COMMON)
        @given(case=operation.as_strategy())
        def asked(case: Any) -> None:
            case.call_and_validate(checks=CHECKS, headers=headers)

        asked()
        count += 1
    assert count > 10 if methods is None else count == len(methods)


def test_no_answer_is_off_the_schema(served: RunningService) -> None:
    hold(served, 5)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_no_answer_is_off_the_schema_however_long_one_tries(served: RunningService) -> None:
    hold(served, 300)


def test_every_address_is_described(served: RunningService) -> None:
    described = served.get("/openapi.json").json()
    assert set(described["paths"]) >= {
        "/v1/search", "/v1/similar/{id}", "/v1/images", "/v1/images/{id}", "/v1/images/{id}/file",
        "/v1/images/{id}/thumbnail", "/v1/images/{id}/locate", "/v1/locate", "/v1/facets",
        "/v1/embed", "/v1/index", "/healthz", "/readyz", "/metrics",
    }  # fmt: skip
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"] and operation["description"], (method, path)
            assert "HTTPValidationError" not in str(operation)
