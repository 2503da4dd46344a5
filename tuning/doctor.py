"""The doctor: checks a cluster from its file to its running hosts; each finding has a remedy."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import secrets
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tuning import launcher, probe
from tuning.cluster import alive_nodes, connect, on_each_host
from tuning.data import file_groups
from tuning.launcher import ClusterFile, LauncherError
from tuning.study import NO_DATASET, Study

#: Beyond this the times of events on two hosts cannot be put in order.
MOST_SKEW_SECONDS = 2.0
LEAST_FREE_BYTES = 10 << 30
#: Where jobs keep data sets and study folders.
STORAGE = "$TUNING_STORAGE"
#: Where `ray up` puts the key with which the head reaches the workers.
HEAD_KEY = "~/ray_bootstrap_key.pem"
LIST_NODES = """
import json, ray
ray.init("auto", log_to_driver=False, logging_level="ERROR")
print(json.dumps([[n["NodeManagerAddress"], n["Resources"]] for n in ray.nodes() if n["Alive"]]))
"""


class Finding(NamedTuple):
    """One thing that was looked at; `remedy` is empty where it is well."""

    subject: str
    text: str
    remedy: str = ""


def examine(path: Path, study: Study | None = None) -> Iterator[Finding]:
    """Check a cluster file and its hosts, one finding at a time.

    What cannot be looked at because of an earlier finding is passed over.

    Args:
        path: of the cluster file.
        study: whose data sets are to be there.

    Raises:
        LauncherError: the file cannot be read at all.
    """
    cluster = launcher.read(path)
    yield _schema(cluster)
    yield _own_token()
    marker = _marker()
    answers: dict[str, dict[str, Any]] = {}
    for address in cluster.addresses:
        reached = _reach(cluster, address)
        yield reached
        if reached.remedy:
            continue
        try:
            started = time.time()
            answers[address] = _ask(cluster, address, marker, _wanted(study))
            answers[address]["skew"] = answers[address]["time"] - (started + time.time()) / 2
        except (LauncherError, ValueError) as error:
            yield Finding(address, f"its Python does not answer: {error}", "ray up " + str(path))
    for address, answer in answers.items():
        declared = re.search(r"--num-gpus[= ](\d+)", _start_command(cluster, address))
        gpus = int(declared[1]) if declared else None
        yield from _host(address, answer, gpus, f"ray up {cluster.path}")
    if cluster.head in answers:
        yield from _from_the_head(cluster)
        yield from _nodes(cluster)
        storage = answers[cluster.head]["storage"]
        cluster.ssh(cluster.head, f"rm -f {shlex.quote(storage + '/' + marker)}")


def examine_running(address: str, study: Study | None = None) -> Iterator[Finding]:
    """Check a running cluster from one of its own hosts, as `examine` does.

    Args:
        address: of the cluster, such as `auto`.
        study: whose data sets are to be there.

    Raises:
        ClusterError: it cannot be reached, or does not accept the token here.
    """
    yield _own_token()
    with connect(address):
        nodes = alive_nodes()
        yield Finding(address, f"accepts this driver; {len(nodes)} hosts")
        marker, data = _marker(), _wanted(study)
        storage = os.environ.get("TUNING_STORAGE", "")
        mark = Path(storage) / marker
        if storage and Path(storage).is_dir():
            mark.touch()
        try:
            started = time.time()
            found = on_each_host(probe.probe, marker=marker, data=data)
            ended = time.time()
        finally:
            mark.unlink(missing_ok=True)
        for node, (name, answer) in zip(nodes, found, strict=True):
            # Within the time of the whole question, a clock is not known to be wrong.
            early, late = started - answer["time"], answer["time"] - ended
            answer["skew"] = -early if early > 0 else max(0.0, late)
            resources = node["Resources"]
            declared = int(resources.get("GPU", 0))
            yield Finding(
                name, f"joined, with {resources.get('CPU', 0):g} CPUs and {declared} GPUs"
            )
            yield from _host(name, answer, declared, "ray up cluster.yaml")


def _marker() -> str:
    return f".doctor-{secrets.token_hex(8)}"


def _wanted(study: Study | None) -> dict[str, list[list[str]]]:
    """Return the files of a study's data sets, as a job looks for them."""
    names = [name for name in study.datasets() if name != NO_DATASET] if study else []
    return {name: file_groups(name, study.dataset, STORAGE) for name in names if study}


def _schema(cluster: ClusterFile) -> Finding:
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import prepare_config, validate_config

    name = str(cluster.path)
    try:
        # Ray prints warnings there that are about containers.
        with contextlib.redirect_stdout(None):
            validate_config(prepare_config(cluster.config))
    except (ValidationError, ValueError, KeyError, RuntimeError) as error:
        reason = (getattr(error, "message", "") or str(error)).splitlines()[0]
        return Finding(
            name, f"Ray refuses it: {reason}", "correct it; see the shipped cluster.yaml"
        )
    return Finding(name, f"valid; {len(cluster.addresses)} hosts")


def _own_token() -> Finding:
    if not probe.token():
        return Finding(
            "token", "there is none in ~/.ray/auth_token here",
            "ray get-auth-token --generate, then ray up cluster.yaml",
        )  # fmt: skip
    return Finding("token", "present here")


def _reach(cluster: ClusterFile, address: str) -> Finding:
    try:
        cluster.ssh(address, "true", seconds=20)
    except LauncherError as error:
        if "Permission denied" in str(error):
            remedy = f"put the public half of {cluster.key} into ~/.ssh/authorized_keys there"
        else:
            remedy = "check the address, the network and that sshd runs there"
        return Finding(address, f"SSH as {cluster.user} fails: {error}", remedy)
    return Finding(address, f"SSH as {cluster.user} works")


def _ask(
    cluster: ClusterFile, address: str, marker: str, data: dict[str, list[list[str]]]
) -> dict[str, Any]:
    """Run the probe in the environment in which Ray is started on that host."""
    source = Path(probe.__file__).read_text()
    make = " --make-marker" if address == cluster.head else ""
    command = f"python - {marker} {shlex.quote(json.dumps(data))}{make}"
    text = cluster.ssh(address, _as_started(cluster, address, command), source)
    answer: dict[str, Any] = json.loads(text.strip().splitlines()[-1])
    return answer


def _as_started(cluster: ClusterFile, address: str, command: str) -> str:
    """Return a command that runs after all that precedes `ray start` on that host."""
    before = _start_command(cluster, address).split("ray start")[0]
    # As the launcher runs it, with the user's profile.
    return f"bash --login -c -i {shlex.quote(before + command)} 2>/dev/null"


def _start_command(cluster: ClusterFile, address: str) -> str:
    kind = "head" if address == cluster.head else "worker"
    commands = cluster.config.get(f"{kind}_start_ray_commands", [])
    return next((command for command in commands if "ray start" in command), "ray start")


def _host(
    address: str, answer: dict[str, Any], declared_gpus: int | None, up: str
) -> Iterator[Finding]:
    """Compare one host with this machine and with the GPUs that Ray was told it has."""
    here = {"python": platform.python_version(), **probe.versions()}
    there = {"python": answer["python"], **answer["packages"]}
    differing = [
        f"{name} {there[name] or 'missing'} (here {here[name] or 'missing'})"
        for name in here
        if here[name] != there[name]
    ]
    if differing:
        remedy = f"install the same versions (constraints.txt), then {up}"
        yield Finding(address, f"versions differ: {', '.join(differing)}", remedy)
    else:
        yield Finding(address, f"same versions: Python {there['python']}, Ray {there['ray']}")
    if answer["token"] != probe.token():
        text = "has another token than this machine" if answer["token"] else "has no token"
        yield Finding(address, text, f"{up} copies ~/.ray/auth_token there")
    if answer["storage_error"]:
        text = f"storage {answer['storage'] or ''} cannot be used: {answer['storage_error']}"
        yield Finding(address, text, "mount it, writable for the user; or correct TUNING_STORAGE")
    elif not answer["shares_storage"]:
        text = f"storage {answer['storage']} is another folder than the head's"
        yield Finding(address, text, "mount the same NFS export (or the like) on all hosts")
    else:
        yield Finding(address, f"storage {answer['storage']} is shared and writable")
    for name in answer["missing_data"]:
        text = f"the files of {name} are not there"
        remedy = f"tuning data {name} --folder $TUNING_STORAGE/data, or let the study fetch them"
        yield Finding(address, text, remedy)
    yield from _machine(address, answer, declared_gpus)


def _machine(address: str, answer: dict[str, Any], declared_gpus: int | None) -> Iterator[Finding]:
    seen = len(answer["gpus"])
    if declared_gpus is not None and declared_gpus != seen:
        text = f"{declared_gpus} GPUs are declared, but nvidia-smi names {seen}"
        yield Finding(address, text, "install the NVIDIA driver there, or correct --num-gpus")
    else:
        yield Finding(address, f"{answer['cpus']} CPUs, {seen} GPUs {', '.join(answer['gpus'])}")
    running = answer["raylet"] or {"OMP_NUM_THREADS": answer["omp"], "RAY_AUTH_MODE": "token"}
    if running["OMP_NUM_THREADS"]:
        text = f"OMP_NUM_THREADS={running['OMP_NUM_THREADS']} would bound the threads of trials"
        yield Finding(address, text, "unset OMP_NUM_THREADS before `ray start` in the file")
    if running["RAY_AUTH_MODE"] != "token":
        text = "Ray runs there without demanding the token"
        yield Finding(address, text, "export RAY_AUTH_MODE=token before `ray start` in the file")
    if abs(answer["skew"]) > MOST_SKEW_SECONDS:
        text = f"its clock differs by {answer['skew']:+.1f} s"
        yield Finding(address, text, "run NTP (chrony or systemd-timesyncd) there")
    for place, free in answer["free_bytes"].items():
        if free < LEAST_FREE_BYTES:
            text = f"{free / 2**30:.1f} GiB free on {place}"
            yield Finding(address, text, "make room; Ray spills objects to /tmp")


def _from_the_head(cluster: ClusterFile) -> Iterator[Finding]:
    """Check that the head reaches the workers, which it must to start them."""
    options = " ".join(f"-o {option}" for option in launcher.SSH_OPTIONS)
    for address in cluster.workers:
        command = f"ssh -i {HEAD_KEY} {options} {cluster.user}@{address} true"
        try:
            cluster.ssh(cluster.head, command)
        except LauncherError as error:
            remedy = f"ray up {cluster.path} copies the key; then check the network between them"
            yield Finding(address, f"the head does not reach it by SSH: {error}", remedy)
        else:
            yield Finding(address, "the head reaches it by SSH")


def _nodes(cluster: ClusterFile) -> Iterator[Finding]:
    """Compare the hosts that Ray knows with those of the file."""
    command = _as_started(cluster, cluster.head, "python -")
    try:
        text = cluster.ssh(cluster.head, command, LIST_NODES, seconds=90)
    except LauncherError:
        text = ""
    lines = [line for line in text.splitlines() if line.startswith("[[")]
    if not lines:
        remedy = f"ray up {cluster.path}; its log on the head: /tmp/ray/session_latest/logs"
        yield Finding(cluster.head, "Ray does not run there, or refuses its own token", remedy)
        return
    nodes = {address: resources for address, resources in json.loads(lines[-1])}
    for address in cluster.addresses:
        if address in nodes:
            found = nodes[address]
            text = f"joined, with {found.get('CPU', 0):g} CPUs and {found.get('GPU', 0):g} GPUs"
            yield Finding(address, text)
        else:
            remedy = f"ray up {cluster.path}; on the head: /tmp/ray/session_latest/logs/monitor.log"
            yield Finding(address, "has not joined the cluster", remedy)
