"""Documents in another language are recognized."""

from __future__ import annotations

import sys

import pytest

from data_pipeline.clean.language import HEAD_CHARACTERS, language_test
from data_pipeline.errors import UserError

ENGLISH = "The children went down to the river in the morning and came back with more fish than they could carry. "
GERMAN = "Die Kinder gingen am Morgen zum Fluss hinunter und kamen mit mehr Fischen zurück, als sie tragen konnten. "


def test_the_start_of_a_text_decides() -> None:
    english, german = language_test("en"), language_test("de")
    assert english(ENGLISH)
    assert not german(ENGLISH)
    assert german(GERMAN)
    assert not english(GERMAN)
    assert english(ENGLISH * (HEAD_CHARACTERS // len(ENGLISH) + 1) + GERMAN * 1000)


def test_an_unknown_code_is_refused_with_codes_that_exist() -> None:
    with pytest.raises(UserError, match=r"clean.language is 'eng': it must be an ISO 639-1 code .* such as .*en"):
        language_test("eng")


def test_a_missing_package_is_named_with_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "py3langid", None)
    with pytest.raises(UserError, match=r"pip install 'electra-scale\[language\]'"):
        language_test("en")
