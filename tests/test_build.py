from pathlib import Path
from typing import Any

import pytest

from manifests.schema import ManifestError
from pipelines import plan, storage
from pipelines.build import build_manifest
from pipelines.cli import main
from stableavatar.errors import BadInput


def write(base: str, *names: str) -> None:
    for name in names:
        storage.write(b"x", f"{base}/{name}")


@pytest.fixture
def tree(base: str) -> str:
    """Two portraits; voices of Anna in two languages, with subtitles, and one of Ben; a prompt of Anna."""
    write(base, "portraits/anna.png", "portraits/ben.jpg", "voices/anna/de.wav", "voices/anna/de.srt")
    write(base, "voices/anna/speech_pt-BR.wav", "voices/anna/de.en.vtt", "voices/ben/fr.wav", "voices/carl/fr.wav")
    storage.write(b"A woman\ntalks.\n", f"{base}/portraits/anna.txt")
    return base


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_a_folder_tree_becomes_a_manifest(tree: str, suffix: str) -> None:
    out = f"{tree}/jobs/night.{suffix}"
    built = build_manifest(
        out,
        portraits=[f"{tree}/portraits"],
        voices=[f"{tree}/voices"],
        id="{portrait}-{language}",
        video_name="{language}/{portrait}",
        common={"seed": 7},
    )
    assert (built.num_rows, built.num_portraits, built.num_voices, built.is_by_name) == (3, 2, 3, True)
    assert built.left_out == ["../voices/carl/fr.wav"]
    rows = plan.read_manifest(out)
    assert [(row["id"], row["video_name"], row["language"], row["seed"]) for row in rows] == [
        ("anna-de", "de/anna", "de", 7),
        ("anna-pt-BR", "pt-BR/anna", "pt-BR", 7),
        ("ben-fr", "fr/ben", "fr", 7),
    ]
    assert (rows[0]["portrait"], rows[0]["audio"]) == ("../portraits/anna.png", "../voices/anna/de.wav")
    assert rows[0]["subtitles"] == '{"": "../voices/anna/de.srt", "en": "../voices/anna/de.en.vtt"}'
    assert [row["prompt"] for row in rows] == ["A woman talks."] * 2 + [None]


def test_one_presenter_in_the_languages_of_a_table(tree: str) -> None:
    table = (
        "language,audio,prompt,subtitles,studio\nde,anna/de.wav,,anna/de.srt,Ulm\nfr,s3://other/fr.wav,Une femme.,,\n"
    )
    storage.write(table.encode(), f"{tree}/voices/all.csv")
    storage.write(b"portrait,prompt,seed\nanna,Anna.,5\ndora,Dora.,6\n", f"{tree}/prompts.csv")
    built = build_manifest(
        f"{tree}/a.jsonl",
        portraits=[f"{tree}/portraits/anna.png"],
        languages=f"{tree}/voices/all.csv",
        prompts=f"{tree}/prompts.csv",
        video_name="{portrait}/{language}",
    )
    assert (built.num_rows, built.is_by_name, built.left_out) == (2, False, [f"`dora` of {tree}/prompts.csv"])
    first, second = plan.read_manifest(f"{tree}/a.jsonl")
    assert (first["audio"], first["subtitles"], first["prompt"]) == (
        "voices/anna/de.wav",
        "voices/anna/de.srt",
        "Anna.",
    )
    assert (second["audio"], second["prompt"], second["seed"]) == ("s3://other/fr.wav", "Une femme.", 5)
    assert (first["id"], second["id"]) == ("anna-de", "anna-fr")
    assert plan.unpack(first) == {"studio": "Ulm"}


def test_a_manifest_that_is_there_stays(tree: str) -> None:
    words: dict[str, Any] = {"portraits": [f"{tree}/portraits"], "voices": [f"{tree}/voices"]}
    storage.write(b"mine", f"{tree}/a.csv")
    with pytest.raises(BadInput, match=r"a\.csv is there already\. .*--force"):
        build_manifest(f"{tree}/a.csv", **words)
    assert storage.read(f"{tree}/a.csv") == b"mine"
    assert build_manifest(f"{tree}/a.csv", **words, force=True).num_rows == 3
    assert len(plan.read_manifest(f"{tree}/a.csv")) == 3


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("language,audio\nklingon,a.wav\n", "row 1 of .*klingon' is no known language"),
        ("language,audio\n,a.wav\n", "row 1 of .*`language` is missing"),
        ("audio\na.wav\n", "row 1 of .*`language` is missing"),
        ("language,audio,seed\nde,a.wav,x\n", "row 1 of .*seed is 'x'"),
        ("language,audio,portrait\nde,a.wav,x\n", "cannot give `portrait`"),
        ("language,audio,subtitles\nde,a.wav,en=\n", "row 1 of .*a file is missing"),
        ("language,audio\nde,a.wav,x\n", "row 1 of .*3 cells where the header has 2"),
        ("language,audio\nde,x/a.wav\nfr,y/a.wav\n", "2 rows the id 'anna-a'"),
    ],
)
def test_a_bad_table_writes_nothing_and_says_where(tmp_path: Path, table: str, message: str) -> None:
    write(f"{tmp_path}", "anna.png")
    (tmp_path / "all.csv").write_text(table)
    with pytest.raises(ManifestError, match=message):
        build_manifest(f"{tmp_path}/a.jsonl", portraits=[f"{tmp_path}/anna.png"], languages=f"{tmp_path}/all.csv")
    assert not (tmp_path / "a.jsonl").exists()


def test_the_command_says_what_it_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(f"{tmp_path}", "p/anna.png", "p/ben.png", "v/de.wav", "v/fr.wav")
    words = ["manifest", f"{tmp_path}/a.jsonl", "--portraits", f"{tmp_path}/p", "--voices", f"{tmp_path}/v"]
    assert main([*words, "--set", "seed=7", "--set", "separate_vocals=true"]) == 0
    assert "a.jsonl: 4 rows of 2 portraits and 2 voices, every one with every voice" in capsys.readouterr().out
    assert {(row["seed"], row["separate_vocals"]) for row in plan.read_manifest(f"{tmp_path}/a.jsonl")} == {(7, True)}
    one = [
        "manifest",
        f"{tmp_path}/b.jsonl",
        "--portraits",
        f"{tmp_path}/p/ben.png",
        "--voices",
        f"{tmp_path}/v/de.wav",
    ]
    assert main(one) == 0
    assert "b.jsonl: 1 row of 1 portrait and 1 voice, " in capsys.readouterr().out
    for wrong, message in (
        (["--set", "audio=x"], "there is no 'audio' to set"),
        (["--set", "seed=-1"], "seed is '-1'"),
        (["--id", "{langage}"], "there is no {langage}"),
        ([], "is there already"),
    ):
        assert main([*words, *wrong, *(["--force"] if wrong else [])]) == 1
        assert message in capsys.readouterr().err
    assert main(["manifest", f"{tmp_path}/a.txt", *words[2:]]) == 1
    assert "unknown kind of manifest" in capsys.readouterr().err


def test_voices_of_one_name_in_folders_of_languages_have_ids_of_their_own(tmp_path: Path) -> None:
    write(f"{tmp_path}", "p/anna.png", "p/ben.png", "v/de/anna.wav", "v/en/anna.wav", "v/en/ben.wav")
    words: dict[str, Any] = {"portraits": [f"{tmp_path}/p"], "voices": [f"{tmp_path}/v"]}
    build_manifest(f"{tmp_path}/a.jsonl", **words)
    assert [row["id"] for row in plan.read_manifest(f"{tmp_path}/a.jsonl")] == ["anna-de", "anna-en", "ben-en"]
    write(f"{tmp_path}", "v/ben_2.wav")  # of which nobody knows the language
    with pytest.raises(ManifestError, match=r"2 rows the id 'anna-anna' .*--id '\{portrait\}-\{voice\}-\{number\}'"):
        build_manifest(f"{tmp_path}/b.jsonl", **words)


def test_a_name_of_a_portrait_is_no_language(tmp_path: Path) -> None:
    write(f"{tmp_path}", "p/ben.jpg", "v/ben.flac")
    build_manifest(f"{tmp_path}/a.jsonl", portraits=[f"{tmp_path}/p"], voices=[f"{tmp_path}/v"])
    assert [row["language"] for row in plan.read_manifest(f"{tmp_path}/a.jsonl")] == [None]


def test_subtitles_that_nobody_uses_are_named(tmp_path: Path) -> None:
    write(f"{tmp_path}", "anna.png", "v/de.wav", "v/de.srt", "v/de.en.srt", "v/de.vtt", "v/fr.srt", "v/.old/x.srt")
    words: dict[str, Any] = {"portraits": [f"{tmp_path}/anna.png"], "force": True}
    built = build_manifest(f"{tmp_path}/a.jsonl", voices=[f"{tmp_path}/v"], **words)
    assert built.left_out == ["v/de.vtt", "v/fr.srt"]
    assert build_manifest(f"{tmp_path}/a.jsonl", voices=[f"{tmp_path}/v/de.wav"], **words).left_out == []
