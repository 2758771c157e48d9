import pytest

from manifests.build import Portrait, Voice, build_rows, cast, fill, to_bytes
from manifests.read import parse_manifest
from manifests.schema import ManifestError

ANNA = Portrait(name="anna", reference="p/anna.png", cells={"prompt": "A woman."})
BEN = Portrait(name="ben", reference="p/ben.png")
DE = Voice(name="de", reference="v/de.wav", words=("de",), language="de")
FR = Voice(name="fr", reference="v/fr.wav", words=("fr",), language="fr", cells={"prompt": "Une femme.", "seed": 3})


def voice(path: str) -> Voice:
    words = tuple(path.split("/"))
    return Voice(name=words[-1], reference=path, words=words)


def test_everyone_speaks_with_every_voice() -> None:
    found = cast([ANNA, BEN], [DE, FR])
    assert found.pairs == [(ANNA, DE), (ANNA, FR), (BEN, DE), (BEN, FR)]
    assert (found.is_by_name, found.left_out) == (False, [])


def test_voices_that_are_named_like_portraits_are_their_own() -> None:
    voices = [voice(path) for path in ("anna/de", "de/ben", "carl/de", "jingle", "anna/takes/fr")]
    found = cast([ANNA, BEN, Portrait(name="dora", reference="p/dora.png")], voices)
    assert [(p.name, v.reference) for p, v in found.pairs] == [
        ("anna", "anna/de"),
        ("anna", "jingle"),
        ("anna", "anna/takes/fr"),
        ("ben", "de/ben"),
        ("ben", "jingle"),
        ("dora", "jingle"),
    ]
    assert (found.is_by_name, found.left_out) == (True, ["carl/de"])
    assert cast([ANNA, BEN], [voice("anna/de")]).left_out == ["p/ben.png"]


def test_a_file_that_begins_like_a_portrait_is_that_portraits_voice() -> None:
    portraits = [ANNA, BEN, Portrait(name="anna-b", reference="p/anna-b.png")]
    found = cast(portraits, [voice(name) for name in ("anna_de", "anna-b_de", "ben.de", "annabel_de")])
    assert [(p.name, v.reference) for p, v in found.pairs if v.reference != "annabel_de"] == [
        ("anna", "anna_de"),
        ("ben", "ben.de"),
        ("anna-b", "anna-b_de"),
    ]


def test_the_voice_says_more_than_the_portrait_and_that_more_than_what_all_have() -> None:
    common = {"prompt": "Someone.", "num_steps": 9, "language": "en"}
    rows = build_rows(cast([ANNA, BEN], [DE, FR]).pairs, common=common)
    assert [row["prompt"] for row in rows] == ["A woman.", "Une femme.", "Someone.", "Une femme."]
    assert [row["id"] for row in rows] == ["anna-de", "anna-fr", "ben-de", "ben-fr"]
    assert {row["language"] for row in rows} == {"en"}
    assert rows[1]["seed"] == 3
    assert [row["language"] for row in build_rows([(ANNA, DE), (ANNA, FR)])] == ["de", "fr"]


def test_patterns_name_ids_and_videos() -> None:
    rows = build_rows([(ANNA, DE), (ANNA, FR)], id="{number:03}-{portrait}", video_name="{language}/{portrait}")
    assert [row["id"] for row in rows] == ["001-anna", "002-anna"]
    assert [row["video_name"] for row in rows] == ["de/anna", "fr/anna"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{portrait}-{langage}", r"no \{langage\} .* there is: language, number, portrait, prompt, voice"),
        ("{portrait.name}", r"no \{portrait\.name\}"),
        ("{portrait", "is no pattern"),
        ("{}", r"no \{\}"),
        ("{portrait:d}", "is no pattern"),
        ("{language}", r"language of portrait anna and voice x is not known; .*de\.wav"),
        ("{prompt}", r"prompt of portrait anna and voice x is empty"),
    ],
)
def test_a_pattern_that_cannot_be_filled_says_why(pattern: str, message: str) -> None:
    fields = {"portrait": "anna", "voice": "x", "number": 1, "prompt": ""}
    with pytest.raises(ManifestError, match=rf"--id .*{message}"):
        fill("--id", pattern, {**fields, "language": "de"} if "langage" in pattern else fields)


def test_ids_that_are_not_unique_are_refused_with_the_remedy() -> None:
    with pytest.raises(
        ManifestError, match=r"2 rows the id 'anna' \(p/anna.png with v/de.wav, .*--id '\{portrait\}-\{language\}'"
    ):
        build_rows([(ANNA, DE), (ANNA, FR)], id="{portrait}")


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_every_kind_of_file_is_read_as_the_same_rows(suffix: str) -> None:
    own = Voice(
        name="de",
        reference="v/d, e.wav",
        cells={"subtitles": {"en": "a.srt"}, "team": 7, "num_steps": 4, "loudness": -16.0},
    )
    rows = build_rows([(ANNA, own), (BEN, FR)])
    read = list(parse_manifest(to_bytes(rows, suffix), f"/x/a{suffix}"))
    assert [row["error"] for row in read] == ["", ""]
    assert [(row["portrait"], row["audio"]) for row in read] == [
        ("p/anna.png", "v/d, e.wav"),
        ("p/ben.png", "v/fr.wav"),
    ]
    assert (read[0]["subtitles"], read[0]["num_steps"], read[0]["loudness"]) == ('{"en": "a.srt"}', 4, -16.0)
    assert (read[1]["subtitles"], read[1]["seed"], read[1]["language"]) == (None, 3, "fr")
    assert str(read[0]["carried"]["team"]) == "7"
