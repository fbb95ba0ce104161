"""The runs of a comparison by window, kept in a journal so that nothing is measured twice."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict

from pipeline.common.journal import Journal
from sparrow_core.measure.methods import MethodRun, read_run


class MeasuredRuns:
    """All runs of a journal and those added since. `drafters` gives the identity of each drafter's checkpoint by name:
    earlier runs of a drafter whose identity has changed are ignored."""

    def __init__(self, journal: Journal, drafters: Mapping[str, str]) -> None:
        self._journal, self._drafters = journal, drafters
        self._of_window: dict[str, list[MethodRun]] = defaultdict(list)
        for entry in journal.entries:
            measured = entry["drafters"]
            current = [run for run in entry["runs"] if measured.get(run["method"]) == drafters.get(run["method"])]
            self._of_window[entry["window"]] += map(read_run, current)

    @property
    def all(self) -> list[MethodRun]:
        """All runs, window by window."""
        return [run for runs in self._of_window.values() for run in runs]

    def of(self, window: str) -> list[MethodRun]:
        """The runs of a window."""
        return self._of_window[window]

    def is_usable(self, window: str) -> bool:
        """Whether all runs of a measured window are usable."""
        return all(run.usable for run in self._of_window[window])

    def add(self, window: str, runs: list[MethodRun]) -> None:
        """Add runs of a window, in the journal too."""
        self._of_window[window] += runs
        used = {run.method for run in runs} & self._drafters.keys()
        drafters = {name: self._drafters[name] for name in sorted(used)}
        self._journal.add({"window": window, "drafters": drafters, "runs": [asdict(run) for run in runs]})
