"""Hostile and broken study files: exit code 2 in plain words, no traceback, nothing written."""

from __future__ import annotations

import itertools
import signal
from contextlib import contextmanager

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from tests.conftest import MINIMAL
from tuning.cli import app

#: Seconds of CPU time after which a file that is still being read counts as an attack that worked.
PATIENCE = 2.0


@contextmanager
def patience():
    def give_up(*_):
        raise AssertionError(f"not refused after {PATIENCE} s")

    before = signal.signal(signal.SIGPROF, give_up)
    signal.setitimer(signal.ITIMER_PROF, PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def check(folder, content):
    path = folder / "f.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "replace"))
    before = sorted(folder.rglob("*"))
    with patience():
        result = CliRunner().invoke(app, ["check", str(path)])
    assert sorted(folder.rglob("*")) == before
    return result


def refused(folder, content):
    result = check(folder, content)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    assert 1 <= len(result.stderr.splitlines()) <= 21
    assert all(c.isprintable() or c == "\n" for c in result.stderr)
    return result.stderr


def study(**changes):
    return yaml.safe_dump(MINIMAL | changes, allow_unicode=False)


BRANCH = {"branch": {str(n): {} for n in range(10)}}
PAYLOADS = [
    "!!python/object/apply:os.system ['touch canary']",
    "!!python/object/new:subprocess.Popen [[touch, canary]]",
    "!!python/name:os.system",
    "!!python/module:os",
    "!!python/tuple [1]",
    "!!binary x",
    "!!set {a, b}",
    "!!omap [a: 1]",
    "!!timestamp 2026-01-01",
    "!!int nonsense",
    "!!float nonsense",
    "!custom {a: 1}",
    "2026-01-01",
    "9" * 5000,
    "1e999",
    ".nan",
    "-.inf",
    "0x" + "f" * 4000,
    "[" * 200 + "]" * 200,
    "{a: " * 200 + "1" + "}" * 200,
    '"\\0"',
    '"\\e[2J"',
    '"<script>alert(1)</script>"',
    '"\\\\input{/etc/passwd}"',
    "../../canary",
    "/etc/canary",
    "'a/b'",
    "''",
    "' '",
    "-1",
    "1.5",
    "true",
    "null",
    "[]",
    "{}",
    "[null]",
    "{? [a] : b}",
    "*unknown",
    "&a [*a]",
]
#: Places of a study file where each payload is put.
PLACES = {
    "name": "name: {}\ntrainable: resnet",
    "trials": "name: a\ntrainable: resnet\nsearch: {{algorithm: random, trials: {}}}",
    "split": "name: a\ntrainable: resnet\ndataset: {{split: {}}}",
    "trainable": "name: a\ntrainable: {}",
    "grid": "name: a\ntrainable: resnet\nspace: {{lr: {{grid: {}}}}}",
    "batch_size": "name: a\ntrainable: resnet\nspace: {{batch_size: {}}}",
    "branch": "name: a\nspace: {{trainable: {{branch: {}}}}}",
    "sampler": "name: a\ntrainable: resnet\nsearch: {{sampler: {}}}",
    "budget": "name: a\ntrainable: resnet\nbudget: {{seconds: {}, no: 1}}",
}
#: What is a legal value at its place, and what means "leave it out".
LEGAL = {
    ("grid", "true"), ("name", "true"), ("budget", "1.5"), ("trials", "null"),
}  # fmt: skip
CASES = [pair for pair in itertools.product(PLACES, PAYLOADS) if pair not in LEGAL]


def test_payloads_at_every_place_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(CASES) >= 300
    for place, payload in CASES:
        text = refused(tmp_path, PLACES[place].format(payload))
        assert "f.yaml: " in text, (place, payload)
    assert not list(tmp_path.rglob("*canary*"))


BOMBS = {
    "alias bomb": "a: &a [x,x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)},*{chr(97 + n)}]\n" for n in range(20)
    ),
    "merge keys": "base: &b {x: 1}\nname: {<<: *b}",
    "a megabyte": "name: " + "a" * (1 << 20),
    "a large list": "name: [" + "1," * 15_000 + "1]",
    "many wrong keys": "".join(f"k{n}: 1\n" for n in range(3000)),
    "long values, all different": study(space={"lr": {"grid": [n / 7 for n in range(2500)]}})
    + "x: 1\n",
    "grid explosion": study(
        space={k: {"grid": [0.1 * n for n in range(1, 40)]}
               for k in ("lr", "momentum", "weight_decay", "label_smoothing", "a", "b", "c")}
    ),
    "branch explosion": study(space={f"k{n}": BRANCH for n in range(12)}),
    "trials without end": study(space={}, search={"algorithm": "random", "trials": 10**18}),
    "repeats without end": study(repeats=10**18),
    "not UTF-8": b"name: \xff\xfe\xfa",
    "UTF-16 half": "name: a".encode("utf-16")[:-1],
    "null bytes": b"\x00" * 100,
    "control characters": b"name: \x1b[31mred\x07",
    "two documents": "name: a\n---\nname: b",
    "right to left": study(name="a\u202eb"),
    "deep block": "\n".join(" " * n + "a:" for n in range(100)),
    "directive": "%YAML 9.9\n---\nname: a",
}  # fmt: skip


@pytest.mark.parametrize("content", BOMBS.values(), ids=list(BOMBS))
def test_bombs_are_refused(tmp_path, content):
    refused(tmp_path, content)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=300) | st.text(max_size=300))
def test_noise_is_refused(tmp_path, content):
    refused(tmp_path, content)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_good_file_with_characters_changed_is_accepted_or_refused(tmp_path, data):
    text = list(study())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(text) - 1))
        text[place] = data.draw(st.characters(codec="utf-8") | st.sampled_from("{}[]:,&*!|>'\"%@`"))
    result = check(tmp_path, "".join(text))
    assert result.exit_code in (0, 2), result.output
    assert "Traceback" not in result.output


def test_a_hostile_file_is_refused_by_the_real_command(tmp_path, tuning_command):
    for number, content in enumerate(list(BOMBS.values())[:4]):
        path = tmp_path / f"{number}.yaml"
        path.write_text(content)
        result = tuning_command("run", path)
        assert result.returncode == 2
        assert "Traceback" not in result.stderr
        assert not (tmp_path / "results").exists()
