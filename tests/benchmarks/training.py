"""ResNet-18 training: images per second of ours against a plain script, side by side.

The plain script is what one writes first: torchvision's FashionMNIST with per-image transforms, a
DataLoader with two workers, fp32 and Adam. Both train on the same images, ours on uint8 tensors
that stay in memory. Each measurement is repeated with another seed; the first of each is a warm-up
and not counted. After its epoch each network is validated on the same images, outside of the time.

    python -m tests.benchmarks.training [--quick]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import psutil
import torch
import torchvision.models
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F  # noqa: N812
from torchvision import transforms

from tests.benchmarks.machine import describe
from tuning.data import ImageData, load_dataset
from tuning.environment import measure_peaks
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


def plain(data: ImageData, images: int, size: int, seed: int) -> tuple[float, float]:
    """Return images per second and validation percent of the plain script at batch 16."""
    torch.manual_seed(seed)
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
    rate = images / (time.perf_counter() - started)
    network.eval()
    held_out = torch.utils.data.DataLoader(PlainImages(data, data.val, size), 250)
    with torch.inference_mode():
        right = sum(int((network(batch).argmax(1) == labels).sum()) for batch, labels in held_out)
    return rate, 100 * right / len(data.val)


def ours(
    data: ImageData, images: int, size: int, seed: int, batch_size: int
) -> tuple[float, float]:
    """Return images per second and validation percent of one epoch of ours."""
    allotment = Allotment(cpus=psutil.cpu_count() or 1, gpus=0)
    allotment.apply()
    parameters = ResNetParameters(
        image_size=size, batch_size=batch_size, optimizer="adam", lr=1e-3, epochs=2,
        train_size=images, device="cpu",
    )  # fmt: skip
    report = ResNetTraining(parameters, data, seed, allotment).step()
    return report["images_per_second"], report["val_accuracy"]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="512 images, one repetition")
    parser.add_argument("--size", type=int, default=64, help="pixels per side")
    parser.add_argument("--data", default="data", help="folder of the data set's files")
    options = parser.parse_args()
    images, repeats = (512, 1) if options.quick else (2048, 3)
    data = load_dataset("fashion_mnist", Dataset(folder=options.data))
    data = replace(data, val=data.val[: min(images, 2000)])
    rows: dict[str, Callable[[int], tuple[float, float]]] = {
        "plain script, batch 16": lambda seed: plain(data, images, options.size, seed),
        "ours, batch 16": lambda seed: ours(data, images, options.size, seed, 16),
        "ours, batch 128": lambda seed: ours(data, images, options.size, seed, 128),
    }
    rates: dict[str, list[float]] = {name: [] for name in rows}
    accuracies: dict[str, list[float]] = {name: [] for name in rows}
    for seed in range(repeats + 1):
        for name, measure in rows.items():
            rate, accuracy = measure(seed)
            if seed:
                rates[name].append(rate)
                accuracies[name].append(accuracy)
    base = statistics.median(rates["plain script, batch 16"])
    peak = measure_peaks()["bf16_gflops"]
    gflops = 3 * count_gflops("resnet18", "standard", 10, options.size)
    table = Table(title=f"ResNet-18, {options.size} px, Adam, {images} images")
    columns = (
        "",
        "images/s",
        "spread",
        "n",
        "ratio",
        "GFLOP/s",
        "% of bf16 peak",
        "val %",
        "spread",
    )
    for column in columns:
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
            f"{statistics.median(accuracies[name]):.1f}",
            f"{min(accuracies[name]):.1f}-{max(accuracies[name]):.1f}",
        )
    console = Console(width=110)
    console.print(describe("torch"))
    console.print(table)


if __name__ == "__main__":
    main()
