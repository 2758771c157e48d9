from typing import Any

import pytest

from stableavatar.errors import BadInput
from stableavatar.tracks import format_tracks, language_of, moved_tracks, parse_tracks, row_tracks


def row(**words: Any) -> dict[str, Any]:
    return {"language": None, "subtitles": None, "audio_tracks": None, **words}


@pytest.mark.parametrize(
    ("text", "files"),
    [
        (None, {}),
        (" ", {}),
        ("en=a.srt, pt-BR = s3://b/c.vtt", {"en": "a.srt", "pt-BR": "s3://b/c.vtt"}),
        ("a.srt", {"": "a.srt"}),
        ("https://x/a.srt?sig=ab=", {"": "https://x/a.srt?sig=ab="}),
        ("en=https://x/a.srt?sig=ab,b/k=1.srt", {"en": "https://x/a.srt?sig=ab", "": "b/k=1.srt"}),
        ('{"en": "a,b=c.srt", "": "d.srt"}', {"en": "a,b=c.srt", "": "d.srt"}),
    ],
)
def test_files_by_language(text: str | None, files: dict[str, str]) -> None:
    assert parse_tracks("subtitles", text) == files
    assert parse_tracks("subtitles", format_tracks(files)) == files


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("en=", "a file is missing"),
        ("a.srt,,b.srt", "a file is missing"),
        ("en=a.srt,en=b.srt", "two files with `en`"),
        ("a.srt,b.srt", "two files with no language"),
        ("take=1.srt", "'take' is no known language"),
        ('{"take": "1.srt"}', "'take' is no known language"),
        ('["a.srt"]', "no object of languages"),
        ('{"en": 3}', "no object of languages"),
        ('{"en": ', "is not JSON"),
        ('{"en": "a.wav", "en": "b.wav"}', "a name is there twice"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_a_bad_cell_says_the_column_and_the_remedy(text: str, message: str) -> None:
    with pytest.raises(BadInput, match=r'^audio_tracks.*\. (Give each|Write .de=anna\.wav.*"anna\.wav")') as error:
        parse_tracks("audio_tracks", text)
    assert message in str(error.value)


def test_sounds_come_first_and_subtitles_take_the_language_of_the_row() -> None:
    found = row_tracks(row(language="de-AT", subtitles="a.srt,en=b.srt", audio_tracks="c.wav,fr=d.wav"))
    assert found == [
        ("sound", "", "c.wav"),
        ("sound", "fra", "d.wav"),
        ("subtitles", "deu", "a.srt"),
        ("subtitles", "eng", "b.srt"),
    ]


def test_an_unknown_language_of_the_row() -> None:
    assert language_of(row()) == ""
    with pytest.raises(BadInput, match=r"language: 'klingon' is no known language"):
        row_tracks(row(language="klingon"))


def test_files_get_other_names_and_what_cannot_be_read_stays() -> None:
    moved = moved_tracks(row(subtitles="en=a.srt,b.srt", audio_tracks="en="), lambda name: f"/x/{name}")
    assert moved == {"subtitles": '{"en": "/x/a.srt", "": "/x/b.srt"}', "audio_tracks": "en="}
    assert moved_tracks(row(), str.upper) == {"subtitles": None, "audio_tracks": None}
