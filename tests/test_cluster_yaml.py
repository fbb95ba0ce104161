"""The example cluster is one that Ray would accept, and what it promises in its comments holds."""

from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[1]


@pytest.fixture
def cluster() -> dict:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def test_cluster_passes_rays_own_schema(cluster: dict) -> None:
    validate_config(prepare_config(cluster))


def test_a_misspelt_key_would_be_noticed(cluster: dict) -> None:
    with pytest.raises(Exception, match="idle_timeout"):
        validate_config(prepare_config(cluster | {"idle_timeout_minuts": 5}))


def test_head_runs_no_work_and_workers_are_spot(cluster: dict) -> None:
    types = cluster["available_node_types"]
    assert types[cluster["head_node_type"]]["resources"] == {"CPU": 0}
    workers = {name: kind for name, kind in types.items() if name != cluster["head_node_type"]}
    assert {kind["node_config"]["InstanceMarketOptions"]["MarketType"] for kind in workers.values()} == {"spot"}
    assert [name for name, kind in workers.items() if kind["resources"].get("GPU")] == ["gpu"]


def test_what_is_heavy_does_not_travel_with_a_job() -> None:
    ignored = (ROOT / ".rayignore").read_text().split()
    assert {".venv", "out", "*.mp4"} <= set(ignored)
