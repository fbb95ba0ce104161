"""The training loop: bit-equal resume, independence of the number of workers, and that it learns."""

import copy
import dataclasses
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as multiprocessing
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sparrow_core.config import DistillConfig
from sparrow_core.distill.trainer import Hooks, StepMetrics, Trainer, Worker, learning_rate
from sparrow_core.distill.unroll import UnrolledDrafter
from sparrow_core.errors import ConfigError, TrainingDivergedError
from tests.sparrow_core.distill.toys import ListSource, random_example, random_tables, tiny_drafter

CONFIG = DistillConfig(steps=8, batch_size=4, recursions=2, warmup_steps=2, bridge_share=0.5, checkpoint_every=3)


def source() -> ListSource:
    return ListSource([random_example(seed, 3, 4 + seed) for seed in range(7)])


def trainer(config: DistillConfig = CONFIG, hooks: Hooks | None = None, examples: ListSource | None = None) -> Trainer:
    unrolled = UnrolledDrafter(tiny_drafter(), random_tables(), config)
    return Trainer(unrolled, examples or source(), config, hooks=hooks)


def weights(item: Trainer) -> dict[str, torch.Tensor]:
    return item.state_dict()["drafter"]


def test_resume_is_bit_equal_and_reads_no_example_again() -> None:
    saved: dict[int, dict] = {}
    whole_source, resumed_source = source(), source()
    whole = trainer(hooks=Hooks(on_checkpoint=lambda s, d: saved.update({s: copy.deepcopy(d)})), examples=whole_source)
    whole.run()
    assert list(saved) == [3, 6, 8]
    resumed = trainer(examples=resumed_source)
    resumed.load_state_dict(saved[3])
    resumed.run()
    assert all(torch.equal(weights(whole)[name], weights(resumed)[name]) for name in weights(whole))
    assert resumed_source.reads == whole_source.reads[3 * CONFIG.batch_size :]


@pytest.mark.parametrize("changed", [{"accumulate": 2}, {"row_tokens": 40}])
def test_pieces_and_shared_rows_change_only_rounding(changed: dict) -> None:
    """Noise, and whether the bridge is shown, belong to an example and not to its place in a batch."""
    config = dataclasses.replace(CONFIG, state_noise=0.1)
    losses: list[list[float]] = []
    for item in (config, dataclasses.replace(config, **changed)):
        metrics: list[StepMetrics] = []
        trainer(item, Hooks(on_step=metrics.append)).run()
        losses.append([step.loss for step in metrics])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def train_as_worker(rank: int, world_size: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size
    )
    model = DistributedDataParallel(UnrolledDrafter(tiny_drafter(), random_tables(), CONFIG), broadcast_buffers=False)
    item = Trainer(model, source(), CONFIG, Worker(rank, world_size))
    item.run()
    torch.save(item.state_dict()["drafter"], f"{folder}/weights-{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_workers_train_as_one(tmp_path: Path) -> None:
    multiprocessing.start_processes(train_as_worker, args=(2, str(tmp_path)), nprocs=2, start_method="fork")
    first, second = (torch.load(tmp_path / f"weights-{rank}.pt") for rank in range(2))
    one = trainer()
    one.run()
    for name, value in weights(one).items():
        assert torch.equal(first[name], second[name])
        # AdamW divides by the root of tiny second moments, so rounding of gradients shows at about lr x 1e-2.
        torch.testing.assert_close(first[name], value, atol=1e-5, rtol=1e-3)


def test_it_overfits_a_learnable_world() -> None:
    """Hidden states that determine the next token linearly: first pass and recursions must reach high agreement."""
    tables = random_tables()
    generator = torch.Generator().manual_seed(5)
    successor = torch.randperm(len(tables.embed_tokens_VD), generator=generator)
    examples = []
    for seed in range(6):
        ids = [int(torch.randint(len(successor), (1,), generator=generator))]
        while len(ids) < 16:
            ids.append(int(successor[ids[-1]]))
        token_ids = torch.tensor(ids)
        # The hidden state at a token points along the lm_head row of its successor: the target is sure of it.
        hidden = 8 * nn.functional.normalize(tables.lm_head_VD[successor[token_ids]], dim=-1)
        example = random_example(seed, 3, 13)
        examples.append(dataclasses.replace(example, token_ids_E=token_ids, hidden_TD=hidden[:-1]))
    metrics: list[StepMetrics] = []
    config = DistillConfig(steps=150, batch_size=6, recursions=2, learning_rate=3e-3, warmup_steps=10)
    trainer(config, Hooks(on_step=metrics.append), ListSource(examples)).run()
    assert metrics[-1].loss < metrics[0].loss
    assert min(metrics[-1].agreement) > 0.95 and len(metrics[-1].agreement) == 3


def test_learning_rate_warms_up_then_falls_to_its_floor() -> None:
    config = DistillConfig(steps=100, learning_rate=1.0, warmup_steps=10, final_rate_share=0.1)
    rates = [learning_rate(config, step) for step in range(100)]
    assert rates[0] == 0.1 and math.isclose(max(rates), 1.0) and rates.index(max(rates)) in (9, 10)
    assert all(later <= earlier for earlier, later in pairwise(rates[10:]))
    assert math.isclose(rates[-1], 0.1)


def test_a_line_falls_evenly() -> None:
    config = DistillConfig(steps=101, learning_rate=1.0, warmup_steps=0, final_rate_share=0.0, schedule="linear")
    assert [learning_rate(config, step) for step in (0, 25, 100)] == pytest.approx([1.0, 0.75, 0.0])


def test_bfloat16_learns_about_the_same() -> None:
    losses = []
    for precision in ("float32", "bfloat16"):
        metrics: list[StepMetrics] = []
        trainer(dataclasses.replace(CONFIG, precision=precision), Hooks(on_step=metrics.append)).run()
        losses.append(metrics[-1].loss)
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.02)


def test_what_cannot_be_trained_is_refused() -> None:
    unrolled = UnrolledDrafter(tiny_drafter(), random_tables(), CONFIG)
    with pytest.raises(ConfigError, match="batch_size=4 cannot be shared evenly by 3 workers"):
        Trainer(unrolled, source(), CONFIG, Worker(rank=0, world_size=3))


def test_a_diverged_training_ends_where_it_diverged() -> None:
    steps: list[int] = []
    item = trainer(
        dataclasses.replace(CONFIG, learning_rate=1e30, warmup_steps=1), Hooks(lambda m: steps.append(m.step))
    )
    with pytest.raises(
        TrainingDivergedError, match=r"the loss of step 1 is (nan|inf): lower train.learning_rate=1e\+30"
    ):
        item.run()
    assert steps == [0]
