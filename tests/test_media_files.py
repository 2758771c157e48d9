import os
from pathlib import Path

import pytest

from manifests.read import resolve
from pipelines import storage
from pipelines.media_files import VOICES, as_named, find, language_in, subtitles_beside
from stableavatar.errors import BadInput


def test_files_are_found_in_folders_and_one_by_one(base: str) -> None:
    for name in ("anna/de.wav", "anna/fr.MP3", "anna/de.srt", ".trash/x.wav", "en.flac", "notes.txt"):
        storage.write(b"x", f"{base}/voices/{name}")
    found, around = find([f"{base}/voices", f"{base}/voices/en.flac"], VOICES, "voices")
    assert [(file.uri.removeprefix(base), file.words) for file in found] == [
        ("/voices/anna/de.wav", ("anna", "de")),
        ("/voices/anna/fr.MP3", ("anna", "fr")),
        ("/voices/en.flac", ("en",)),
    ]
    assert f"{base}/voices/anna/de.srt" in around
    assert find([f"{base}/voices/anna/de.wav"], VOICES, "voices")[1] >= {f"{base}/voices/anna/de.srt"}


def test_what_is_not_there_is_named(base: str) -> None:
    storage.write(b"x", f"{base}/voices/notes.txt")
    with pytest.raises(BadInput, match=r"voices holds no voices\. Their names end in one of \.wav"):
        find([f"{base}/voices"], VOICES, "voices")
    with pytest.raises(BadInput, match=r"missing\.wav does not exist"):
        find([f"{base}/missing.wav"], VOICES, "voices")


def test_subtitles_belong_to_the_voice_with_their_name() -> None:
    found = subtitles_beside(["/v/de.srt", "/v/de.vtt", "/v/de.en.srt", "/v/de.pt-BR.VTT", "/v/a.b.srt", "/v/de.wav"])
    assert found["/v/de"] == {"": "/v/de.srt", "en": "/v/de.en.srt", "pt-BR": "/v/de.pt-BR.VTT"}
    assert found["/v/a.b"] == {"": "/v/a.b.srt"}
    assert "/v/a" not in found


@pytest.mark.parametrize(
    ("name", "language"),
    [
        ("de", "de"),
        ("deu", "deu"),
        ("speech_de", "de"),
        ("anna-pt-BR", "pt-BR"),
        ("anna_pt_BR", "pt-BR"),
        ("anna.zh-Hant", ""),
        ("zh-Hant", "zh-Hant"),
        ("de/anna", "de"),
        ("pt-BR/takes/anna", "pt-BR"),
        ("de/anna_fr", "fr"),
        ("de/new", "de"),
        ("de/new/anna", "de"),
        ("deu/anna", "deu"),
        ("deu/new", "deu"),
        ("ben", ""),
        ("ben/de", "de"),
        ("ben_de", "de"),
        ("fr/ben", "fr"),
        ("take_new", ""),
        ("take_xx", ""),
        ("anna", ""),
    ],
)
def test_the_language_that_a_name_tells(name: str, language: str) -> None:
    assert language_in(tuple(name.split("/")), {"ben"}) == language


@pytest.mark.parametrize(
    ("uri", "manifest", "named"),
    [
        ("s3://b/voices/de.wav", "s3://b/night.jsonl", "voices/de.wav"),
        ("s3://b/voices/de.wav", "s3://b/jobs/1/night.jsonl", "../../voices/de.wav"),
        ("s3://c/voices/de.wav", "s3://b/night.jsonl", "s3://c/voices/de.wav"),
        ("gs://b/voices/de.wav", "s3://b/night.jsonl", "gs://b/voices/de.wav"),
        ("/v/de.wav", "s3://b/night.jsonl", "/v/de.wav"),
        ("/v/de.wav", "/jobs/night.jsonl", "../v/de.wav"),
    ],
)
def test_files_are_named_from_where_the_manifest_lies(uri: str, manifest: str, named: str) -> None:
    assert as_named(uri, manifest) == named
    assert os.path.normpath(resolve(named, manifest).replace("://", ":")) == uri.replace("://", ":")


def test_a_link_on_the_way_does_not_lead_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "far" / "jobs").mkdir(parents=True)
    (tmp_path / "jobs").symlink_to(tmp_path / "far" / "jobs")
    (tmp_path / "de.wav").touch()
    named = as_named(f"{tmp_path}/de.wav", f"{tmp_path}/jobs/night.jsonl")
    assert os.path.samefile(os.path.join(tmp_path, "jobs", named), tmp_path / "de.wav")
