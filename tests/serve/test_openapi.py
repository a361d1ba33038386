"""The OpenAPI description is true: generated requests find no server error, and answers have the shapes it promises."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from diptych.serve import Limits

from .conftest import Running, running

schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis (pip install schemathesis)")
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from schemathesis.checks import not_a_server_error  # noqa: E402
from schemathesis.specs.openapi.checks import (  # noqa: E402
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [not_a_server_error, status_code_conformance, response_schema_conformance, content_type_conformance]

LIMITS = Limits(body_bytes=200_000, image_pixels=10_000, inputs=4, text_characters=200, k=20, seconds=20)
PATHS = ["/v1/embeddings", "/v1/chat/completions", "/v1/models", "/v1/models/{model_id}", "/search", "/classify", "/detect",
         "/explain", "/locate", "/words", "/caption", "/ask", "/tokens", "/items/{uid}", "/image/{uid}",
         "/cloud/{uid}", "/healthz", "/readyz", "/info", "/metrics"]  # fmt: skip


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("openapi"), limits=LIMITS) as started:
        yield started


def test_every_route_is_described(service: Running) -> None:
    described = service.http.get("/openapi.json").json()
    assert sorted(described["paths"]) == sorted([*PATHS, "/items", "/admin/reload"])
    for path, operations in described["paths"].items():
        for name, operation in operations.items():
            assert operation["description"], (path, name)
            for status in ("400", "401", "413", "422", "429", "503"):
                assert status in operation["responses"], (path, name, status)


def operations() -> list[tuple[str, str]]:
    posts = {
        "/v1/embeddings",
        "/v1/chat/completions",
        "/classify",
        "/detect",
        "/explain",
        "/locate",
        "/words",
        "/caption",
        "/ask",
        "/tokens",
    }
    found = [(path, "POST" if path in posts else "GET") for path in PATHS]
    return [*found, ("/search", "POST")]


@pytest.mark.parametrize(("path", "method"), operations())
def test_generated_requests_find_no_server_error(service: Running, path: str, method: str) -> None:
    schema = schemathesis.openapi.from_url(f"{service.address}/openapi.json")
    operation = schema[path][method]

    @settings(max_examples=20, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy())
    def check(case: schemathesis.Case) -> None:
        answer = case.call(timeout=20)
        assert answer.status_code < 500 or (path == "/readyz" and answer.status_code == 503), answer.text
        case.validate_response(answer, checks=CHECKS)

    check()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NAMES = (
    "text image like unlike where k distinct labels uid objects input grid model messages stop stream n seed choices question prompt "
    "max_tokens"
)
FIELDS = st.sampled_from(NAMES.split())


@settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(
    path=st.sampled_from(
        ["/search", "/classify", "/detect", "/explain", "/caption", "/ask", "/v1/embeddings", "/v1/chat/completions"]
    ),
    body=st.dictionaries(FIELDS, JSON),
)
def test_any_json_is_answered_or_refused(service: Running, path: str, body: dict) -> None:
    answer = service.http.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert answer.status_code < 500, (body, answer.text)


@settings(max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(
    content=st.binary(max_size=200),
    kind=st.sampled_from(["application/json", "text/plain", "application/x-www-form-urlencoded", ""]),
)
def test_any_bytes_are_refused(service: Running, content: bytes, kind: str) -> None:
    answer = service.http.post("/search", content=content, headers={"Content-Type": kind} if kind else {})
    assert 400 <= answer.status_code < 500


@pytest.mark.parametrize(
    "where",
    [
        {"style": []},
        {"style": {}},
        {"style": None},
        {"style": 3},
        {"style": [["a"]]},
        {"score": {">=": "a"}},
        {"score": {">=": None}},
        {"score": {"!=": 1}},
        {"score": True},
        {"score": 10**400},
        {"score": {"<": float("nan")}},
        {"score": [float("inf")]},
        {"tags": ["red", 2]},
        {"": 1},
    ],
    ids=str,
)
def test_conditions_that_mean_nothing_are_refused(service: Running, where: dict) -> None:
    body = json.dumps({"text": "red", "where": where})
    answer = service.http.post("/search", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422), answer.text
