import re

import pytest

from manifests.identity import MAX_SAFE_ID, content_id, default_id, file_stem, is_invisible, video_stem
from manifests.read import parse_manifest

CONTENT = content_id({"seed": 1})
HOSTILE = ["../x", "/etc/passwd", "..", ".", "", " ", "a b", "a\tb\n", "\x00", "日本語", "naïve", "-rf", ".hidden"]
HOSTILE += ["x" * 5000, "con", "a/b\\c:d*e?f", "%2e%2e%2f", "\ud800", "🙂", "$(rm -rf)", "a..b", "x" * 79 + "-."]


def test_content_id_is_32_hex_characters() -> None:
    assert re.fullmatch("[0-9a-f]{32}", CONTENT)


def test_content_id_does_not_depend_on_the_order_of_keys() -> None:
    one = {"seed": 1, "size": [96, 160], "scales": {"text": 3.0, "audio": 5.0}}
    other = {"scales": {"audio": 5.0, "text": 3.0}, "size": [96, 160], "seed": 1}
    assert content_id(one) == content_id(other)


def test_content_id_depends_on_every_value_and_name() -> None:
    parts: list[dict[str, object]] = [
        {"a": 1},
        {"a": 2},
        {"b": 1},
        {"a": "1"},
        {"a": None},
        {},
        {"a": [1]},
        {"a": 1, "b": 2},
    ]
    assert len({content_id(p) for p in parts}) == len(parts)


def test_content_id_is_the_same_tomorrow() -> None:
    assert content_id({"prompt": "ñ", "seed": 42}) == "5cc5d479ea84e4c782f88736756fe9b3"


def test_content_id_refuses_what_has_no_canonical_form() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        content_id({"a": float("nan")})
    with pytest.raises(TypeError):
        content_id({"a": object()})


def test_default_ids_come_from_the_words_and_not_the_position() -> None:
    first = b'{"portrait": "faces/anna.png", "audio": "s3://b/hello.flac"}'
    second = b'{"audio": "s3://b/hello.flac", "seed": 7, "portrait": "faces/anna.png"}'
    forward = [default_id(row) for row in parse_manifest(first + b"\n" + second, "m.jsonl")]
    backward = [default_id(row) for row in parse_manifest(second + b"\n\n" + first, "other.jsonl")]
    assert forward == backward[::-1]
    assert len(set(forward)) == 2
    assert all(re.fullmatch("anna_hello_[0-9a-f]{8}", id) for id in forward)


def test_default_id_is_the_same_in_every_format() -> None:
    json_row = next(parse_manifest(b'{"portrait": "a.png", "audio": "b.wav", "seed": 7.0, "prompt": null}', "m.jsonl"))
    csv_row = next(parse_manifest(b"audio,portrait,seed,campaign\nb.wav,a.png,7,en\n", "m.csv"))
    assert default_id(json_row) == default_id(csv_row)


def test_default_id_of_a_row_that_says_nothing() -> None:
    assert default_id({}).startswith("unknown_unknown_")


@pytest.mark.parametrize("id", HOSTILE, ids=ascii)
def test_file_stem_is_one_harmless_short_file_name(id: str) -> None:
    stem = file_stem(id, CONTENT)
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", stem)
    assert stem.endswith(f"-{CONTENT[:16]}")
    assert len(stem) <= MAX_SAFE_ID + 1 + 6 + 1 + 16


def test_file_stem_keeps_a_harmless_id_readable() -> None:
    assert file_stem("anna_hello-2.take", CONTENT) == f"anna_hello-2.take-{CONTENT[:16]}"
    assert file_stem("Zoë spricht", CONTENT).startswith("Zoe-spricht-")


def test_file_stems_are_unique() -> None:
    ids = [*HOSTILE, "x", "a-b", "a b", "a/b", "x" * 5001, "x" * 80, "日本", "video"]
    assert len({file_stem(id, CONTENT) for id in set(ids)}) == len(set(ids))
    assert len({file_stem("same", content_id({"seed": seed})) for seed in range(1000)}) == 1000


def test_when_a_row_is_made_is_not_part_of_its_id() -> None:
    row = {"portrait": "a.png", "audio": "b.wav"}
    assert default_id({**row, "priority": 5}) == default_id(row)


def test_what_signs_an_address_is_no_part_of_a_name() -> None:
    signed = "https://host/faces/anna.png?X-Amz-Credential=a/b.c&X-Amz-Signature=5ec2e7"
    assert default_id({"portrait": signed, "audio": "what?.wav"}).startswith("anna_what?_")


@pytest.mark.parametrize("name", ["=cmd", "-rf", "@x", " +1", "\uff1dx", "\u202ex", "\u200b"])
def test_a_default_id_never_begins_as_a_formula_nor_hides_signs(name: str) -> None:
    id = default_id({"portrait": f"faces/{name}.png", "audio": f"{name}.wav"})
    assert re.match(r"(cmd|rf|x|1|unknown)_", id)
    assert not any(map(is_invisible, id))


def test_a_video_name_makes_folders_and_never_leaves_them() -> None:
    assert video_stem("de/anna", CONTENT) == f"de/anna-{CONTENT[:16]}"
    assert video_stem("anna", CONTENT) == file_stem("anna", CONTENT)
    assert video_stem("/São Paulo//anna", CONTENT).startswith("Sao-Paulo-")
    for name in ("../../x", "/etc/x", "a/../x", "./x", "a\\..\\x", "/", " / ", "..", "a/" * 127):
        parts = video_stem(name, CONTENT).split("/")
        assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", part) for part in parts), name
        assert parts[-1].endswith(CONTENT[:16])


def test_different_folders_never_share_a_name() -> None:
    names = ["ä/x", "a/x", "ö/x", "../x", "./x", "x"]
    assert len({video_stem(name, CONTENT) for name in names}) == len(names)
