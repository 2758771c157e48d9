"""Language tags: every way of writing one gives the code that media files carry."""

import pytest

from stableavatar.languages import to_iso639_2


@pytest.mark.parametrize("tag", ["de", "deu", "ger", "DE", "de-AT", "de_CH", " de "])
def test_every_way_of_writing_a_language_gives_one_code(tag: str) -> None:
    assert to_iso639_2(tag) == "deu"


@pytest.mark.parametrize(
    ("tag", "code"),
    [("pt-BR", "por"), ("zh-Hans", "zho"), ("chi", "zho"), ("en", "eng"), ("yue", "yue"), ("fil", "fil")],
)
def test_regions_and_scripts_are_left_out(tag: str, code: str) -> None:
    assert to_iso639_2(tag) == code


@pytest.mark.parametrize("tag", ["", "xx", "german", "und", "12", "-de"])
def test_what_is_no_language_is_refused_with_the_way_out(tag: str) -> None:
    with pytest.raises(ValueError, match="ISO 639"):
        to_iso639_2(tag)
