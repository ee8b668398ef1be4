"""Picture files decoded without trusting them: upright, eight bits, grey or colour.

Pillow refuses to decode what would need far more memory than its file; what it only warns of is
refused here too.
"""

from __future__ import annotations

import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnconv.schemas.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

    from nnconv.schemas.types import Array

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm")
MODES = {1: "L", 3: "RGB"}
_OPENING = threading.Lock()


def decode(path: Path, channels: int) -> Image:
    """The picture in a file, upright, grey or RGB as `channels` asks; raises InputError for
    anything else.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        # filters of warnings belong to the process: two threads at once would undo each other's
        with _OPENING, warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            opened = Image.open(path)
        with opened as file:
            return _eight_bits(ImageOps.exif_transpose(file)).convert(MODES[channels])
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: the picture is too large ({error})") from None
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except UnidentifiedImageError:
        hint = "PNG, JPEG, BMP, GIF, WebP, TIFF and PNM are; arrays are given as .npy or .npz"
        raise InputError(f"{path}: this is not a picture nnconv can read", hint=hint) from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise InputError(f"{path}: the picture cannot be decoded ({error})") from None


def pixels(image: Image, channels: int, height: int, width: int) -> Array:
    """A decoded picture, resized (bilinear) where needed, as uint8 [channels, height, width]."""
    from PIL.Image import Resampling

    if (image.height, image.width) != (height, width):
        image = image.resize((width, height), Resampling.BILINEAR)
    return np.asarray(image).reshape(height, width, channels).transpose(2, 0, 1)


def _eight_bits(image: Image) -> Image:
    """16-bit grey made 8-bit: Pillow's own conversion clips instead of scaling."""
    from PIL import Image as images

    if not image.mode.startswith("I"):
        return image
    deep = np.asarray(image).astype(np.uint32)
    return images.fromarray((deep // 257).clip(0, 255).astype(np.uint8))
