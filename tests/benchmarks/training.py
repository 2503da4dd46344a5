"""ResNet-18 training: images per second of ours against a plain script, side by side.

The plain script is what one writes first: torchvision's FashionMNIST with per-image transforms, a
DataLoader with two workers, fp32 and Adam. Both train on the same images, ours on uint8 tensors
that stay in memory. Each measurement is repeated; the first of each is a warm-up and not counted.

    python -m tests.benchmarks.training
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import psutil
import torch
import torchvision.models
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F  # noqa: N812
from torchvision import transforms

from tuning.data import ImageData, load_dataset
from tuning.environment import cpu_name, measure_peaks
from tuning.models import count_gflops
from tuning.parameters import ResNetParameters
from tuning.resnet import ResNetTraining
from tuning.resources import Allotment
from tuning.study import Dataset


class PlainImages(torch.utils.data.Dataset):
    """Images as torchvision's FashionMNIST gives them: through PIL, one by one."""

    def __init__(self, data: ImageData, indices: np.ndarray, size: int) -> None:
        self.images, self.labels = data.images[indices], data.labels[indices]
        self.transform = transforms.Compose(
            [
                transforms.ToPILImage(),
                transforms.Grayscale(3),
                transforms.Resize(size),
                transforms.ToTensor(),
                transforms.Normalize([0.286] * 3, [0.353] * 3),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.images[index]), int(self.labels[index])


def plain_rate(data: ImageData, images: int, size: int) -> float:
    """Return images per second of the plain script at batch 16."""
    dataset = PlainImages(data, data.train[:images], size)
    loader = torch.utils.data.DataLoader(dataset, 16, shuffle=True, num_workers=2)
    network = torchvision.models.resnet18(weights=None, num_classes=10)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    network.train()
    started = time.perf_counter()
    for batch, labels in loader:
        optimizer.zero_grad()
        F.cross_entropy(network(batch), labels).backward()
        optimizer.step()
    return images / (time.perf_counter() - started)


def our_rate(data: ImageData, images: int, size: int, batch_size: int) -> float:
    """Return images per second of one epoch of ours, training alone."""
    allotment = Allotment(cpus=psutil.cpu_count() or 1, gpus=0)
    allotment.apply()
    parameters = ResNetParameters(
        image_size=size, batch_size=batch_size, optimizer="adam", lr=1e-3, epochs=2,
        train_size=images, device="cpu",
    )  # fmt: skip
    return float(ResNetTraining(parameters, data, 0, allotment).step()["images_per_second"])


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--size", type=int, default=64)
    options = parser.parse_args()
    data = load_dataset("fashion_mnist", Dataset())
    rows: dict[str, Callable[[], float]] = {
        "plain script, batch 16": lambda: plain_rate(data, options.images, options.size),
        "ours, batch 16": lambda: our_rate(data, options.images, options.size, 16),
        "ours, batch 128": lambda: our_rate(data, options.images, options.size, 128),
    }
    rates: dict[str, list[float]] = {name: [] for name in rows}
    for repeat in range(options.repeats + 1):
        for name, measure in rows.items():
            rate = measure()
            if repeat:
                rates[name].append(rate)
    base = statistics.median(rates["plain script, batch 16"])
    peak = measure_peaks()["bf16_gflops"]
    gflops = 3 * count_gflops("resnet18", "standard", 10, options.size)
    table = Table(title=f"ResNet-18, {options.size} px, Adam, {options.images} images")
    for column in ("", "images/s", "spread", "n", "ratio", "GFLOP/s", "% of bf16 peak"):
        table.add_column(column, justify="right" if column else "left")
    for name, values in rates.items():
        rate = statistics.median(values)
        table.add_row(
            name,
            f"{rate:.0f}",
            f"{min(values):.0f}-{max(values):.0f}",
            str(len(values)),
            f"{rate / base:.2f}",
            f"{rate * gflops:.0f}",
            f"{100 * rate * gflops / peak:.0f}",
        )
    console = Console(width=110)
    console.print(f"{cpu_name()}, {psutil.cpu_count()} CPUs, torch {torch.__version__}")
    console.print(table)


if __name__ == "__main__":
    main()
