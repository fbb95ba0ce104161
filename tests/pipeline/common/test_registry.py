"""The registry of drafters, on a disk and behind a URL: records, promotion of better drafters only, rollback."""

import json
import uuid
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.drafters import app
from pipeline.common.acceptance_rows import store_acceptance
from pipeline.common.checkpoints import checkpoint_identity, worker_draft
from pipeline.common.registry import NotBetterError, Registry
from pipeline.common.storage import local_folder
from sparrow_core.errors import ConfigError
from sparrow_core.measure.acceptance import AcceptanceRow, WindowAcceptance, summarise


def drafter(folder: Path, weights: str, target: str = "t") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"target_fingerprint": target, "tokenizer_hash": "h"}))
    (folder / "model.safetensors").write_text(weights)
    (folder / "README.md").write_text("a drafter")
    return folder


def measured(rounds: int, name: str = "any") -> list[AcceptanceRow]:
    windows = [WindowAcceptance(64, rounds, 600, (0,), 0.0, 601)] * 6
    return [summarise(name, "chain", "64", windows)]


@pytest.fixture(params=["disk", "url"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "registry") if request.param == "disk" else f"memory://registry-{uuid.uuid4().hex}"


def test_what_goes_in_comes_out(url: str, tmp_path: Path) -> None:
    registry = Registry(url)
    added = registry.add(drafter(tmp_path / "d", "w"), {"steps": 3}, measured(100))
    assert Registry(url).records() == [registry.record(added.id)]
    assert registry.record(added.id).evaluation[0].tau == added.evaluation[0].tau == 6
    assert registry.record(added.id).provenance == {"steps": 3}
    assert registry.add(tmp_path / "d", {}, measured(100)).id == added.id and len(registry.records()) == 1


def test_a_write_that_was_cut_off_is_no_record(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path / "registry"))
    added = registry.add(drafter(tmp_path / "d", "w"), {}, measured(100))
    (tmp_path / "registry" / "records" / f".{added.id}.json.0f.tmp").write_text("{")
    assert [record.id for record in registry.records()] == [added.id]


def test_promotion_is_earned(url: str, tmp_path: Path) -> None:
    registry = Registry(url)
    first, equal, better = (
        registry.add(drafter(tmp_path / name, name), {}, measured(rounds)).id
        for name, rounds in (("first", 100), ("equal", 100), ("better", 90))
    )
    assert registry.promote(first) == [] and registry.promotions == [first]
    with pytest.raises(NotBetterError, match=rf"{equal} stays out.*64: \+0\.0% \[\+0\.0%, \+0\.0%\]"):
        registry.promote(equal)
    with pytest.raises(NotBetterError):
        registry.promote(better, margin=0.2)
    (gain,) = registry.promote(better)
    assert gain.gain == pytest.approx(100 / 90 - 1) and registry.promotions == [first, better]
    assert registry.promote(better) == [] and registry.promotions == [first, better]


def rows_of(rounds_by_length: dict[str, list[int]]) -> list[AcceptanceRow]:
    """Windows of 600 tokens that took so many rounds each."""
    return [
        summarise(
            "any", "chain", length, [WindowAcceptance(int(length), n, 600, (0,), 0.0, 601) for n in rounds_of_windows]
        )
        for length, rounds_of_windows in rounds_by_length.items()
    ]


@pytest.mark.parametrize(
    ("rounds_by_length", "margin", "goes_in"),
    [
        ({"64": [100] * 8, "512": [100] * 8, "6000": [90] * 8}, 0.0, True),
        ({"64": [100] * 8, "512": [100] * 8, "6000": [90] * 8}, 0.11, True),
        ({"64": [100] * 8, "512": [100] * 8, "6000": [90] * 8}, 0.12, False),
        ({"64": [90] * 8, "512": [90] * 8, "6000": [100] * 8}, 0.0, False),  # better where it matters least
        ({"64": [90] * 8, "512": [101] * 8, "6000": [90] * 8}, 0.0, False),  # worse on one of the shorter
        ({"64": [90] * 8, "512": [95, 105] * 4, "6000": [90] * 8}, 0.0, True),  # alike there, as far as one can tell
        ({"64": [90] * 8, "512": [90] * 8, "6000": [80, 110] * 4}, 0.0, False),  # may be chance
        ({"64": [100] * 8, "512": [100] * 8, "6000": [100] * 8}, 0.0, False),
        ({"64": [110] * 8, "512": [110] * 8, "6000": [110] * 8}, 0.0, False),
    ],
)
def test_promotion_by_lengths(
    tmp_path: Path, rounds_by_length: dict[str, list[int]], margin: float, goes_in: bool
) -> None:
    registry = Registry(str(tmp_path / "registry"))
    in_use = rows_of({length: [100] * 8 for length in ("64", "512", "6000")})
    first = registry.add(drafter(tmp_path / "first", "first"), {}, in_use).id
    candidate = registry.add(drafter(tmp_path / "candidate", "candidate"), {}, rows_of(rounds_by_length)).id
    registry.promote(first)
    if goes_in:
        assert [gain.bucket for gain in registry.promote(candidate, margin)] == ["64", "512", "6000"]
        assert registry.promotions == [first, candidate]
    else:
        with pytest.raises(NotBetterError):
            registry.promote(candidate, margin)
        assert registry.promotions == [first]


def test_promotion_is_over_the_one_in_use(tmp_path: Path) -> None:
    """Not over the first one, nor the best on record: after a rollback an older one is the measure again."""
    registry = Registry(str(tmp_path / "registry"))
    first, second, between = (
        registry.add(drafter(tmp_path / name, name), {}, measured(rounds)).id
        for name, rounds in (("first", 100), ("second", 80), ("between", 90))
    )
    registry.promote(first)
    registry.promote(second)
    with pytest.raises(NotBetterError, match=f"against that of {second}"):
        registry.promote(between)
    assert registry.rollback() == first
    registry.promote(between)
    assert registry.promotions == [first, between]


def test_the_way_back_is_one_step(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path / "registry"))
    ids = [
        registry.add(drafter(tmp_path / name, name), {}, measured(rounds)).id
        for name, rounds in (("first", 100), ("second", 90), ("third", 80))
    ]
    for each in ids:
        registry.promote(each)
    assert registry.rollback() == ids[1] and registry.promotions == ids[:2]
    assert registry.rollback() == ids[0] and registry.promotions == ids[:1]


@pytest.mark.parametrize(("count", "goes_in"), [(5, False), (6, True)])
def test_too_few_windows_bring_none_into_use(tmp_path: Path, count: int, goes_in: bool) -> None:
    registry = Registry(str(tmp_path / "registry"))
    first, second = (
        registry.add(drafter(tmp_path / name, name), {}, rows_of({"64": [rounds] * count})).id
        for name, rounds in (("first", 100), ("second", 90))
    )
    registry.promote(first)
    if goes_in:
        registry.promote(second)
    else:
        with pytest.raises(NotBetterError, match="over 6 windows or more"):
            registry.promote(second)
    assert registry.in_use == (second if goes_in else first)


def test_a_drafter_is_compared_on_the_newest_windows(url: str, tmp_path: Path) -> None:
    """If windows were added after the drafter in use was measured, it must be measured again before the comparison."""
    registry = Registry(url)
    first = registry.add(drafter(tmp_path / "a", "a"), {"steps": 3}, measured(100)).id
    registry.promote(first)
    more = [WindowAcceptance(64, 90, 700, (0,), 0.0, 701)] * 8
    second = registry.add(drafter(tmp_path / "b", "b"), {}, [summarise("any", "chain", "64", more)]).id
    with pytest.raises(ConfigError, match="different windows of 64 visual tokens"):
        registry.promote(second)
    worse = [WindowAcceptance(64, 100, 700, (0,), 0.0, 701)] * 8
    registry.update_evaluation(first, [summarise("any", "chain", "64", worse)])
    (gain,) = registry.promote(second)
    assert gain.gain == pytest.approx(100 / 90 - 1) and registry.in_use == second
    assert registry.record(first).provenance == {"steps": 3}


def test_the_way_back(url: str, tmp_path: Path) -> None:
    registry = Registry(url)
    with pytest.raises(ConfigError, match="no drafter to go back to"):
        registry.rollback()
    first = registry.add(drafter(tmp_path / "a", "a"), {}, measured(100)).id
    second = registry.add(drafter(tmp_path / "b", "b"), {}, measured(90)).id
    registry.promote(first)
    with pytest.raises(ConfigError, match=f"to go back to from {first}"):
        registry.rollback()
    registry.promote(second)
    assert registry.rollback() == first and registry.promotions == [first]


def test_runs_take_the_drafter_in_use(url: str, tmp_path: Path) -> None:
    registry = Registry(url)
    folder = drafter(tmp_path / "a", "a")
    registry.promote(registry.add(folder, {}, measured(100)).id)
    chosen = worker_draft(url)
    assert chosen is not None and checkpoint_identity(chosen) == checkpoint_identity(str(folder))
    assert (Path(local_folder(chosen)) / "model.safetensors").read_text() == "a"
    assert worker_draft(str(folder)) == str(folder) and worker_draft("org/name") == "org/name"


def test_bad_input_is_named(url: str, tmp_path: Path) -> None:
    registry = Registry(url)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"has no config\.json, model\.safetensors, README\.md"):
        registry.add(tmp_path / "empty", {}, measured(1))
    known = registry.add(drafter(tmp_path / "a", "a"), {}, measured(1)).id
    with pytest.raises(ConfigError, match=f"no drafter 'x'; there are: {known}"):
        registry.promote("x")
    with pytest.raises(ConfigError, match=r"for target other, but .* holds drafters of t; keep"):
        registry.add(drafter(tmp_path / "b", "b", "other"), {}, measured(1))


def test_the_commands(tmp_path: Path) -> None:
    def run(*arguments: str | Path) -> tuple[int, str]:
        result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(argument) for argument in arguments])
        return result.exit_code, result.output

    registry, ids = tmp_path / "registry", []
    for name, rounds in (("a", 100), ("b", 90)):
        folder = drafter(tmp_path / name, name)
        code, told = run("add", registry, folder)
        assert code == 2 and "evaluation.json" in told
        store_acceptance(folder / "evaluation.json", measured(rounds, name))
        code, told = run("add", registry, folder)
        assert code == 0
        ids.append(told.strip())
    assert run("promote", registry, ids[0]) == (0, f"in use: {ids[0]}\n")
    code, told = run("promote", registry, ids[1])
    assert code == 0 and "tau +11.1%" in told
    code, told = run("promote", registry, ids[0])
    assert code == 2 and "stays out" in told
    code, told = run("list", registry)
    assert code == 0 and [line for line in told.splitlines() if "in use" in line and ids[1] in line]
    assert run("rollback", registry) == (0, f"in use: {ids[0]}\n")


def test_a_drafter_is_known_by_its_weights(url: str, tmp_path: Path) -> None:
    registry = Registry(url)
    registry.promote(registry.add(drafter(tmp_path / "one", "w"), {}, measured(100)).id)
    assert registry.uses(tmp_path / "one") and registry.uses(drafter(tmp_path / "same", "w"))
    assert not registry.uses(drafter(tmp_path / "two", "other"))


def test_newer_figures_go_on_record(tmp_path: Path) -> None:
    registry, rows = Registry(str(tmp_path / "registry")), tmp_path / "rows.json"
    first, second = (registry.add(drafter(tmp_path / name, name), {"of": name}, measured(100)) for name in "ab")
    store_acceptance(rows, [*measured(50, first.id), *measured(75, "another")])
    result = CliRunner().invoke(app, ["measured", registry.url, str(rows)])
    assert result.exit_code == 0 and result.output.split() == [first.id]
    assert registry.record(first.id).evaluation[0].tau == 12 and registry.record(first.id).provenance == {"of": "a"}
    assert registry.record(second.id).evaluation[0].tau == 6
    store_acceptance(rows, measured(75, "another"))
    assert CliRunner().invoke(app, ["measured", registry.url, str(rows)]).exit_code == 2
