"""Resource plans: defaults are filled in, and no plan waits for CPUs that its own workers hold."""

import pytest

from pipeline.common.resources import ResourcesConfig, plan_resources
from sparrow_core.errors import ConfigError

# One probe worker, one segment task and one write task run beside the pools.
NUM_LIGHT = 3


@pytest.mark.parametrize("num_cpus", [1, 2, 3, 4, 8, 16, 64])
@pytest.mark.parametrize("num_gpus", [0, 1, 4])
def test_default_plans_always_leave_room_for_the_light_tasks(num_cpus: int, num_gpus: int) -> None:
    plan = plan_resources(ResourcesConfig(), device="auto", num_cpus=num_cpus, num_gpus=num_gpus)
    held = plan.caption_workers * plan.caption_cpus + plan.decode_workers * plan.decode_cpus
    assert held + NUM_LIGHT * plan.task_cpus <= num_cpus
    assert plan.caption_workers == max(1, num_gpus)
    assert plan.caption_gpus == float(num_gpus > 0)


@pytest.mark.parametrize(("num_cpus", "threads"), [(1, 1), (2, 2), (4, 4), (16, 14)])
def test_cpu_captioning_uses_nearly_the_whole_machine(num_cpus: int, threads: int) -> None:
    plan = plan_resources(ResourcesConfig(), device="cpu", num_cpus=num_cpus, num_gpus=0)
    assert plan.threads == threads


def test_threads_follow_an_explicit_grant() -> None:
    config = ResourcesConfig(caption_cpus=3.0, caption_workers=2)
    assert plan_resources(config, device="cpu", num_cpus=8, num_gpus=0).threads == 3


def test_gpus_are_left_alone_on_a_cpu_run_and_shared_on_request() -> None:
    assert plan_resources(ResourcesConfig(), device="cpu", num_cpus=8, num_gpus=2).caption_gpus == 0
    half = plan_resources(ResourcesConfig(num_gpus=0.5), device="auto", num_cpus=16, num_gpus=2)
    assert (half.caption_workers, half.caption_gpus) == (4, 0.5)


def test_impossible_grants_are_refused_with_a_way_out() -> None:
    with pytest.raises(ConfigError, match="device=cuda, but no GPU: the cluster has 0"):
        plan_resources(ResourcesConfig(), device="cuda", num_cpus=8, num_gpus=0)
    with pytest.raises(ConfigError, match="cluster has 0 GPUs"):
        plan_resources(ResourcesConfig(num_gpus=1), device="auto", num_cpus=8, num_gpus=0)
    with pytest.raises(ConfigError, match=r"has 2; lower resources\.caption_workers"):
        plan_resources(ResourcesConfig(caption_workers=4, caption_cpus=1.0), device="cpu", num_cpus=2, num_gpus=0)
    with pytest.raises(ConfigError, match=r"has 2; lower"):
        plan_resources(ResourcesConfig(decode_workers=9), device="cpu", num_cpus=2, num_gpus=0)
