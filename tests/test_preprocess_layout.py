from pathlib import Path

import pytest

from stableavatar.preprocess.layout import BUCKETS, choose_bucket, clip_folder, clip_id, clip_name, write_lists

SQUARE, WIDE, TALL = BUCKETS


@pytest.mark.parametrize(
    ("size", "name"),
    [
        *(((1080, 1080), "square"), ((640, 480), "rec"), ((1920, 1080), "rec"), ((1080, 1920), "vec")),
        *(((480, 832), "vec"), ((600, 500), "square"), ((500, 600), "square"), ((3840, 1600), "rec")),
    ],
)
def test_the_bucket_is_the_nearest_shape(size: tuple[float, float], name: str) -> None:
    assert choose_bucket(*size).name == name


def test_the_sizes_are_those_of_training() -> None:
    assert [(bucket.name, bucket.width, bucket.height) for bucket in BUCKETS] == [
        *(("square", 512, 512), ("rec", 832, 480), ("vec", 480, 832)),
    ]


def test_an_id_tells_video_and_span_apart() -> None:
    ids = [clip_id(*about) for about in (("ab", 0, 100), ("ac", 0, 100), ("ab", 1, 100), ("ab", 0, 101), ("ab", 10, 0))]
    assert len(set(ids)) == len(ids)
    assert all(len(id) == 16 for id in ids)


def test_lists_name_every_clip_from_the_root_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for category, id in (("speech", "b"), ("dancing", "a"), ("speech", ".half")):
        Path(clip_folder(str(tmp_path), WIDE, category, id)).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for root in (str(tmp_path), "."):
        write_lists(root, set())
        lines = (tmp_path / "video_rec_path.txt").read_text().splitlines()
        assert lines == ["rec/dancing/a", "rec/speech/b"]
    assert [(tmp_path / f"video_{name}_path.txt").read_text() for name in ("square", "vec")] == ["", ""]
    assert not list(tmp_path.glob("*.part"))


def test_clips_that_are_left_over_from_other_rules_are_not_listed(tmp_path: Path) -> None:
    for id in ("made", "over", "foreign"):
        folder = Path(clip_folder(str(tmp_path), TALL, "speech", id))
        folder.mkdir(parents=True)
        if id != "foreign":
            (folder / "clip.json").write_text("{}")
    write_lists(str(tmp_path), {clip_name(f"/before/it/was/moved/vec/speech/{id}") for id in ("made", "gone")})
    assert (tmp_path / "video_vec_path.txt").read_text().splitlines() == ["vec/speech/foreign", "vec/speech/made"]
