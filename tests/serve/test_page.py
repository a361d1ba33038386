"""The page runs nothing but its own files, asks nobody else, and no address under it leads to another file."""

from __future__ import annotations

import re
import socket

import httpx
import pytest

from diptych.serve import create_app
from diptych.serve.page import page, page_files

from .conftest import Running, Stub, listening

MODULES = sorted(name for name in page_files() if name.endswith(".js"))


def test_the_policy_allows_files_of_the_page_only_and_the_markup_holds_no_code(service: Running) -> None:
    answer = service.http.get("/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    text = answer.text
    assert "{{" not in text
    assert 'name="viewport"' in text
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert not re.search(r"\s(on[a-z]+|style)=|<style|javascript:", text)
    assert re.findall(r"<script[^>]*>(.*?)</script>", text, re.DOTALL) == [""]
    asked = re.findall(r'(?:src|href)="(?!data:)([^"]+)"', text)
    assert sorted(asked) == sorted(f"page/{name}" for name in page_files())


@pytest.mark.parametrize("name", sorted(page_files()))
def test_each_part_is_sent_with_its_type_and_its_policy(service: Running, name: str) -> None:
    answer = service.http.get(f"/page/{name}")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == (
        "text/css; charset=utf-8" if name.endswith(".css") else "text/javascript; charset=utf-8"
    )
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"] == service.http.get("/").headers["content-security-policy"]
    assert "innerHTML" not in answer.text
    assert set(re.findall(r"https?://[^\s'\"<)]+", answer.text)) <= {"http://www.w3.org/2000/svg"}  # a name that nobody fetches
    assert answer.text.count("\n") < 250


def test_modules_import_what_there_is_and_not_in_circles() -> None:
    imports = {
        name: set(re.findall(r'^import (?:.* from )?"\./(.*)";$', page_files()[name].content.decode(), re.MULTILINE))
        for name in MODULES
    }
    left = dict(imports)
    while ready := [name for name, needs in left.items() if not needs & left.keys()]:
        for name in ready:
            assert imports[name] <= imports.keys(), name
            del left[name]
    assert left == {}, "these import each other"
    used = set().union(*imports.values())
    assert set(MODULES) - used == {"main.js"}


@pytest.mark.parametrize("path", ["/", "/page/style.css", "/page/main.js"])
def test_a_part_that_a_browser_has_is_not_sent_again(service: Running, path: str) -> None:
    first = service.http.get(path)
    assert first.headers["cache-control"] == "no-cache"
    tag = first.headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}'):
        again = service.http.get(path, headers={"If-None-Match": known})
        assert again.status_code == 304
        assert again.content == b""
        assert again.headers["etag"] == tag
    assert service.http.get(path, headers={"If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize(
    "name",
    [
        "page.html",
        "__init__.py",
        "",
        "nothing.js",
        "../guard.py",
        "..%2fguard.py",
        "%2e%2e/%2e%2e/guard.py",
        "..%5cguard.py",
        "%2fetc%2fpasswd",
        "main.js%00",
        "./main.js",
        "main.js/",
    ],
)
def test_no_name_leads_to_another_file(service: Running, name: str) -> None:
    host, port = service.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as line:  # clients mend such paths, sockets do not
        line.sendall(f"GET /page/{name} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        parts = []
        while part := line.recv(65536):
            parts.append(part)
    head, _, body = b"".join(parts).partition(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.1 404", b"HTTP/1.1 307")), head  # 307: to the name without a slash at its end
    assert b"import" not in body
    assert b"root:" not in body


def test_nothing_of_the_service_stands_in_the_page() -> None:
    model = Stub()
    model.name = '"><script>alert(1)</script>'
    with listening(create_app(model, token="t0ps3cret")) as address:
        text = httpx.get(address).text
        assert "alert(1)" not in text
        assert "t0ps3cret" not in text
        assert page(token=True).content.decode() == text
        assert page(token=False).content.decode() != text
        assert {httpx.get(f"{address}/page/{name}").status_code for name in page_files()} == {200}  # before a token is known
        assert httpx.get(f"{address}/page/../info").status_code == 401
