"""Images of one's own: every kind of file, every layout of folders, and what is refused in one sentence."""

import io
import os
import random
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL
import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from cifar_utils import data, files
from cifar_utils import settings as workshop_settings
from cifar_utils.data import DataError, from_folder, read_image, split, square

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)  # height 20, width 30


def write(path: Path, size: int = 20, color=None, **options) -> Path:
    """An image of random pixels, or of one color."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = RNG.integers(0, 256, (size, size, 3), dtype=np.uint8)
    (Image.fromarray(pixels) if color is None else Image.new("RGB", (size, size), color)).save(path, **options)
    return path


def tree(root: Path, parts: dict[str, dict[str, int]]) -> Path:
    """Folders with so many images of each class: {"": {"cat": 3}} or {"train": {"cat": 3}, ...}."""
    for part, classes in parts.items():
        for name, count in classes.items():
            (root / part / name).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                write(root / part / name / f"{i}.png")
    return root


def values(path: Path) -> np.ndarray:
    """read_image as [H, W, 3]."""
    image = read_image(path)
    assert image.dtype == torch.uint8 and image.shape[0] == 3
    return image.permute(1, 2, 0).numpy()


# One image


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "ppm", "webp", "tga", "pcx", "jp2", "PNG", "gif", "jpg"])
def test_every_format_gives_the_pixels(suffix, tmp_path):
    path = tmp_path / f"photo.{suffix}"
    lossless = suffix.lower() not in ("jpg", "gif")
    options = {"webp": {"lossless": True}, "jp2": {"irreversible": False}, "jpg": {"quality": 100, "subsampling": 0}}
    Image.fromarray(PHOTO).save(path, **options.get(suffix, {}))
    difference = np.abs(values(path).astype(int) - PHOTO)
    assert difference.max() == 0 if lossless else difference.mean() < 40


def save_mode(mode: str, path: Path) -> Path:
    Image.fromarray(PHOTO).convert(mode).save(path)
    return path


def test_a_program_is_no_image(tmp_path, monkeypatch):
    """PostScript is a program, whatever the file is called: reading it would mean running it."""
    from PIL import EpsImagePlugin

    ran = []
    monkeypatch.setattr(
        EpsImagePlugin, "Ghostscript", lambda *_, **__: ran.append(True) or Image.new("RGB", (20, 20)).im
    )
    (tmp_path / "cat.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n")
    with Image.open(tmp_path / "cat.jpg") as image:  # the check can fail: Pillow takes it for an image
        image.load()
    assert ran
    ran.clear()
    with pytest.raises(DataError, match="cat.jpg cannot be read as an image"):
        data.read_image(tmp_path / "cat.jpg")
    assert not ran


def test_gray_and_black_and_white(tmp_path):
    for mode in ("L", "1"):
        gray = np.asarray(Image.fromarray(PHOTO).convert(mode).convert("L"))
        assert np.array_equal(values(save_mode(mode, tmp_path / f"{mode}.png")), np.repeat(gray[..., None], 3, 2))


def test_sixteen_bits_are_scaled_and_not_cut_off(tmp_path):
    deep = np.linspace(0, 65535, 600).astype(np.uint16).reshape(20, 30)
    expected = np.repeat((deep / 257).round().astype(np.uint8)[..., None], 3, 2)
    for name in ("a.png", "a.tiff", "a.pgm"):
        Image.fromarray(deep).save(tmp_path / name)
        assert np.array_equal(values(tmp_path / name), expected)
    Image.fromarray(deep.astype(np.int32)).save(tmp_path / "int32.tiff")
    assert np.array_equal(values(tmp_path / "int32.tiff"), expected)
    Image.fromarray((deep // 257).astype(np.int32)).save(tmp_path / "of_8_bits.tiff")
    assert np.array_equal(values(tmp_path / "of_8_bits.tiff")[..., 0], deep // 257)


def test_floats_are_taken_from_0_to_1_to_255_or_to_65535(tmp_path):
    unit = np.linspace(0, 1, 600, dtype=np.float32).reshape(20, 30)
    for i, (scaled, top) in enumerate([(unit, 1), (unit * 255, 255), (unit * 65535, 65535)]):
        Image.fromarray(scaled).save(tmp_path / f"{i}.tiff")
        assert np.array_equal(values(tmp_path / f"{i}.tiff")[..., 1], (scaled * (255 / top)).round().astype(np.uint8))
    for i, wrong in enumerate((unit - 0.5, unit * 1e6, unit * np.nan)):
        Image.fromarray(wrong).save(tmp_path / f"wrong{i}.tiff")
        with pytest.raises(DataError, match="values are not within 16 bits"):
            read_image(tmp_path / f"wrong{i}.tiff")


def test_sixteen_bits_per_color(tmp_path):
    """A PNG with 16 bits per channel, which Pillow reads and cannot write."""
    deep = (PHOTO.astype(np.uint16) * 257).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in deep)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 30, 20, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    content = b"\x89PNG\r\n\x1a\n"
    for name, body in chunks:
        content += struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    (tmp_path / "deep.png").write_bytes(content)
    assert np.array_equal(values(tmp_path / "deep.png"), PHOTO)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_laid_over_white(mode, tmp_path):
    image = Image.fromarray(PHOTO).convert(mode)
    alpha = np.tile(np.linspace(0, 255, 30).astype(np.uint8), (20, 1))
    image.putalpha(Image.fromarray(alpha))
    image.save(tmp_path / "alpha.png")
    color = np.asarray(image.convert("RGBA")).astype(float)[..., :3]
    share = alpha[..., None] / 255
    assert np.abs(values(tmp_path / "alpha.png") - (color * share + 255 * (1 - share))).max() <= 1
    assert (values(tmp_path / "alpha.png")[:, 0] == 255).all()


def test_palettes_with_and_without_transparency(tmp_path):
    palette = Image.fromarray(PHOTO).convert("P", palette=Image.Palette.ADAPTIVE, colors=16)
    colors = np.asarray(palette.convert("RGB"))
    palette.save(tmp_path / "opaque.png")
    assert np.array_equal(values(tmp_path / "opaque.png"), colors)
    palette.save(tmp_path / "clear.png", transparency=3)
    palette.save(tmp_path / "clear.gif", transparency=3)
    clear = np.asarray(palette)[..., None] == 3
    assert clear.any() and not clear.all()
    for name in ("clear.png", "clear.gif"):
        assert np.array_equal(values(tmp_path / name), np.where(clear, 255, colors))
    gray = Image.fromarray(PHOTO).convert("L")
    gray.save(tmp_path / "gray.png", transparency=int(np.asarray(gray)[0, 0]))
    assert (values(tmp_path / "gray.png")[0, 0] == 255).all()
    Image.fromarray(PHOTO).save(tmp_path / "rgb.png", transparency=tuple(PHOTO[0, 0].tolist()))
    assert (values(tmp_path / "rgb.png")[0, 0] == 255).all() and (values(tmp_path / "rgb.png")[1:] == PHOTO[1:]).all()


@pytest.mark.parametrize("suffix", ["jpg", "tiff"])
def test_cmyk(suffix, tmp_path):
    Image.new("RGB", (30, 20), (200, 30, 60)).convert("CMYK").save(tmp_path / f"print.{suffix}")
    assert np.abs(values(tmp_path / f"print.{suffix}").astype(int) - [200, 30, 60]).max() <= 4


def test_other_color_spaces(tmp_path):
    plain = Image.new("RGB", (30, 20), (204, 51, 102))
    for mode in ("YCbCr", "PA", "RGBX"):
        plain.convert(mode).save(tmp_path / f"{mode}.tiff")
        try:
            assert np.abs(values(tmp_path / f"{mode}.tiff").astype(int) - [204, 51, 102]).max() <= 4
        except DataError as error:  # before version 13, Pillow cannot read its own files of this mode
            assert mode == "YCbCr" and int(PIL.__version__.split(".")[0]) < 13, error
            assert "YCbCr.tiff cannot be read as an image" in str(error)
    Image.new("LAB", (30, 20), (128, 128, 128)).save(tmp_path / "lab.tiff")
    try:
        assert np.abs(values(tmp_path / "lab.tiff").astype(int) - 119).max() <= 1
    except DataError as error:  # older versions of Pillow
        assert "conversion from LAB to RGB not supported" in str(error)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff", "webp"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_the_turn_in_the_exif_data_is_made(turn, suffix, tmp_path):
    """A photo whose left upper corner is red when it is seen upright."""
    upright = np.full((20, 30, 3), 255, dtype=np.uint8)
    upright[:8, :8] = (255, 0, 0)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[turn]
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / f"photo.{suffix}", exif=exif, quality=95)
    assert np.abs(values(tmp_path / f"photo.{suffix}").astype(int) - upright).mean() < 10


def test_the_first_frame_of_several(tmp_path):
    frames = [Image.new("RGB", (20, 20), color) for color in ("red", "blue")]
    for suffix in ("gif", "webp", "tiff", "png"):
        options = {"lossless": True} if suffix == "webp" else {}
        frames[0].save(tmp_path / f"film.{suffix}", save_all=True, append_images=frames[1:], **options)
        assert (values(tmp_path / f"film.{suffix}") == [255, 0, 0]).all()


def check_message(error, *parts: str):
    message = str(error.value)
    assert "\n" not in message and message.endswith(".") and "Traceback" not in message
    for part in parts:
        assert part in message, message


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp", "tiff", "bmp"])
@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.9])
def test_a_truncated_file_is_named(suffix, kept, tmp_path):
    path = write(tmp_path / f"cut.{suffix}", size=64)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if kept < 1 else kept])
    with pytest.raises(DataError) as error:
        read_image(str(path))
    check_message(error, f"{path} cannot be read as an image (", "Save it as PNG or JPEG, or remove it.")


@settings(max_examples=200)
@given(seed=st.integers(0, 2**32), suffix=st.sampled_from(["jpg", "png", "gif", "webp", "tiff", "bmp"]))
def test_noise_in_a_file_gives_an_image_or_a_sentence(seed, suffix, tmp_path_factory):
    dice, buffer = random.Random(seed), io.BytesIO()
    Image.fromarray(PHOTO).save(buffer, {"jpg": "jpeg"}.get(suffix, suffix))
    content = bytearray(buffer.getvalue())
    for _ in range(dice.randint(1, 20)):
        content[dice.randrange(len(content))] = dice.randrange(256)
    path = tmp_path_factory.getbasetemp() / f"noise.{suffix}"
    path.write_bytes(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert read_image(path).dtype == torch.uint8
    except DataError as error:
        assert str(path) in str(error) and "\n" not in str(error)


def test_what_is_no_image_is_named(tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (tmp_path / "folder.png").mkdir()
    for name, said in [
        ("text.jpg", "cannot identify image file"),
        ("phone.heic", "Pillow does not read this format"),
        ("folder.png", "it is not a file"),
        ("missing.png", "There is no file"),
    ]:
        with pytest.raises(DataError) as error:
            read_image(tmp_path / name)
        check_message(error, str(tmp_path / name), said)


def test_the_thumbnail_in_a_raw_file_is_not_taken_for_the_photo(tmp_path):
    write(tmp_path / "thumbnail.tiff").rename(tmp_path / "camera.dng")
    with pytest.raises(DataError, match="Pillow does not read this format"):
        read_image(tmp_path / "camera.dng")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no named pipes in folders")
def test_a_named_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match="it is not a file"):
        read_image(tmp_path / "pipe.png")


def test_a_decompression_bomb_is_refused(tmp_path):
    """A file of a few kilobytes that claims 400 million pixels."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(10**6)))]
    content = b"\x89PNG\r\n\x1a\n"
    for name, body in chunks:
        content += struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    (tmp_path / "bomb.png").write_bytes(content)
    with pytest.raises(DataError, match=r"bomb\.png.*400000000 pixels"):
        read_image(tmp_path / "bomb.png")


# A square of it


def test_square_crops_the_center_and_keeps_what_has_the_right_size():
    wide = torch.from_numpy(PHOTO).permute(2, 0, 1)
    assert torch.equal(square(wide, 20), wide[:, :, 5:25])
    tall = wide.transpose(1, 2)
    assert torch.equal(square(tall, 20), tall[:, 5:25])
    assert square(wide, 20).is_contiguous()


@given(height=st.integers(1, 90), width=st.integers(1, 90), size=st.integers(16, 64), level=st.integers(0, 255))
def test_square_has_the_size_and_keeps_a_plain_color(height, width, size, level):
    result = square(torch.full((3, height, width), level, dtype=torch.uint8), size)
    assert result.shape == (3, size, size) and result.dtype == torch.uint8 and (result == level).all()


def test_square_is_antialiased():
    """A fine checkerboard becomes gray; without antialiasing it would stay black and white."""
    board = (torch.arange(256)[:, None] + torch.arange(256)).remainder(2).mul(255).to(torch.uint8).expand(3, -1, -1)
    assert (square(board, 32).int() - 128).abs().max() < 8
    assert board[0, ::8, ::8].unique().tolist() == [0]


# Folders


def test_a_folder_of_classes(tmp_path, capsys):
    root = tree(tmp_path / "pets", {"": {"dog": 3, "cat": 2, "Zebra": 4, "b ä": 2}})
    d = from_folder(str(root), size=24)
    assert d.classes == ("Zebra", "b ä", "cat", "dog") and d.size == 24 and str(d) == "pets: 11 training images"
    assert d.labels.tolist() == [0] * 4 + [1] * 2 + [2] * 2 + [3] * 3 and d.held_out is None
    assert d.index.tolist() == list(range(11)) and d.images.is_contiguous()
    expected = [
        square(read_image(root / name / f"{i}.png"), 24)
        for name, count in [("Zebra", 4), ("b ä", 2), ("cat", 2), ("dog", 3)]
        for i in range(count)
    ]
    assert torch.equal(d.images, torch.stack(expected))
    assert capsys.readouterr().out == ""
    training, validation = split(d, 0.3)
    assert str(training) == "pets: 7 training images" and str(validation) == "pets: 4 validation images"


def test_two_readings_are_equal(tmp_path):
    root = tree(tmp_path / "pets", {"": {"dog": 5, "cat": 5}})
    assert from_folder(root).fingerprint() == from_folder(root).fingerprint()


def test_the_folder_may_be_the_working_directory_or_at_home(tmp_path, monkeypatch):
    root = tree(tmp_path / "pets", {"": {"dog": 2, "cat": 2}})
    monkeypatch.chdir(root)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert {from_folder(path).source for path in (".", "~/pets", "../pets", root)} == {"pets"}


@pytest.mark.parametrize("name", ["SAMPLE", "CIFAR-10"])
def test_a_folder_is_never_taken_for_cifar10(name, tmp_path):
    d = from_folder(tree(tmp_path / name, {"": {"dog": 2, "cat": 2}}))
    assert not d.is_sample and d.source == f"folder {name}"


@pytest.mark.parametrize(
    "names", [("train", "val", "test"), ("train", "valid"), ("Train", "Validation", "Test"), ("train",)]
)
def test_a_layout_with_parts_is_respected(names, tmp_path):
    counts = dict(zip(names, ({"dog": 3, "cat": 2}, {"dog": 1, "cat": 2}, {"dog": 2, "cat": 1})))
    root = tree(tmp_path / "pets", counts)
    d = from_folder(root)
    assert d.classes == ("cat", "dog") and d.split == "training" and d.source == "pets"
    if len(names) == 1:
        assert d.labels.tolist() == [0, 0, 1, 1, 1] and d.held_out is None
    else:
        assert d.labels.tolist() == [0, 0, 1, 1, 1, 0, 0, 1] and d.held_out.tolist() == [False] * 5 + [True] * 3
        training, validation = split(d)
        assert training.labels.tolist() == [0, 0, 1, 1, 1] and validation.labels.tolist() == [0, 0, 1]
        first = square(read_image(root / names[1] / "cat" / "0.png"), 32)
        assert torch.equal(validation.images[0], first)
    if len(names) == 3:
        test = from_folder(root, train=False)
        assert (str(test), test.labels.tolist()) == ("pets: 3 test images", [0, 1, 1]) and test.held_out is None
        assert test.index.tolist() == [0, 1, 2]
    else:
        with pytest.raises(DataError, match="has no folder test/"):
            from_folder(root, train=False)


def test_a_name_may_be_spelled_as_a_mac_does(tmp_path):
    """An accent is a part of its letter, or a character of its own; disks keep either, and both look alike."""
    root = tree(tmp_path / "buildings", {"train": {"\u00e9cole": 3, "bar": 3}, "test": {"e\u0301cole": 1, "bar": 1}})
    assert from_folder(root).classes == ("bar", "\u00e9cole")
    assert from_folder(root, train=False).labels.tolist() == [0, 1]
    tree(root, {"train": {"e\u0301cole": 2}})  # beside the other: one class, on a disk that keeps the two apart
    assert from_folder(root).labels.tolist() == [0] * 3 + [1] * len(list(root.glob("train/*cole/*")))


def test_train_and_test_may_be_classes_among_others(tmp_path):
    d = from_folder(tree(tmp_path / "vehicles", {"": {"train": 2, "bus": 2, "test": 2}}))
    assert d.classes == ("bus", "test", "train")
    with pytest.raises(DataError, match="has no folder test/"):
        from_folder(tmp_path / "vehicles", train=False)


def test_what_is_left_out_is_counted_and_named(tmp_path, capsys):
    root = tree(tmp_path / "pets", {"": {"dog": 2, "cat": 2}})
    for name in ("README.txt", ".DS_Store", "cat/notes.md", "dog/.hidden.png", "loose.png", "dog/Thumbs.db"):
        (root / name).write_text("x")
    write(root / ".trash" / "old.png")
    assert len(from_folder(root)) == 4
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 and "pets: 8 " in lines[0]
    for name in ("README.txt", ".DS_Store", "notes.md", ".hidden.png", "loose.png", "Thumbs.db", ".trash"):
        assert name in lines[0]
    layout = tree(tmp_path / "parts", {"train": {"dog": 2, "cat": 2}, "test": {"dog": 1, "cat": 1}})
    (layout / "labels.csv").touch()
    (layout / "train" / "list.txt").touch()
    (layout / "test" / "cat" / "note").touch()
    assert len(from_folder(layout)) == 4
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 and "parts: 3 " in lines[0] and "labels.csv" in lines[0] and "note" in lines[0]
    for i in range(20):
        (root / f"{i}.txt").touch()
    from_folder(root)
    assert "pets: 28 " in (line := capsys.readouterr().out) and line.count("\n") == 1 and line.endswith(", ...\n")


def misuse(root: Path, case: str) -> str:
    """Makes a folder that must be refused, and returns what the message must say."""
    tree(root, {"": {"cat": 2, "dog": 2}})
    if case == "missing":
        root.rename(root.with_name("elsewhere"))
        return f"There is no folder {root}"
    if case == "a file":
        root.rename(root.with_name("elsewhere"))
        root.touch()
        return f"There is no folder {root}"
    if case == "no classes":
        root.rename(root.with_name("elsewhere"))
        root.mkdir()
        return f"{root}: there must be 2 to 1,000 classes, not 0; each is a sub-folder with images."
    if case == "one class":
        (root / "dog").rename(root.with_name("elsewhere"))
        return f"{root}: there must be 2 to 1,000 classes, not 1"
    if case == "too many classes":
        tree(root, {"": {f"class {i}": 0 for i in range(1000)}})
        for i in range(1000):
            (root / f"class {i}" / "a.png").touch()
        return f"{root}: there must be 2 to 1,000 classes, not 1,002"
    if case == "empty class":
        (root / "owl").mkdir()
        return f"{root / 'owl'} has no images"
    if case == "class of other files":
        (root / "owl").mkdir()
        (root / "owl" / "notes.txt").touch()
        return f"{root / 'owl'} has no images"
    if case == "case":
        tree(root, {"": {"Cat": 1}})
        return "the classes 'Cat' and 'cat' are the same but for upper and lower case"
    if case == "folder in a class":
        (root / "cat" / "more").mkdir()
        return f"{root / 'cat' / 'more'} is a folder within a class"
    if case == "one folder too many":
        for folder in list(root.iterdir()):
            (root / "photos" / folder.name).mkdir(parents=True)
            folder.rename(root / "photos" / folder.name)
        return f"{root} holds a single folder, with folders in it. Give {root / 'photos'} instead."
    if case == "folder named as an image":
        (root / "cat" / "more.png").mkdir()
        return f"{root / 'cat' / 'more.png'} is a folder within a class"
    if case == "parts beside classes":
        tree(root, {"train": {"cat": 1, "dog": 1}})
        return f"Beside train/, val/ and test/ there may be no other folder in {root}: "
    if case == "broken":
        (root / "dog" / "0.png").write_bytes((root / "dog" / "0.png").read_bytes()[:-300])
        return f"{root / 'dog' / '0.png'} cannot be read as an image"
    if case == "empty file":
        (root / "dog" / "7.jpg").touch()
        return f"{root / 'dog' / '7.jpg'} cannot be read as an image"
    if case == "heic":
        (root / "dog" / "7.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
        return f"{root / 'dog' / '7.HEIC'} cannot be read as an image (Pillow does not read this format)"
    if case == "broken link":
        (root / "dog" / "7.jpg").symlink_to(root / "nowhere.jpg")
        return f"{root / 'dog' / '7.jpg'} cannot be read as an image (it is not a file)"
    if case == "unprintable":
        (root / "dog").rename(root / "do\ng")
        return f"{root}: the class 'do\\ng' has no name that can be printed; rename it"
    raise AssertionError(case)


CASES = ["missing", "a file", "no classes", "one class", "too many classes", "empty class", "class of other files"]
CASES += ["case", "folder in a class", "one folder too many", "folder named as an image", "parts beside classes"]
CASES += ["broken", "empty file"]
CASES += ["heic", "broken link", "unprintable"]


@pytest.mark.parametrize("case", CASES)
def test_a_folder_is_refused_in_one_sentence_that_names_the_fault(case, tmp_path):
    if os.name == "nt" and case in ("case", "broken link", "unprintable"):
        pytest.skip("Windows has no such names")
    root = tmp_path / "pets"
    said = misuse(root, case)
    with pytest.raises(DataError) as error:
        from_folder(root)
    check_message(error, said)


@pytest.mark.parametrize(
    "parts, said",
    [
        ({"test": {"cat": 1, "dog": 1}, "val": {"cat": 1, "dog": 1}}, "must have one folder train/"),
        (
            {"train": {"cat": 1, "dog": 1}, "val": {"cat": 1, "dog": 1}, "valid": {"cat": 1, "dog": 1}},
            "at most one val/",
        ),
        ({"train": {"cat": 1, "dog": 1}, "val": {"cat": 1}}, "val/dog has no images"),
        ({"train": {"cat": 1, "dog": 1}, "val": {"cat": 1, "dog": 0}}, "val/dog has no images"),
        ({"train": {"cat": 1, "dog": 1}, "test": {"cat": 1, "dog": 1, "owl": 1}}, "train/owl has no images"),
        ({"train": {"cat": 1, "dog": 1}, "test": {"Cat": 1, "dog": 1}}, "has no images"),
        ({"train": {"cat": 0, "dog": 1}, "test": {"cat": 1, "dog": 1}}, "train/cat has no images"),
        ({"train": {"cat": 1}, "test": {"cat": 1}}, "2 to 1,000 classes, not 1"),
        ({"train": {}, "test": {}}, "2 to 1,000 classes, not 0"),
    ],
)
@pytest.mark.parametrize("train", [True, False])
def test_parts_that_do_not_fit_together_are_refused(parts, said, train, tmp_path):
    root = tree(tmp_path / "pets", parts)
    for part in parts:
        (root / part).mkdir(parents=True, exist_ok=True)
    with pytest.raises(DataError) as error:
        from_folder(root, train=train)
    check_message(error, said.replace("/", os.sep) if "has no" in said else said, str(root))


def test_images_directly_in_train_and_test_are_no_two_classes(tmp_path):
    for name in ("train", "test"):
        write(tmp_path / "pets" / name / "0.png")
    with pytest.raises(DataError, match="2 to 1,000 classes, not 0"):
        from_folder(tmp_path / "pets")


def test_more_images_than_memory_are_refused_before_one_is_read(tmp_path, monkeypatch):
    root = tree(tmp_path / "pets", {"": {"dog": 30, "cat": 30}})
    free = 2 * 60 * 3 * 256 * 256  # read once, and copied by split
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free))
    assert len(from_folder(root, size=256)) == 60
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free - 1))
    monkeypatch.setattr(data, "read_image", None)
    with pytest.raises(DataError) as error:
        from_folder(root, size=256)
    check_message(error, str(root), "60 images of 256 x 256 pixels", "GB of memory")


@pytest.mark.parametrize("limit,free", [("3000000", 1_500_000), ("max", 5_000_000), (None, 5_000_000)])
def test_free_memory_is_what_a_container_leaves(tmp_path, monkeypatch, limit, free):
    """Files that the system keeps in memory count as free: it gives them back."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=5_000_000))
    monkeypatch.setattr(workshop_settings, "CONTAINER", tmp_path)
    if limit:
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "memory.current").write_text("2000000\n")
        (tmp_path / "memory.stat").write_text("anon 1500000\ninactive_file 500000\n")
    assert workshop_settings.free_memory() == free


@pytest.mark.skipif(not hasattr(psutil, "RLIMIT_DATA"), reason="only Linux limits a process's data")
def test_free_memory_is_what_a_rooms_server_leaves():
    """deploy/ starts each notebook by prlimit --data."""
    limited = "import resource; resource.setrlimit(resource.RLIMIT_DATA, (10**9, 10**9))"
    code = f"from cifar_utils import settings; {limited}; print(settings.free_memory())"
    free = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert 10**8 < free < 10**9


@pytest.mark.parametrize(
    ("quota", "threads", "cores"),
    [("max 100000", None, 8), ("200000 100000", None, 2), ("50000 100000", None, 1), (None, "3", 3), ("x", "many", 8)],
)
def test_cores_are_those_that_a_container_or_a_shared_server_leaves(tmp_path, monkeypatch, quota, threads, cores):
    monkeypatch.setattr(workshop_settings, "CONTAINER", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if quota:
        (tmp_path / "cpu.max").write_text(f"{quota}\n")
    if threads:
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
    assert workshop_settings.cores() == cores


@pytest.mark.parametrize("size", [15, 257, 0, -1, 32.0, "32", None, 10**12])
def test_a_size_out_of_range_is_refused(size, tmp_path):
    with pytest.raises(ValueError, match="size must be a whole number of pixels from 16 to 256"):
        from_folder(tree(tmp_path / "pets", {"": {"dog": 1, "cat": 1}}), size=size)


def test_class_folders_may_be_links(tmp_path):
    root = tree(tmp_path / "pets", {"": {"dog": 2}})
    tree(tmp_path / "elsewhere", {"": {"cats": 2}})
    (root / "cat").symlink_to(tmp_path / "elsewhere" / "cats", target_is_directory=True)
    assert from_folder(root).classes == ("cat", "dog")


def test_a_long_reading_shows_a_bar(tmp_path, monkeypatch, capsys):
    root = tree(tmp_path / "pets", {"": {"dog": 3, "cat": 3}})
    bars, really = [], data.bar
    monkeypatch.setattr(data, "bar", lambda *a, **k: bars.append(really(*a, **k | {"delay": 0})) or bars[-1])
    from_folder(root)
    assert bars[0].n == bars[0].total == 6 and "Reading pets" in capsys.readouterr().out


def test_truncated_images_are_refused_by_default():
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    assert files.FOREIGN.isdisjoint({".png", ".jpg", ".gif", ".bmp", ".tiff"})
