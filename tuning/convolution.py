"""Convolutions of small images as matrix products, which a CPU computes several times faster.

oneDNN's direct convolutions spread their work over rows of pixels. The last stages of a ResNet
have two to four rows but hundreds of channels: at 512 channels and 2x2 pixels, batch 128, forward
and backward together took 102 ms as a convolution and 10 ms as a matrix product (bf16 with AMX,
one thread, torch 2.14). The unfolding is Chellapilla, Puri and Simard's ("High performance
convolutional neural networks for document processing", 2006).

Where an image has fewer pixels than the kernel has weights, most of an unfolded patch is padding: 5
of 9 pixels at 2x2, 8 of 9 at 1x1. There each output pixel is connected with each input pixel, as
in a fully connected layer, and nothing is multiplied by the padding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F  # noqa: N812

SMALL = 4
"""Pixels per side of the output up to which the matrix product was never slower."""


class Convolution(nn.Conv2d):
    """A square convolution without bias; a matrix product on a CPU where its output is small."""

    @classmethod
    def of(cls, other: nn.Conv2d) -> Convolution:
        """Return a convolution with the weight of another one."""
        size, stride, padding = other.kernel_size[0], other.stride[0], other.padding[0]
        with torch.device("meta"):
            made = cls(
                other.in_channels, other.out_channels, size, stride, int(padding), bias=False
            )
        made.weight = other.weight
        return made

    def forward(self, input: Tensor) -> Tensor:
        """Return `[N, O, H', W']` from `[N, C, H, W]`."""
        (size, _), (stride, _), padding = self.kernel_size, self.stride, int(self.padding[0])
        height = (input.shape[2] + 2 * padding - size) // stride + 1
        if input.device.type != "cpu" or height > SMALL:
            return super().forward(input)
        weight = self.weight
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            input, weight = input.to(dtype), weight.to(dtype)
        product = _Product if size * size <= input.shape[2] * input.shape[3] else _Connection
        output: Tensor = product.apply(input, weight, stride, padding)
        return output


class _Product(torch.autograd.Function):
    """A convolution as one matrix product, with the three products of its derivative."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        size = weight.shape[2]
        patches, height, width = _patches(_channels_last(images), size, stride, padding)
        ctx.save_for_backward(patches, weight)
        ctx.stride, ctx.padding, ctx.pixels = stride, padding, images.shape[2:]
        output = patches @ _matrix(weight).t()
        return output.view(len(images), height, width, -1).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        patches, weight = ctx.saved_tensors
        size = weight.shape[2]
        gradient = _channels_last(gradient).contiguous()
        flat = gradient.view(-1, len(weight))
        # Contiguous: a transposed first factor took oneDNN up to 1.8 times as long.
        of_weight = flat.t().contiguous() @ patches
        of_weight = of_weight.view(len(weight), size, size, -1).permute(0, 3, 1, 2)
        if not ctx.needs_input_grad[0]:
            return None, of_weight, None, None
        shares = (flat @ _matrix(weight)).view(*gradient.shape[:3], size, size, -1)
        of_images = _scatter(shares, ctx.pixels, ctx.stride, ctx.padding)
        return of_images.permute(0, 3, 1, 2), of_weight, None, None


class _Connection(torch.autograd.Function):
    """A convolution of images with fewer pixels than the kernel, as a fully connected layer."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        height, width = images.shape[2:]
        outputs = [(n + 2 * padding - weight.shape[2]) // stride + 1 for n in (height, width)]
        rows = _taps(outputs[0], height, weight.shape[2], stride, padding)
        columns = _taps(outputs[1], width, weight.shape[2], stride, padding)
        kernel = weight.permute(0, 2, 3, 1)
        count, _, _, channels = kernel.shape
        blocks = weight.new_zeros(*outputs, count, height, width, channels)
        for to_row, row, tap_row in rows:
            for to_column, column, tap_column in columns:
                blocks[to_row, to_column, :, row, column] = kernel[:, tap_row, tap_column]
        matrix = blocks.view(-1, height * width * channels)
        flat = _channels_last(images).reshape(len(images), -1)
        ctx.save_for_backward(flat, matrix)
        ctx.rows, ctx.columns, ctx.blocks, ctx.kernel = rows, columns, blocks.shape, kernel.shape
        return (flat @ matrix.t()).view(len(images), *outputs, count).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        images, matrix = ctx.saved_tensors
        flat = _channels_last(gradient).reshape(len(gradient), -1)
        blocks = (flat.t().contiguous() @ images).view(ctx.blocks)
        # Up to four products meet in one weight: added up in float32, rounded once.
        of_weight = torch.zeros(ctx.kernel, dtype=torch.promote_types(blocks.dtype, torch.float32))
        for to_row, row, tap_row in ctx.rows:
            for to_column, column, tap_column in ctx.columns:
                of_weight[:, tap_row, tap_column] += blocks[to_row, to_column, :, row, column]
        of_weight = of_weight.to(matrix.dtype).permute(0, 3, 1, 2)
        if not ctx.needs_input_grad[0]:
            return None, of_weight, None, None
        _, _, _, height, width, channels = ctx.blocks
        of_images = (flat @ matrix).view(-1, height, width, channels)
        return of_images.permute(0, 3, 1, 2), of_weight, None, None


def _taps(
    outputs: int, inputs: int, size: int, stride: int, padding: int
) -> list[tuple[int, int, int]]:
    """Return output, input and place in the kernel of all that meet along one side."""
    return [
        (output, pixel, tap)
        for output in range(outputs)
        for pixel in range(inputs)
        if 0 <= (tap := pixel + padding - stride * output) < size
    ]


def _channels_last(images: Tensor) -> Tensor:
    return images.permute(0, 2, 3, 1)


def _matrix(weight: Tensor) -> Tensor:
    """Return `[O, size * size * C]` from `[O, C, size, size]`, in the order of the patches."""
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1)


def _patches(images: Tensor, size: int, stride: int, padding: int) -> tuple[Tensor, int, int]:
    """Return what each output pixel sees, `[N * H' * W', size * size * C]`, with H' and W'."""
    images = F.pad(images, (0, 0, padding, padding, padding, padding))
    patches = images.unfold(1, size, stride).unfold(2, size, stride).movedim(3, -1)
    count, height, width = patches.shape[:3]
    return patches.reshape(count * height * width, -1), height, width


def _scatter(shares: Tensor, shape: torch.Size, stride: int, padding: int) -> Tensor:
    """Add up `[N, H', W', size, size, C]`, what each output pixel says of its patch."""
    count, height, width, size, _, channels = shares.shape
    total = shares.new_zeros(count, shape[0] + 2 * padding, shape[1] + 2 * padding, channels)
    for row in range(size):
        for column in range(size):
            rows = slice(row, row + stride * height, stride)
            columns = slice(column, column + stride * width, stride)
            total[:, rows, columns] += shares[:, :, :, row, column]
    return total[:, padding : padding + shape[0], padding : padding + shape[1]]
