"""Data sets: finding, verifying, reading and splitting them.

Images are kept whole as uint8 (70,000 of 28x28 are 55 MB); what enters a network is made from
them batch by batch.
"""

from __future__ import annotations

import gzip
import hashlib
import subprocess
import tempfile
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import URLError

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from tuning.study import Dataset

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Indices = npt.NDArray[np.int64]

SYSTEM_FOLDERS = {
    "fashion_mnist": Path("/usr/share/datasets/fashion-mnist"),
    "mnist": Path("/usr/share/datasets/mnist"),
}
DEBIAN_PACKAGES = {"fashion_mnist": "dataset-fashion-mnist"}
FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
#: SHA-256 of the original files after decompression: copies differ in how they are compressed.
CHECKSUMS = {
    "fashion_mnist": {
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
    "mnist": {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
}


class DataError(ValueError):
    """A data set cannot be had or is not what it should be; the text says what to do."""


@dataclass(frozen=True)
class ImageData:
    """A data set with its split.

    Attributes:
        name: the data set's name.
        images: uint8, `[N, H, W]` or `[N, H, W, 3]`.
        labels: int64 `[N]`, from 0 to `classes - 1`.
        train: int64 indices of the training images, in random order.
        val: int64 indices of the validation images.
        test: int64 indices of the test images.
        checksums: SHA-256 of each file it was read from.
    """

    name: str
    images: Images
    labels: Labels
    train: Indices
    val: Indices
    test: Indices
    checksums: dict[str, str] = field(default_factory=dict)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.labels.max()) + 1

    def split_checksum(self) -> str:
        """SHA-256 of the indices of the three splits, in order."""
        digest = hashlib.sha256()
        for indices in (self.train, self.val, self.test):
            digest.update(np.ascontiguousarray(indices, dtype="<i8").tobytes())
        return digest.hexdigest()

    def describe(self) -> dict[str, object]:
        """Return what the study folder records of the data."""
        return {
            "sha256": self.checksums,
            "split_sha256": self.split_checksum(),
            "images": len(self.images),
            "train": len(self.train),
            "val": len(self.val),
            "test": len(self.test),
        }


def load_dataset(name: str, dataset: Dataset) -> ImageData:
    """Find, verify, read and split a data set.

    Args:
        name: which one; the study's own, or one that its search space names.
        dataset: the study's section, for the folder, the split and its seed.

    Raises:
        DataError: it cannot be found or fetched, or is damaged.
    """
    if dataset.path is not None and name == dataset.name:
        images, labels, checksums = _read_own(Path(dataset.path))
    elif name == "digits":
        images, labels, checksums = _read_digits()
    else:
        source = find(name, Path(dataset.folder))
        images, labels, checksums = _read_idx(source, CHECKSUMS[name])
    train, val, test = split(labels, dataset.split, dataset.seed)
    return ImageData(name, images, labels, train, val, test, checksums)


def split(labels: Labels, shares: list[float], seed: int) -> tuple[Indices, Indices, Indices]:
    """Split images into training, validation and test, each with every class in proportion.

    Args:
        labels: int64 `[N]`.
        shares: of training, validation and test; they sum to 1.
        seed: of the shuffling.

    Returns:
        Three int64 index arrays: disjoint, together all N, the training one in random order.

    Raises:
        DataError: a class is too rare to be in all three.
    """
    from sklearn.model_selection import train_test_split

    count = len(labels)
    val_count, test_count = round(count * shares[1]), round(count * shares[2])
    try:
        rest, test = train_test_split(
            np.arange(count), test_size=test_count, stratify=labels, random_state=seed
        )
        train, val = train_test_split(
            rest, test_size=val_count, stratify=labels[rest], random_state=seed
        )
    except ValueError as error:
        raise DataError(f"{count} images cannot be split {shares}: {error}") from None
    return train, np.sort(val), np.sort(test)


def training_subset(data: ImageData, size: int | None, seed: int) -> Indices:
    """Return the indices of the training images, or of a stratified subset of them.

    Raises:
        DataError: more images are asked for than there are, or fewer than classes.
    """
    from sklearn.model_selection import train_test_split

    if size is None or size == len(data.train):
        return data.train
    labels = data.labels[data.train]
    if not data.classes <= size <= len(data.train) - data.classes:
        raise DataError(
            f"train_size: {size} of {len(data.train)} training images cannot be drawn; "
            f"allowed: {data.classes} to {len(data.train) - data.classes}, or leave it out"
        )
    subset: Indices = train_test_split(
        data.train, train_size=size, stratify=labels, random_state=seed
    )[0]
    return subset


def find(name: str, folder: Path) -> Path:
    """Return the folder that holds the four IDX files of `mnist` or `fashion_mnist`.

    Looks in `folder/name`, then in the system's folders, then fetches with torchvision's
    downloader, then takes Debian's package without installing it. Several processes may call this
    at once: one fetches, the others wait.

    Raises:
        DataError: nothing worked; the text says what was tried and what the user can do.
    """
    own = folder / name
    for place in (own, SYSTEM_FOLDERS[name]):
        if _complete(place):
            return place
    own.mkdir(parents=True, exist_ok=True)
    tried = [f"no complete set of files in {own} or {SYSTEM_FOLDERS[name]}"]
    with FileLock(folder / f".{name}.lock"):
        for fetch in (_fetch_with_torchvision, _fetch_debian_package):
            if _complete(own):
                return own
            reason = fetch(name, own)
            if reason is None:
                return own
            tried.append(reason)
    raise DataError(
        f"data set {name} cannot be had. Tried: {'; '.join(tried)}. "
        f"Put the files {', '.join(f + '.gz' for f in FILES)} into {own}, or use `name: digits`, "
        "which needs no files"
    )


def file_groups(name: str, dataset: Dataset, folder: str) -> list[list[str]]:
    """Return the groups of files of which one is enough to have a data set without fetching it.

    Args:
        name: of the data set.
        dataset: the study's section.
        folder: that holds the data folder of the study, if that is relative.
    """
    if dataset.path is not None and name == dataset.name:
        return [[dataset.path]]
    if name not in SYSTEM_FOLDERS:
        return [[]]
    own = f"{folder}/{dataset.folder}" if not Path(dataset.folder).is_absolute() else dataset.folder
    return [[f"{place}/{file}" for file in FILES] for place in (f"{own}/{name}",
                                                               SYSTEM_FOLDERS[name])]  # fmt: skip


def _complete(place: Path) -> bool:
    return all(_locate(place, file) is not None for file in FILES)


def _locate(place: Path, file: str) -> Path | None:
    for candidate in (place / f"{file}.gz", place / file):
        if candidate.is_file():
            return candidate
    return None


def _fetch_with_torchvision(name: str, own: Path) -> str | None:
    """Fetch the files; return why it did not work, or None."""
    import torchvision.datasets as sets
    from torchvision.datasets.utils import download_url

    source = {"mnist": sets.MNIST, "fashion_mnist": sets.FashionMNIST}[name]
    with tempfile.TemporaryDirectory(dir=own.parent) as temporary:
        for file, md5 in source.resources:
            for mirror in source.mirrors:
                try:
                    download_url(f"{mirror}{file}", temporary, filename=file, md5=md5)
                    break
                except (URLError, OSError, RuntimeError) as error:
                    reason = str(error)
            else:
                return f"torchvision's mirrors ({reason})"
        _adopt(Path(temporary), own)
    return None


def _fetch_debian_package(name: str, own: Path) -> str | None:
    """Unpack Debian's package into the data folder; return why it did not work, or None."""
    package = DEBIAN_PACKAGES.get(name)
    if package is None:
        return "Debian has no package of it"
    with tempfile.TemporaryDirectory(dir=own.parent) as temporary:
        place = Path(temporary).resolve()
        # A private package list, so that neither root nor an earlier `apt-get update` is needed.
        for part in ("state/lists/partial", "cache/archives/partial"):
            (place / part).mkdir(parents=True)
        apt = ["apt-get", "-qq", "-o", f"Dir::State::lists={place}/state/lists"]
        apt += ["-o", f"Dir::Cache={place}/cache", "-o", "APT::Sandbox::User="]
        steps = [[*apt, "update"], [*apt, "download", package]]
        try:
            for step in steps:
                _run(step, place)
            deb = next(place.glob("*.deb"))
            _run(["dpkg-deb", "-x", str(deb), str(place / "tree")], place)
        except (OSError, subprocess.SubprocessError, StopIteration) as error:
            return f"Debian's package {package} ({_reason(error)})"
        _adopt(place / "tree" / SYSTEM_FOLDERS[name].relative_to("/"), own)
    return None


def _run(command: list[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=300)


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        lines = error.stderr.strip().splitlines()
        return lines[-1] if lines else f"{error.cmd[0]} failed"
    if isinstance(error, FileNotFoundError):
        return f"{error.filename} is not installed"
    return str(error) or type(error).__name__


def _adopt(source: Path, own: Path) -> None:
    """Move fetched files into place, each whole."""
    for file in FILES:
        (source / f"{file}.gz").replace(own / f"{file}.gz")


def _read_idx(place: Path, checksums: dict[str, str]) -> tuple[Images, Labels, dict[str, str]]:
    parts: dict[str, npt.NDArray[np.uint8]] = {}
    found: dict[str, str] = {}
    for file in FILES:
        path = _locate(place, file)
        if path is None:
            continue
        raw = _read_file(path)
        found[path.name] = hashlib.sha256(raw).hexdigest()
        if checksums and found[path.name] != checksums[file]:
            raise DataError(
                f"{path}: is damaged or another file (its content has SHA-256 "
                f"{found[path.name][:16]}..., expected {checksums[file][:16]}...); "
                "delete it, it will be fetched anew"
            )
        parts[file] = parse_idx(raw, path)
    images = [v for k, v in parts.items() if "images" in k]
    labels = [v for k, v in parts.items() if "labels" in k]
    return np.concatenate(images), np.concatenate(labels).astype(np.int64), found


def _read_file(path: Path) -> bytes:
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rb") as file:
                return file.read()
        return path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}); delete it and fetch it anew") from None


def parse_idx(raw: bytes, path: Path) -> npt.NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes (format: Y. LeCun, the MNIST database, 1998).

    Raises:
        DataError: its header or length is wrong.
    """
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08" or len(raw) < 4 + 4 * raw[3]:
        raise DataError(f"{path}: is no IDX file of unsigned bytes")
    dimensions = raw[3]
    shape = np.frombuffer(raw, ">u4", count=dimensions, offset=4).astype(int)
    body = np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions)
    if body.size != int(np.prod(shape)):
        raise DataError(f"{path}: holds {body.size} bytes where its header says {shape.prod()}")
    return body.reshape(tuple(shape))


def _read_digits() -> tuple[Images, Labels, dict[str, str]]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    return images, digits.target.astype(np.int64), {}


def _read_own(path: Path) -> tuple[Images, Labels, dict[str, str]]:
    """Read a user's own images: a folder of IDX files, or one .npz."""
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder (dataset.path)")
    if path.is_dir():
        if not any("images" in f and _locate(path, f) for f in FILES):
            names = ", ".join(f"{file}[.gz]" for file in FILES)
            raise DataError(f"{path}: holds no IDX files; expected some of {names}")
        images, labels, checksums = _read_idx(path, {})
    else:
        images, labels = _read_npz(path)
        checksums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
    _check_own(path, images, labels)
    return images, labels.astype(np.int64), checksums


def _read_npz(path: Path) -> tuple[Images, Labels]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays["images"], arrays["labels"]
    except KeyError as error:
        raise DataError(f"{path}: needs arrays `images` and `labels` ({error})") from None
    except (OSError, EOFError, ValueError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: is no .npz file of plain arrays ({error})") from None


def _check_own(path: Path, images: Images, labels: Labels) -> None:
    if images.dtype != np.uint8 or not (images.ndim == 3 or images.shape[3:] == (3,)):
        raise DataError(
            f"{path}: images must be uint8 of shape [N, H, W] or [N, H, W, 3], "
            f"but are {images.dtype} {list(images.shape)}"
        )
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"{path}: labels must be one whole number per image, "
            f"but are {labels.dtype} {list(labels.shape)} for {len(images)} images"
        )
    classes = np.unique(labels)
    if len(classes) < 2 or classes[0] != 0 or classes[-1] != len(classes) - 1:
        raise DataError(
            f"{path}: labels must be 0, 1, ... without gaps, but are {classes[:12].tolist()}"
        )
