"""Many small images as one JPEG, from which a page cuts the one it shows."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

# JPEG codes blocks of 8×8 pixels, each by itself, so tiles of whole blocks do not touch each other.
# With colours at half resolution they would: decoders smooth those across blocks.
BLOCK, FULL_COLOUR = 8, 0

# (quality, whether neighbours are halved), tried in turn until both sheets fit.
STEPS = (
    (92, False),
    (85, False),
    (75, False),
    (85, True),
    (75, True),
    (60, True),
    (45, True),
    (30, True),
)


@dataclass(frozen=True)
class Sheet:
    """Images of height × width pixels in tiles of `tile` pixels a side, `columns` tiles a row."""

    jpeg: bytes
    columns: int
    tile: int
    height: int
    width: int

    @property
    def address(self) -> str:
        """The sheet as a `data:` address."""
        return "data:image/jpeg;base64," + base64.b64encode(self.jpeg).decode()


def sheet(images: np.ndarray, quality: int) -> Sheet:
    """Return images, uint8 N×channels×height×width, as a nearly square sheet.

    Image i lies at row i // columns, column i % columns. What is left of a tile repeats the image's
    edge, which costs few bytes.
    """
    count, channels, height, width = images.shape
    tile = -(-max(height, width) // BLOCK) * BLOCK
    columns = int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    padding = ((0, rows * columns - count), (0, 0), (0, tile - height), (0, tile - width))
    tiles = np.pad(images, padding, "edge").reshape(rows, columns, channels, tile, tile)
    pixels = tiles.transpose(0, 3, 1, 4, 2).reshape(rows * tile, columns * tile, channels)
    file = io.BytesIO()
    picture = Image.fromarray(pixels.squeeze(2) if channels == 1 else pixels)
    picture.save(file, "JPEG", quality=quality, subsampling=FULL_COLOUR)
    return Sheet(file.getvalue(), columns, tile, height, width)


def halved(images: np.ndarray) -> np.ndarray:
    """Return images of half the height and width, each pixel the mean of four."""
    odd = [(0, side % 2) for side in images.shape[2:]]
    even = np.pad(images, [(0, 0), (0, 0), *odd], "edge").astype(np.uint16)
    pairs = even[:, :, ::2] + even[:, :, 1::2]
    return ((pairs[..., ::2] + pairs[..., 1::2] + 2) // 4).astype(np.uint8)


def fitting(
    images: np.ndarray, neighbours: np.ndarray | None, most: int
) -> tuple[Sheet, Sheet | None]:
    """Return the best sheets of images and neighbours that take at most so many bytes together.

    Quality falls step by step, and neighbours, which are shown small, are halved before the images
    suffer. Raises `ValueError` where even the last step is too large.
    """
    for quality, small in STEPS:
        sheets = [sheet(images, quality)]
        if neighbours is not None:
            sheets.append(sheet(halved(neighbours) if small else neighbours, quality))
        taken = sum(len(s.jpeg) for s in sheets)
        if taken <= most:
            return sheets[0], sheets[1] if len(sheets) > 1 else None
    told = "" if neighbours is None else f" and {len(neighbours):,} neighbours"
    raise ValueError(
        f"{len(images):,} images{told} take {taken:,} bytes at the lowest quality, and there is "
        f"room for {max(most, 0):,}; show fewer, or raise max_bytes"
    )
