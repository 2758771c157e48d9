from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stableavatar.preprocess.masks import FACE, LIPS, MaskWriter, draw_mask, png
from tests.meshes import HEIGHT, WIDTH, mesh


def read_masks(folder: Path, name: str) -> np.ndarray:
    paths = sorted((folder / name).iterdir(), key=lambda path: int(path.stem.split("_")[1]))
    assert [path.name for path in paths] == [f"frame_{number}.png" for number in range(len(paths))]
    images = [Image.open(path) for path in paths]
    assert {(image.mode, image.size) for image in images} == {("L", (WIDTH, HEIGHT))}
    return np.stack([np.asarray(image) for image in images])


def write_masks(folder: Path, shifts: list[float | None]) -> MaskWriter:
    """Frames whose first pixel says where the face is; None: there is none."""
    known = iter(shifts)

    def find(frame_HWC: np.ndarray) -> np.ndarray | None:
        shift = next(known)
        return None if shift is None else mesh(shift)

    writer = MaskWriter(str(folder), width=WIDTH, height=HEIGHT, landmarks=find)
    for _ in shifts:
        writer.see(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    writer.finish()
    return writer


@pytest.mark.parametrize(("outline", "radii"), [(FACE, (20, 15)), (LIPS, (8, 4))])
def test_a_mask_is_the_filled_outline(outline: tuple[int, ...], radii: tuple[int, int]) -> None:
    mask_HW = draw_mask(mesh(), outline, WIDTH, HEIGHT)
    assert (mask_HW.dtype, mask_HW.shape, set(np.unique(mask_HW))) == (np.uint8, (HEIGHT, WIDTH), {0, 255})
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    distance = np.hypot((x - WIDTH / 2) / radii[0], (y - HEIGHT / 2) / radii[1])
    assert (mask_HW[distance < 0.9] == 255).all()
    assert (mask_HW[distance > 1 + 1 / min(radii)] == 0).all()


def test_what_lies_off_the_frame_is_cut() -> None:
    mask_HW = draw_mask(mesh(shift=WIDTH / 2), FACE, WIDTH, HEIGHT)
    assert mask_HW[HEIGHT // 2, -1] == 255 and mask_HW[HEIGHT // 2, 0] == 0


def test_outlines_are_those_of_the_mesh() -> None:
    assert (len(set(LIPS)), len(set(FACE))) == (len(LIPS), len(FACE)) == (20, 36)


def test_outlines_follow_the_lines_of_mediapipe() -> None:
    landmarker = pytest.importorskip("mediapipe.tasks.python.vision").FaceLandmarksConnections
    for outline, lines in (
        (FACE, landmarker.FACE_LANDMARKS_FACE_OVAL),
        (LIPS, landmarker.FACE_LANDMARKS_LIPS),
    ):
        known = {frozenset((line.start, line.end)) for line in lines}
        assert {frozenset(pair) for pair in zip(outline, outline[1:] + outline[:1], strict=True)} <= known


@pytest.mark.parametrize(
    ("shifts", "shown"),
    [
        ([0, 4, 8], [0, 4, 8]),
        ([0, None, None, 8], [0, 0, 8, 8]),
        ([0, None, None, None, 8], [0, 0, 0, 8, 8]),
        ([None, None, 4, None], [4, 4, 4, 4]),
        ([None, -4, None, 8, 0, None, None], [-4, -4, -4, 8, 0, 0, 0]),
    ],
)
def test_a_frame_without_a_face_takes_the_nearest(
    shifts: list[float | None], shown: list[float], tmp_path: Path
) -> None:
    writer = write_masks(tmp_path, shifts)
    assert (writer.num_frames, writer.num_faces) == (len(shifts), sum(shift is not None for shift in shifts))
    for name, outline in (("face_masks", FACE), ("lip_masks", LIPS)):
        wanted = [draw_mask(mesh(shift), outline, WIDTH, HEIGHT) for shift in shown]
        assert (read_masks(tmp_path, name) == np.stack(wanted)).all()


def test_without_any_face_nothing_is_written(tmp_path: Path) -> None:
    assert write_masks(tmp_path, [None, None]).num_faces == 0
    assert not list(tmp_path.glob("*/*"))


def test_without_a_finder_masks_are_all_ones(tmp_path: Path) -> None:
    writer = MaskWriter(str(tmp_path), width=WIDTH, height=HEIGHT, landmarks=None)
    for _ in range(3):
        writer.see(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    writer.finish()
    for name in ("face_masks", "lip_masks"):
        assert (read_masks(tmp_path, name) == 255).all()
        assert len(read_masks(tmp_path, name)) == 3


def test_a_png_is_without_loss() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    assert (np.asarray(Image.open(BytesIO(png(pixels)))) == pixels).all()
