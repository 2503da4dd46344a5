"""Prints on how many of two nodes each placement puts the two workers of a trial, as JSON."""

from __future__ import annotations

import json
import sys

import ray
from ray.cluster_utils import Cluster
from ray.util import placement_group_table

from tests.conftest import MINIMAL
from tuning.shares import placement
from tuning.study_file import validate


def main() -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4})
    cluster.add_node(num_cpus=4)
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        print(json.dumps({name: nodes(name) for name in ("pack", "spread")}))
        sys.stdout.flush()
    finally:
        ray.shutdown()
        cluster.shutdown()


def nodes(name: str) -> int:
    """Return the number of nodes that a trial's workers are on."""
    workers = {"workers": 2, "placement": name}
    study = validate(MINIMAL | {"fixed": {"engine": "ddp"}, "resources": workers}, "study.yaml")
    config = study.complete({"trainable": "resnet", "engine": "ddp"})
    group = placement(study, config, gpus_exist=False).to_placement_group()
    ray.get(group.ready(), timeout=60)
    found = placement_group_table(group)["bundles_to_node_id"]
    return len(set(found.values()))


if __name__ == "__main__":
    main()
