"""Reads the files of data sets, images and CIFAR-10's batches, and trusts none of them."""

import hashlib
import os
import pickle
import unicodedata
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

LAYOUT = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"}
LAYOUT |= {"test": "test", "testing": "test"}
# Formats that Pillow does not read everywhere, or (cameras' raw files) of which it reads a thumbnail.
FOREIGN = {".heic", ".heif", ".avif", ".webp", ".jxl", ".svg", ".arw", ".cr2", ".cr3", ".dng", ".nef", ".raf", ".raw"}


class DataError(Exception):
    """The data cannot be had; the message says why and what to do."""


def read_image(path: str | Path) -> Tensor:
    """One image file as [3, H, W] uint8: turned as its EXIF data say, alpha over white, 16 bits as 8, the first frame.

    Floats are taken from 0 to 1, to 255 or to 65535, whichever is the first that none of the image's values exceeds;
    32-bit integers to 255 or to 65535.

    Raises:
        DataError: there is no such file, or it is damaged, too large, or of a format that Pillow does not read.
    """
    path = Path(path).expanduser()
    try:
        if not path.exists() and not path.is_symlink():
            raise DataError(f"There is no file {path.absolute()}.")
        if not path.is_file() or path.suffix.lower() in FOREIGN - Image.registered_extensions().keys():
            raise ValueError("Pillow does not read this format" if path.is_file() else "it is not a file")
        formats = [name for name in Image.OPEN if name != "EPS"]  # a program, which Ghostscript would run
        with Image.open(path, formats=formats) as opened:
            image = ImageOps.exif_transpose(opened)
        if image.mode[0] in "IF":  # 16 or 32 bits per pixel
            values = np.asarray(image, dtype=np.float32)
            tops = {"F": (1, 255), "I": (255,)}.get(image.mode, ())
            top = next((top for top in tops if values.max() <= top), 65535)
            if not 0 <= values.min() <= values.max() <= top:
                raise ValueError("its values are not within 16 bits")
            image = Image.fromarray((values * (255 / top)).round().astype(np.uint8))
        return rgb_pixels(image)
    except DataError:
        raise
    except Exception as error:  # Pillow's plug-ins raise whatever a damaged file leads them to
        reason = str(error).partition(" '")[0].rstrip(".") or type(error).__name__
        raise DataError(
            f"{path} cannot be read as an image ({reason}). Save it as PNG or JPEG, or remove it."
        ) from None


def rgb_pixels(image: Image.Image) -> Tensor:
    """A PIL image with 8 bits per channel as [3, H, W] uint8, alpha over white."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def square(image: Tensor, size: int) -> Tensor:
    """Crops an image [3, H, W] uint8 to its central square and resizes that, antialiased, to [3, size, size]."""
    height, width = image.shape[1:]
    side, top, left = min(height, width), max(height - width, 0) // 2, max(width - height, 0) // 2
    crop = image[:, top : top + side, left : left + side].permute(1, 2, 0)
    resized = Image.fromarray(crop.contiguous().numpy()).resize((size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous()


def find_images(root: Path) -> tuple[dict[tuple[str, str], list[Path]], list[Path]]:
    """The image files in class folders, or in train/, val/ and test/ with the same class folders in each.

    Returns:
        (part, class) -> its files, in the order of names, part being "train", "val" or "test", and what was left out:
        hidden entries, and files that are no images.

    Raises:
        DataError: names the folder that is missing, empty or out of place.
    """
    if not root.is_dir():
        raise DataError(
            f"There is no folder {root}. Give the path of a folder with one sub-folder of images per class."
        )
    parts, left_out = {"train": root}, []
    images_of: dict[tuple[str, str], list[Path]] = {}
    folders = [entry for entry in root.glob("[!.]*") if entry.is_dir() and not _is_hidden(entry.name)]
    if folders and all(folder.name.lower() in LAYOUT for folder in folders):
        parts = {LAYOUT[folder.name.lower()]: folder for folder in folders}
        left_out = [entry for entry in root.glob("*") if entry not in folders]
        if "train" not in parts or len(parts) < len(folders):
            raise DataError(f"{root} must have one folder train/ and at most one val/ and one test/.")
    known = FOREIGN | Image.registered_extensions().keys()
    for part, folder in sorted(parts.items()):
        for entry in sorted([*folder.glob("*"), *folder.glob("*/*")], key=lambda entry: entry.parts):
            nested, hidden = entry.parent != folder, any(map(_is_hidden, entry.relative_to(folder).parts))
            if nested and entry.is_dir() and not hidden:
                others = ", ".join(f.name for f in folders if f.name.lower() not in LAYOUT)
                if others and any(f.name.lower() in LAYOUT for f in folders):
                    raise DataError(f"Beside train/, val/ and test/ there may be no other folder in {root}: {others}.")
                if folder == root and len(folders) == 1 and not images_of[part, _nfc(entry.parent.name)]:
                    raise DataError(f"{root} holds a single folder, with folders in it. Give {folders[0]} instead.")
                message = f"{entry} is a folder within a class. Move its images up, or move it away."
                if folder == root:
                    also = "call it and those beside it train/, val/, test/."
                    message += f" If {entry.parent} holds a folder per class, {also}"
                raise DataError(message)
            if entry.is_dir() and not hidden:
                images_of.setdefault((part, _nfc(entry.name)), [])
            elif nested and not hidden and entry.suffix.lower() in known:
                images_of[part, _nfc(entry.parent.name)].append(entry)
            else:
                left_out.append(entry)
    for (part, name), files in images_of.items():
        for other in parts:
            if not files or (other, name) not in images_of:
                raise DataError(
                    f"{parts[part if not files else other] / name} has no images. Each class needs some in each part."
                )
    return images_of, left_out


def _nfc(name: str) -> str:
    """The name with each accent in its letter: a Mac may write the two apart, and the same class in another way."""
    return unicodedata.normalize("NFC", name)


def _is_hidden(name: str) -> bool:
    return name[0] == "." or name == "__MACOSX"  # which macOS puts into archives


def read_checked(path: Path, md5: str) -> bytes:
    """A file's content, read once and checked: the bytes that are parsed must be the bytes that were checked.

    Raises:
        DataError: the file is missing, damaged or unreadable.
    """
    try:  # O_NONBLOCK: opening a named pipe does not wait
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
            content = file.read(50_000_000) or b""
        if hashlib.md5(content, usedforsecurity=False).hexdigest() == md5:
            return content
        what = "is damaged"
    except OSError as error:
        what = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
    cure = f"Delete the folder {path.parent} and run this again to download it anew, or set CIFAR10_DIR to another one."
    raise DataError(f"{path} {what}. {cure}")


class ArrayUnpickler(pickle.Unpickler):
    """Knows what NumPy arrays need and nothing else, so that no file can name code to run."""

    def find_class(self, module: str, name: str):
        known = {"_reconstruct": np.empty(0).__reduce__()[0], "ndarray": np.ndarray, "dtype": np.dtype}
        if module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray") and name in known:
            return known[name]
        raise pickle.UnpicklingError(f"it names {module}.{name}")
