import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from stableavatar.errors import BadInput
from stableavatar.limits import Limits
from stableavatar.video.portrait import check_portrait, choose_size, load_portrait

RED, GREEN = (255, 0, 0), (0, 255, 0)


def left_red_right_green(width: int = 80, height: int = 40) -> Image.Image:
    image = Image.new("RGB", (width, height), RED)
    image.paste(GREEN, (width // 2, 0, width, height))
    return image


def test_the_crop_is_centred_and_not_squeezed(tmp_path: Path) -> None:
    image = Image.new("RGB", (300, 100), RED)
    image.paste(GREEN, (100, 0, 200, 100))
    image.save(tmp_path / "wide.png")
    picture_HWC = load_portrait(str(tmp_path / "wide.png"), 64, 64)
    assert picture_HWC.shape == (64, 64, 3) and picture_HWC.dtype == np.uint8
    assert np.abs(picture_HWC[:, 1:-1].astype(int) - GREEN).max() <= 1  # the middle square; its edges blend


def test_a_wide_video_keeps_the_head_of_a_tall_portrait(tmp_path: Path) -> None:
    image = Image.new("RGB", (100, 300), RED)
    image.paste(GREEN, (0, 40, 100, 140))
    image.save(tmp_path / "tall.png")
    picture_HWC = load_portrait(str(tmp_path / "tall.png"), 64, 64)
    assert np.abs(picture_HWC[1:-1].astype(int) - GREEN).max() <= 1  # a fifth of what is lost is lost above


@pytest.mark.parametrize(("width", "height"), [(96, 160), (160, 96), (128, 128)])
def test_a_circle_stays_round(tmp_path: Path, width: int, height: int) -> None:
    y, x = np.mgrid[:301, :401]
    disc = ((x - 200) ** 2 + (y - 150) ** 2 < 60**2).astype(np.uint8) * 255
    Image.fromarray(disc).save(tmp_path / "disc.png")
    picture_HW = load_portrait(str(tmp_path / "disc.png"), width, height)[..., 0] > 127
    assert abs(int(picture_HW.any(0).sum()) - int(picture_HW.any(1).sum())) <= 1
    assert picture_HW[:, width // 2].any()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    upright = left_red_right_green()
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "turned.png", exif=exif)
    path = str(tmp_path / "turned.png")
    assert check_portrait(path) == (80, 40)
    picture_HWC = load_portrait(path, 80, 40)
    assert tuple(picture_HWC[20, 5]) == RED and tuple(picture_HWC[20, 75]) == GREEN


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_becomes_white(tmp_path: Path, mode: str) -> None:
    Image.new("RGBA", (64, 64), (0, 0, 0, 0)).convert(mode).save(tmp_path / "clear.png", transparency=None)
    if mode == "P":
        Image.new("P", (64, 64), 0).save(tmp_path / "clear.png", transparency=0)
    assert (load_portrait(str(tmp_path / "clear.png"), 32, 32) == 255).all()


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.full((32, 32), 0x8000, np.uint16)).save(tmp_path / "grey.png")
    assert (load_portrait(str(tmp_path / "grey.png"), 32, 32) == 0x80).all()


def test_cmyk_is_read(tmp_path: Path) -> None:
    Image.new("CMYK", (32, 32), (0, 255, 255, 0)).save(tmp_path / "print.jpg")
    assert np.abs(load_portrait(str(tmp_path / "print.jpg"), 32, 32).astype(int) - RED).max() < 6


def test_a_colour_profile_is_converted_and_a_broken_one_ignored(tmp_path: Path) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name, profile in (("srgb.png", srgb), ("broken.png", b"no profile")):
        Image.new("RGB", (32, 32), (200, 120, 90)).save(tmp_path / name, icc_profile=profile)
        assert np.abs(load_portrait(str(tmp_path / name), 32, 32).astype(int) - (200, 120, 90)).max() <= 1


def test_of_an_animation_the_first_frame_counts(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in (RED, GREEN)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert check_portrait(str(tmp_path / "moving.gif")) == (32, 32)
    assert (load_portrait(str(tmp_path / "moving.gif"), 16, 16) == RED).all()


@pytest.mark.parametrize(
    ("portrait_size", "expected"),
    [((512, 512), (512, 512)), ((800, 1000), (512, 512)), ((1080, 1920), (480, 832)), ((1921, 1080), (832, 480))],
)
def test_the_size_of_the_nearest_shape_is_chosen(portrait_size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert choose_size(portrait_size, ((512, 512), (480, 832), (832, 480))) == expected


def bad_files() -> dict[str, bytes]:
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(whole, "PNG")
    dot = io.BytesIO()
    Image.new("RGB", (1, 1)).save(dot, "PNG")
    return {
        "empty.png": b"",
        "text.png": b"hello\n" * 100,
        "broken.png": whole.getvalue()[:6000],
        "header.png": whole.getvalue()[:20],
        "program.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n",
        "dot.png": dot.getvalue(),
    }


@pytest.mark.parametrize("name", bad_files())
def test_what_is_no_portrait_is_refused_with_file_and_remedy(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(bad_files()[name])
    with pytest.raises(BadInput, match=rf"{name} .* Give "):
        check_portrait(str(tmp_path / name))
    with pytest.raises(BadInput, match=name):
        load_portrait(str(tmp_path / name), 32, 32)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"nobody\.png: no such file"):
        check_portrait(str(tmp_path / "nobody.png"))


def test_a_picture_past_the_limit_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    limits = Limits(max_portrait_pixels=1000)
    left_red_right_green().save(tmp_path / "huge.png")
    with pytest.raises(BadInput, match=r"huge\.png is too large: 80x40 pixels"):
        check_portrait(str(tmp_path / "huge.png"), limits)


def test_a_portrait_whose_exif_data_are_damaged_is_still_read(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a picture"
    left_red_right_green().save(tmp_path / "turned.jpg", exif=exif)
    data = bytearray((tmp_path / "turned.jpg").read_bytes())
    place = data.index(b"Exif\0\0") + 6 + 8 + 2  # the first entry: now its text is a fraction
    data[place + 2 : place + 4] = (5).to_bytes(2, "big" if data[place - 10 : place - 8] == b"MM" else "little")
    (tmp_path / "turned.jpg").write_bytes(data)
    assert check_portrait(str(tmp_path / "turned.jpg")) == (40, 80)
    assert load_portrait(str(tmp_path / "turned.jpg"), 40, 80).shape == (80, 40, 3)


def test_a_picture_that_its_decoder_gives_up_on_is_the_fault_of_the_file(tmp_path: Path) -> None:
    left_red_right_green(640, 480).save(tmp_path / "face.avif")
    data = (tmp_path / "face.avif").read_bytes()
    (tmp_path / "face.avif").write_bytes(data[:-100] + bytes(100))
    with pytest.raises(BadInput, match=r"face\.avif is not a picture that can be read"):
        check_portrait(str(tmp_path / "face.avif"))


def test_of_an_animation_of_hundreds_of_frames_one_is_decoded(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (32, 32), (number % 256, 0, number // 256)) for number in range(1000)]
    frames[0].save(tmp_path / "many.webp", save_all=True, append_images=frames[1:])
    with Image.open(tmp_path / "many.webp") as image:
        assert getattr(image, "n_frames", 1) > 100
    assert check_portrait(str(tmp_path / "many.webp")) == (32, 32)


MEASURE = """
import resource, sys
from stableavatar.video.portrait import load_portrait
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
load_portrait(sys.argv[1], 512, 512)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_the_largest_picture_needs_the_memory_of_one_decoded_picture(tmp_path: Path) -> None:
    Image.new("RGB", (10_000, 8_000), RED).save(tmp_path / "large.png", compress_level=1)
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "large.png")]
    kib = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert kib < 450_000
