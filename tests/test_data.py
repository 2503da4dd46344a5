from __future__ import annotations

import gzip
import os
import shutil
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tuning import data
from tuning.data import DataError, find, load_dataset, split, training_subset
from tuning.study import Dataset


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory) -> Path:
    """A data folder with the real FashionMNIST, fetched once where it is not there yet."""
    own = Path(__file__).parents[1] / "data"
    return own if (own / "fashion_mnist").is_dir() else tmp_path_factory.mktemp("data")


def idx(array) -> bytes:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def test_fashion_mnist_is_split_49000_7000_14000_with_classes_in_proportion(data_folder):
    loaded = load_dataset("fashion_mnist", Dataset(folder=str(data_folder)))
    assert loaded.images.shape == (70_000, 28, 28)
    for indices, per_class in ((loaded.train, 4900), (loaded.val, 700), (loaded.test, 1400)):
        assert np.bincount(loaded.labels[indices]).tolist() == [per_class] * 10
    together = np.concatenate([loaded.train, loaded.val, loaded.test])
    assert np.array_equal(np.sort(together), np.arange(70_000))
    assert loaded.split_checksum().startswith("a2bcddbdcf1e0848")


def test_the_split_follows_its_seed_and_shares():
    labels = np.repeat(np.arange(5), 40)
    first = split(labels, [0.5, 0.25, 0.25], seed=1)
    again = split(labels, [0.5, 0.25, 0.25], seed=1)
    other = split(labels, [0.5, 0.25, 0.25], seed=2)
    assert [len(part) for part in first] == [100, 50, 50]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])


def test_a_damaged_file_is_refused_by_name(data_folder, tmp_path):
    source = find("fashion_mnist", data_folder)
    own = tmp_path / "fashion_mnist"
    shutil.copytree(source, own)
    labels = own / "t10k-labels-idx1-ubyte.gz"
    raw = bytearray(gzip.decompress(labels.read_bytes()))
    raw[100] ^= 1
    labels.write_bytes(gzip.compress(bytes(raw)))
    with pytest.raises(DataError, match=r"t10k-labels.*is damaged or another file"):
        load_dataset("fashion_mnist", Dataset(folder=str(tmp_path)))
    labels.write_bytes(labels.read_bytes()[:50])
    with pytest.raises(DataError, match=r"t10k-labels.*cannot be read"):
        load_dataset("fashion_mnist", Dataset(folder=str(tmp_path)))


def test_of_several_that_want_a_data_set_at_once_one_fetches(tmp_path, monkeypatch):
    calls = []

    def fetch(name, own):
        calls.append(os.getpid())
        for file in data.FILES:
            (own / f"{file}.gz").write_bytes(b"")

    monkeypatch.setattr(data, "SYSTEM_FOLDERS", {"mnist": tmp_path / "nowhere"})
    monkeypatch.setattr(data, "_fetch_with_torchvision", fetch)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: find("mnist", tmp_path), range(8)))
    assert len(calls) == 1
    assert set(found) == {tmp_path / "mnist"}


def test_when_nothing_works_the_error_says_what_was_tried_and_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "SYSTEM_FOLDERS", {"mnist": tmp_path / "nowhere"})
    monkeypatch.setattr(data, "_fetch_with_torchvision", lambda *_: "torchvision's mirrors (no)")
    with pytest.raises(DataError) as refused:
        find("mnist", tmp_path)
    for part in ("nowhere", "torchvision's mirrors", "Debian", "Put the files", "digits"):
        assert part in str(refused.value)


def test_a_users_own_idx_folder_and_npz_hold_the_same_images(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (60, 5, 4), dtype=np.uint8)
    labels = (np.arange(60) % 3).astype(np.uint8)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(images))
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    np.savez(tmp_path / "mine.npz", images=images, labels=labels)
    folder = load_dataset("mine", Dataset(name="mine", path=str(tmp_path)))
    single = load_dataset("mine", Dataset(name="mine", path=str(tmp_path / "mine.npz")))
    assert np.array_equal(folder.images, images)
    assert np.array_equal(single.images, images)
    assert np.array_equal(folder.labels, single.labels)
    assert folder.classes == 3


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros((4, 2, 2), np.uint8)}, "needs arrays `images` and `labels`"),
        (
            {"images": np.zeros((4, 2, 2)), "labels": np.arange(4) % 2},
            "images must be uint8 of shape",
        ),
        (
            {"images": np.zeros((4, 2, 2), np.uint8), "labels": np.arange(3)},
            "labels must be one whole number per image",
        ),
        (
            {"images": np.zeros((4, 2, 2), np.uint8), "labels": np.array([0, 2, 0, 2])},
            "without gaps",
        ),
    ],
)
def test_own_data_of_the_wrong_form_is_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(DataError, match=message):
        load_dataset("x", Dataset(name="x", path=str(tmp_path / "x.npz")))


def test_a_pickle_in_an_npz_is_not_loaded(tmp_path):
    class Canary:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "canary",))

    np.savez(tmp_path / "x.npz", images=np.array([Canary()], dtype=object), labels=np.zeros(1))
    with pytest.raises(DataError):
        load_dataset("x", Dataset(name="x", path=str(tmp_path / "x.npz")))
    assert not (tmp_path / "canary").exists()


def test_a_training_subset_is_stratified_and_of_the_training_split_alone():
    digits = load_dataset("digits", Dataset(name="digits"))
    subset = training_subset(digits, 200, seed=0)
    assert len(subset) == len(set(subset) & set(digits.train)) == 200
    assert np.bincount(digits.labels[subset]).min() >= 18
    with pytest.raises(DataError, match="train_size: 5000 of 1258"):
        training_subset(digits, 5000, seed=0)
