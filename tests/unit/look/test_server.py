"""The page answers itself and nobody else, and what is wrong with a question in one line."""

from __future__ import annotations

import http.client
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import pytest

from electra_scale.inside.inside import Inside
from tests.unit.look.conftest import serving


def ask(
    url: str, method: str = "GET", path: str = "/", body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body; names of headers are written with _ for -."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def look(url: str, **question: Any) -> tuple[int, dict[str, Any]]:
    body = json.dumps(question).encode()
    status, _, content = ask(url, "POST", "/api/look", body, Content_Type="application/json")
    return status, json.loads(content)


def test_it_answers_with_what_looking_gives(page_of_run: str, hard: Inside) -> None:
    status, found = look(page_of_run, text="the cat sat", masked=[2], key=3)
    assert status == 200
    expected = hard.look("the cat sat", [2], 3)
    assert [token["score"] for token in found["tokens"]] == [token.score for token in expected.tokens]
    assert found["positions"][0]["drawn"]["token"] == expected.positions[0].drawn.token
    _, by_key = look(page_of_run, text="the cat sat", mask_key=5)
    assert [one["index"] for one in by_key["positions"]] == hard.random_masks("the cat sat", 5)


@pytest.mark.parametrize(
    ("question", "line"),
    [
        ({"text": ""}, "no token to look at"),
        ({"text": "cat " * 100}, "takes at most 12"),
        ({"text": "the \ud800"}, "not text in UTF-8"),
        ({"text": "cat", "masked": [7]}, "cannot be masked"),
        ({"text": "cat", "masked": [10**30]}, "cannot be masked"),
    ],
)
def test_what_a_user_can_put_right_is_a_line(page_of_run: str, question: dict[str, Any], line: str) -> None:
    status, found = look(page_of_run, **question)
    assert (status, list(found)) == (200, ["error"])
    assert line in found["error"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'{"text": 1}', b'{"text": "a", "other": 1}', b"\xff\xfe"],
)
def test_a_malformed_question_is_refused(page_of_run: str, body: bytes) -> None:
    status, _, content = ask(page_of_run, "POST", "/api/look", body, Content_Type="application/json")
    assert status == 422
    assert b"malformed" in content


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "LOCALHOST"])
@pytest.mark.parametrize("port", ["", ":8613", ":9"])
def test_names_of_this_machine_are_answered(page_of_run: str, host: str, port: str) -> None:
    assert ask(page_of_run, Host=host + port)[0] == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8613", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", "", ":80"],
)
def test_a_name_that_somebody_has_pointed_here_is_refused(page_of_run: str, host: str) -> None:
    for method, path in (("GET", "/"), ("GET", "/api/about"), ("POST", "/api/look")):
        status, _, content = ask(page_of_run, method, path, b"{}", Host=host, Content_Type="application/json")
        assert status in (400, 403)
        assert b"Look inside" not in content


def test_a_page_of_another_origin_can_neither_ask_nor_read(page_of_run: str) -> None:
    question = b'{"text": "the cat"}'
    json_type = {"Content_Type": "application/json"}
    assert ask(page_of_run, "POST", "/api/look", question, Origin="http://evil.example", **json_type)[0] == 403
    assert ask(page_of_run, "POST", "/api/look", question, Origin="null", **json_type)[0] == 403
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        assert ask(page_of_run, "POST", "/api/look", question, Content_Type=kind)[0] == 415
    status, headers, _ = ask(
        page_of_run, "OPTIONS", "/api/look", Origin="http://evil.example", Access_Control_Request_Method="POST"
    )
    assert status == 403
    for path in ("/", "/api/about", "/look.js"):
        assert not any(name.startswith("access-control") for name in ask(page_of_run, "GET", path)[1])
    own = page_of_run.rstrip("/")
    assert ask(page_of_run, "POST", "/api/look", question, Origin=own, **json_type)[0] == 200
    assert ask(page_of_run, "GET", "/api/look")[0] == 405
    assert headers["cross-origin-resource-policy"] == "same-origin"


def test_a_question_too_long_for_any_model_is_refused_unread(page_of_run: str) -> None:
    status, found = look(page_of_run, text="a" * (1 << 20))
    assert status == 413
    assert "shorten it" in found["error"]


def test_the_page_allows_nothing_from_elsewhere_and_names_nothing_there(page_of_run: str) -> None:
    for path in ("/", "/look.js", "/look.css"):
        status, headers, content = ask(page_of_run, "GET", path)
        assert status == 200
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
        assert b"://" not in content
        assert b"innerHTML" not in content
    for path in ("/docs", "/openapi.json", "/redoc", "/../look.js", "/page/look.js", "/favicon.ico"):
        assert ask(page_of_run, "GET", path)[0] == 404


def test_two_that_ask_at_once_get_each_their_own_answer(page_of_run: str, hard: Inside) -> None:
    texts = ["the cat sat", "a dog ran under the roof", "the man slept", "mouse"] * 5
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda text: look(page_of_run, text=text, masked=[1], key=2)[1], texts))
    for text, one in zip(texts, found, strict=True):
        assert [token["score"] for token in one["tokens"]] == [token.score for token in hard.look(text, [1], 2).tokens]


def test_what_is_looked_into_is_described(hard: Inside) -> None:
    with serving(hard) as url:
        about = json.loads(ask(url, "GET", "/api/about")[2])
    assert about["name"] == "runs/test"
    assert about["step"] == 40
    assert "hp_loss" in about["draws"]
    assert (about["generates"], about["detects"], about["longest"], about["mask_share"]) == (True, True, 12, 0.25)
