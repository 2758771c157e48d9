import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import requests

from stableavatar.audio.separator import PARAMETERS, find_separator, load_mdx, read_separator
from stableavatar.checkpoints.layout import VOCALS
from stableavatar.errors import WeightsError
from stableavatar.presets import PublishedWeights, published_sizes, tiny
from tests.separators import band, describe, write_separator


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return Path(write_separator(tmp_path / "band.onnx", band(300, 2000)))


def test_it_is_the_folders_or_the_chosen_one() -> None:
    assert find_separator(tiny(), None) == ""
    assert find_separator(tiny(), "/a/b.onnx") == "/a/b.onnx"
    published = published_sizes(PublishedWeights(folder="/models", size="1.3B"), audio={})
    assert find_separator(published, None) == f"/models/{VOCALS}"
    assert find_separator(published, "/a/b.onnx") == "/a/b.onnx"


def test_its_id_is_its_content_and_what_is_known_of_it(path: Path, tmp_path: Path) -> None:
    id = read_separator(str(path)).id
    (tmp_path / "copy").mkdir()
    copy = Path(write_separator(tmp_path / "copy" / "other.onnx", band(300, 2000)))
    assert read_separator(str(copy)).id == id
    describe(copy, compensate=1.5)
    assert read_separator(str(copy)).id != id
    write_separator(copy, band(300, 2500))
    assert read_separator(str(copy)).id != id


def test_nothing_is_asked_of_the_network(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **words: Any) -> None:
        raise AssertionError(f"asked for {args}")

    monkeypatch.setattr(requests.Session, "request", refuse)
    load_mdx(read_separator(str(path)))


def test_the_surroundings_are_as_before(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", "/nowhere")  # no ffmpeg
    monkeypatch.setenv("AUDIO_SEPARATOR_MODEL_DIR", f"{tmp_path}/missing")
    before, files = dict(os.environ), sorted(tmp_path.iterdir())
    load_mdx(read_separator(str(path)))
    assert dict(os.environ) == before
    assert "onnx2torch" not in sys.modules
    assert sorted(tmp_path.iterdir()) == files


def error_of(path: str) -> str:
    with pytest.raises(WeightsError) as raised:
        read_separator(path)
    assert "`stableavatar download" in str(raised.value)
    return str(raised.value)


def test_no_file_and_a_missing_file_have_a_remedy(tmp_path: Path) -> None:
    assert "--separator" in error_of("")
    assert f"{tmp_path}/a.onnx, the vocal separator, is missing" in error_of(f"{tmp_path}/a.onnx")
    assert "cannot be read" in error_of(str(tmp_path))


def test_a_file_of_which_nothing_is_known(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])  # damaged: no list knows it
    assert "may be damaged" in error_of(str(path))
    path.with_name(PARAMETERS).unlink()
    assert PARAMETERS in error_of(str(path))


def test_a_list_that_says_too_little_or_nothing(path: Path) -> None:
    listed = path.with_name(PARAMETERS)
    (name,) = json.loads(listed.read_text())
    listed.write_text(json.dumps({name: {"compensate": 1.0}}))
    with pytest.raises(WeightsError, match=r"does not say mdx_dim_f_set, .*primary_stem of .*band\.onnx"):
        read_separator(str(path))
    listed.write_text("{")
    with pytest.raises(WeightsError, match="cannot be read as JSON"):
        read_separator(str(path))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"primary_stem": "Instrumental"}, "gives 'Instrumental', not 'Vocals'"),
        ({"mdx_n_fft_scale_set": 1024}, "sizes that cannot be: mdx_n_fft_scale_set 1024"),
        ({"mdx_dim_t_set": "8"}, "mdx_dim_t_set '8'. Correct it"),
        ({"mdx_dim_f_set": 1000}, r"not spectrograms \[batch, 4, 1000, 64\]"),
    ],
)
def test_another_kind_of_network(path: Path, words: dict[str, Any], message: str) -> None:
    describe(path, **words)
    with pytest.raises(WeightsError, match=message):
        read_separator(str(path))


def test_a_file_that_is_no_onnx(tmp_path: Path) -> None:
    path = tmp_path / "text.onnx"
    path.write_bytes(b"not a network")
    describe(path)
    assert "not an ONNX file" in error_of(str(path))


def test_a_network_that_cannot_run(path: Path) -> None:
    import onnx

    model = onnx.load(str(path))
    model.graph.node[0].op_type = "NoSuchOperation"
    onnx.save(model, str(path))
    describe(path)
    with pytest.raises(WeightsError, match=r"band\.onnx cannot be loaded"):
        load_mdx(read_separator(str(path)))
