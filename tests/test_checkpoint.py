from __future__ import annotations

import pickle
import random
from pathlib import Path

import pytest
import torch

from tuning import checkpoint


def save_three(folder):
    for step in (1, 2, 3):
        checkpoint.save(folder, step, {"step": step, "weights": torch.full((1000,), float(step))})


def test_the_newest_is_loaded_and_two_are_kept(tmp_path):
    save_three(tmp_path)
    assert checkpoint.load_newest(tmp_path)["step"] == 3
    assert [p.name for p in sorted(tmp_path.iterdir())] == [
        "checkpoint-00002.pt", "checkpoint-00003.pt",
    ]  # fmt: skip


@pytest.mark.parametrize("damage", ["truncated", "emptied", "bit flipped"])
def test_a_damaged_one_is_set_aside_and_the_one_before_is_used(tmp_path, damage):
    save_three(tmp_path)
    newest = tmp_path / "checkpoint-00003.pt"
    data = bytearray(newest.read_bytes())
    if damage == "bit flipped":
        data[data.index(torch.full((1000,), 3.0).numpy().tobytes()) + 5] ^= 4
    newest.write_bytes({"truncated": data[:-200], "emptied": b""}.get(damage, bytes(data)))
    assert checkpoint.load_newest(tmp_path)["step"] == 2
    assert (tmp_path / "checkpoint-00003.damaged").exists()


def test_flipped_bits_give_the_same_state_or_none_and_no_error(tmp_path):
    generator = random.Random(0)
    path = tmp_path / "checkpoint-00001.pt"
    checkpoint.save(tmp_path, 1, {"weights": torch.arange(100.0), "plain": {"list": [1, "x"]}})
    good = path.read_bytes()
    for _ in range(300):
        data = bytearray(good)
        data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        path.write_bytes(data)
        state = checkpoint.load_newest(tmp_path)
        if state is not None:
            assert torch.equal(state["weights"], torch.arange(100.0))
            assert state["plain"] == {"list": [1, "x"]}


def test_what_a_kill_left_half_written_is_removed(tmp_path):
    save_three(tmp_path)
    (tmp_path / "checkpoint-00004.tmp").write_bytes(b"half")
    assert checkpoint.load_newest(tmp_path)["step"] == 3
    assert not (tmp_path / "checkpoint-00004.tmp").exists()


def test_a_pickle_that_would_run_code_does_not(tmp_path):
    class Canary:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "canary",))

    torch.save({"step": Canary()}, tmp_path / "checkpoint-00001.pt")
    (tmp_path / "checkpoint-00002.pt").write_bytes(pickle.dumps(Canary()))
    assert checkpoint.load_newest(tmp_path) is None
    assert not (tmp_path / "canary").exists()
