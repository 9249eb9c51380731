"""Random crop and mirror for a whole batch at once, on uint8 images that stay on the training device.

Images are padded once; a crop is then a window into the padded image, taken for the batch in one indexing of a strided
view (no copy of the view exists). Measured on two cores, 128 images of 32 x 32: 0.12 ms for crops, 0.3 ms with mirrors,
0.06 ms for `to_input`; a Python loop of slices took 0.35 to 0.6 ms, indexing by rows and columns 0.6 ms.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch

from gtl.data.images import ImageSet
from gtl.errors import DataError

# One normalisation for all sources, so that a gene meets the same numbers wherever it goes.
MEAN, STD = 0.5, 0.25

Fill = Literal["reflect", "zero"]


class Crops(NamedTuple):
    """What was drawn for a batch: window offsets int64 ``(B,)`` from the top and the left, mirrored bool ``(B,)``."""

    top: torch.Tensor
    left: torch.Tensor
    mirrored: torch.Tensor


class Augmenter:
    """Batches of randomly cropped (and mirrored) images of one set.

    Args:
        images: the set; its device is the batches' device.
        pad: pixels added on each side before cropping to the original size; 0 turns cropping off.
        mirror: mirror half of the images; None asks the set, in which characters must not be mirrored.
        fill: what is added: the reflected image, or zero (black).

    Raises:
        DataError: a negative pad, or one that the image is too small to reflect.
    """

    def __init__(self, images: ImageSet, pad: int = 4, mirror: bool | None = None, fill: Fill = "reflect") -> None:
        size = images.image_size
        if pad < 0 or (fill == "reflect" and pad >= size):
            raise DataError(f"{images.source}: pad is {pad}, it must lie in 0..{size - 1} for images of {size} pixels")
        self._take(pad_images(images.images, pad, fill), pad, images.mirror if mirror is None else mirror)

    @classmethod
    def of_padded(cls, padded: torch.Tensor, pad: int, mirror: bool) -> Augmenter:
        """Of images that were padded before: uint8 ``(N, S + 2 pad, S + 2 pad, 3)``, contiguous; they are not copied."""
        augmenter = cls.__new__(cls)
        augmenter._take(padded, pad, mirror)
        return augmenter

    def _take(self, padded: torch.Tensor, pad: int, mirror: bool) -> None:
        self.pad, self.mirror, self.padded = pad, mirror, padded
        self.size = size = padded.shape[1] - 2 * pad
        image_stride, row_stride, column_stride, _ = self.padded.stride()
        # _windows[n, y, x] is the crop of image n at (y, x); a row of a crop is contiguous, so its columns and colours
        # are one axis, which makes copying faster.
        self._windows = self.padded.as_strided(
            (len(self.padded), 2 * pad + 1, 2 * pad + 1, size, 3 * size),
            (image_stride, row_stride, column_stride, row_stride, 1),
        )

    @property
    def images(self) -> torch.Tensor:
        """The images without what was added: a view, uint8 ``(N, S, S, 3)``."""
        return self.padded[:, self.pad : self.pad + self.size, self.pad : self.pad + self.size]

    def to(self, device: torch.device) -> Augmenter:
        """The same set on a device; itself, where it lies there already."""
        if self.padded.device == device:
            return self
        return Augmenter.of_padded(self.padded.to(device), self.pad, self.mirror)

    def batch(self, rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Augmented copies of some images.

        Args:
            rows: int64 ``(B,)``, positions in the set.
            generator: source of all randomness; it may live on the CPU while the images do not.

        Returns:
            uint8 ``(B, S, S, 3)``, contiguous.
        """
        return self.apply(rows, self.draw(len(rows), generator))

    def draw(self, count: int, generator: torch.Generator) -> Crops:
        """Independent offsets and mirrors for `count` images, on the images' device."""
        device = generator.device
        offsets = torch.randint(0, 2 * self.pad + 1, (2, count), generator=generator, device=device)
        # Drawn in any case: whether a source is mirrored then does not change what is drawn afterwards.
        mirrored = torch.rand(count, generator=generator, device=device) < 0.5
        target = self.padded.device
        offsets, mirrored = offsets.to(target, non_blocking=True), mirrored.to(target, non_blocking=True)
        return Crops(offsets[0], offsets[1], mirrored & self.mirror)

    def apply(self, rows: torch.Tensor, crops: Crops) -> torch.Tensor:
        """The crops of these images; uint8 ``(B, S, S, 3)``."""
        rows = rows.to(self.padded.device, non_blocking=True)
        batch = self._windows[rows, crops.top, crops.left].view(len(rows), self.size, self.size, 3)
        if not self.mirror:
            return batch
        if batch.device.type == "cpu":
            chosen = crops.mirrored.nonzero()[:, 0]
            return batch.index_copy_(0, chosen, batch.index_select(0, chosen).flip(2))
        # all of them: shapes that hang on data would make a GPU wait
        return torch.where(crops.mirrored[:, None, None, None], batch.flip(2), batch)


def pad_images(images: torch.Tensor, pad: int, fill: Fill = "reflect") -> torch.Tensor:
    """uint8 ``(N, H, W, 3)`` padded on all four sides: ``(N, H + 2 pad, W + 2 pad, 3)``, contiguous."""
    if pad == 0:
        return images.contiguous()
    count, height, width, channels = images.shape
    out = images.new_zeros((count, height + 2 * pad, width + 2 * pad, channels))
    out[:, pad:-pad, pad:-pad] = images
    if fill == "reflect":  # by hand: torch reflects floating-point images only, which would take four times the memory
        out[:, pad:-pad, :pad] = images[:, :, 1 : pad + 1].flip(2)
        out[:, pad:-pad, -pad:] = images[:, :, -pad - 1 : -1].flip(2)
        out[:, :pad] = out[:, pad + 1 : 2 * pad + 1].flip(1)
        out[:, -pad:] = out[:, -2 * pad - 1 : -pad - 1].flip(1)
    return out


def to_input(batch: torch.Tensor, memory_format: torch.memory_format = torch.channels_last) -> torch.Tensor:
    """uint8 ``(B, H, W, 3)`` as network input: ``(x / 255 - 0.5) / 0.25``, float32 ``(B, 3, H, W)`` in a memory format."""
    # Permuted contiguous (B, H, W, 3) is already channels last; one conversion and two passes in place.
    floats = batch.permute(0, 3, 1, 2).to(torch.float32, memory_format=memory_format)
    return floats.mul_(1 / (255 * STD)).sub_(MEAN / STD)
