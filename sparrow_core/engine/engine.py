"""The engine: requests in, captions out; one thread decodes all in steps. Knows no Ray, no HTTP, no method by name."""

import queue
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

from sparrow_core.config import EngineConfig, Sampling
from sparrow_core.decoding.cache import KVArena
from sparrow_core.decoding.drafter import Drafter, VisualNeeds
from sparrow_core.decoding.rounds import decode_round
from sparrow_core.decoding.target import Prompt, TargetModel
from sparrow_core.engine.batch_invariance import batch_deviation
from sparrow_core.engine.costs import measure_costs
from sparrow_core.engine.generation import Generation, num_slots
from sparrow_core.engine.governor import NO_DRAFT, Governor
from sparrow_core.engine.scheduler import Prefilling, can_join, next_to_prefill
from sparrow_core.engine.ticket import DecodeMode, Ticket
from sparrow_core.engine.waiting import WaitingQueue, complete_cancelled
from sparrow_core.errors import ConfigError, EngineClosedError
from sparrow_core.types import Request

PATIENCE_S = 0.01  # rounds under way wait this long for the next prompt to be built: enough for a short one


@dataclass(eq=False)
class _Active:
    """A prompt in the arena and the tickets of its completions still to come; the first is being decoded.

    `last_served` is the engine's step at which it was last prefilled.
    """

    tickets: list[Ticket]
    generation: Generation
    last_served: int


class Engine:
    """Decodes up to `config.max_sequences` requests side by side on a thread of its own.

    Requests join in order of arrival and leave when they are done, between rounds; a request's tokens depend neither on
    the others nor on the load. `drafter` None decodes without drafts, which gives the same tokens. A request's own
    failure is set on its ticket; any other error ends the thread, fails all waiting and running tickets, and makes
    `alive` False. `batch_deviation` is 0 where the machine's passes are batch-invariant; elsewhere near-ties are
    decided by a pass over one row, and `SpecStats.in_doubt` counts them.
    """

    def __init__(self, target: TargetModel, drafter: Drafter[Any] | None, config: EngineConfig | None = None) -> None:
        self.target = target
        self.config = config or EngineConfig()
        self._drafter = drafter
        self._arena = KVArena(target.info.cache_shape, self.config.num_slots)
        self._inbox: queue.SimpleQueue[list[Ticket] | None] = queue.SimpleQueue()
        self._waiting = WaitingQueue(self._build)
        self._active: list[_Active] = []
        self.batch_deviation = batch_deviation(target)
        self._governors: dict[int, Governor] = {}  # by the drafter that they govern
        self._steps = 0
        self._lock = threading.Lock()
        self._closed = False
        self._last_step = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="sparrow-engine", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the engine takes requests."""
        return self._thread.is_alive() and not self._closed

    @property
    def idle_s(self) -> float:
        """Seconds since the thread last finished a step. It also grows while the engine has nothing to do."""
        return time.monotonic() - self._last_step

    @property
    def free_slots(self) -> int:
        """Slots of the arena that no request has leased."""
        return sum(self._arena.gaps)

    def default_mode(self, sampling: Sampling) -> DecodeMode:
        """The decode mode of requests that name none."""
        return DecodeMode(self._drafter, self.config.draft, sampling)

    def submit(self, request: Request) -> Ticket:
        """Queue a request; returns at once. Raises EngineClosedError, or ConfigError for values out of range."""
        return self.submit_modes(request, [self.default_mode(request.sampling)])[0]

    def submit_modes(self, request: Request, modes: Sequence[DecodeMode]) -> list[Ticket]:
        """Queue one prompt to be prefilled once and decoded in several modes, one after the other.

        Returns one ticket per mode. A mode's sampling replaces the request's. Raises as `submit` does.
        """
        for mode in modes:
            _validate(replace(request, sampling=mode.sampling))
        tickets = [Ticket(request, mode) for mode in modes]
        with self._lock:
            if not self.alive:
                raise EngineClosedError("the engine is closed; make a new one")
            self._inbox.put(list(tickets))
        return tickets

    def close(self) -> None:
        """Cancel running requests, fail waiting ones, end the thread. Idempotent."""
        with self._lock:
            self._closed = True
            self._inbox.put(None)
        self._thread.join()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _run(self) -> None:
        try:
            while not self._closed:
                self._receive()
                self._drop_cancelled()
                self._admit()
                self._prefill()
                self._decode()
                self._steps += 1
                self._last_step = time.monotonic()
            self._finish_active()
        except BaseException as error:
            for ticket in [ticket for active in self._active for ticket in active.tickets]:
                ticket.future.set_exception(error)
            raise
        finally:
            with self._lock:
                self._closed = True
            while not self._inbox.empty():
                self._waiting.add(self._inbox.get() or [])
            self._waiting.close()

    def _receive(self) -> None:
        """Take in what was submitted; sleep while there is nothing to do at all."""
        while not self._inbox.empty() or not (self._waiting or self._active or self._closed):
            if self._inbox.empty():
                self._check_idle()
            tickets = self._inbox.get()
            if tickets is None:
                return
            self._waiting.add(tickets)

    def _check_idle(self) -> None:
        """Raise AssertionError unless every room of the arena was given back. Only while no request runs or waits."""
        self._arena.check()
        num_leases = self._arena.num_leases
        assert num_leases == 0, f"{num_leases} rooms of the arena are still leased though no request runs"

    def _drop_cancelled(self) -> None:
        self._waiting.drop_cancelled()
        for active in list(self._active):
            later = active.tickets[1:]
            complete_cancelled(later)
            active.tickets[1:] = later
            if active.tickets[0].cancelled:
                active.generation.cancel()
                self._complete(active)

    def _admit(self) -> None:
        """Start waiting requests that fit. Waits for a prompt to be built if that is quick or if nothing else runs."""
        while first := self._waiting.first(PATIENCE_S if self._active else None):
            if not can_join(first.num_slots, self._arena.gaps, len(self._active), self.config.max_sequences):
                return
            cache = self._arena.lease(first.num_slots)
            needs = _visual_needs([ticket.mode for ticket in first.tickets])
            generation = Generation(self.target, self.config, first.tickets[0].request, first.prompt, cache, needs)
            self._active.append(_Active(first.tickets, generation, self._steps))
            self._waiting.pop()

    def _build(self, request: Request) -> tuple[Prompt, int]:
        prompt = self.target.build_prompt(request.messages)
        return prompt, num_slots(prompt, request, self.config)

    def _prefill(self) -> None:
        """Prefill prompts for one slice of time."""
        deadline = time.perf_counter() + self.config.prefill.slice_ms / 1000
        while prefilling := [active for active in self._active if not active.generation.is_prefilled]:
            progress = [Prefilling(active.last_served, active.generation.tokens_left) for active in prefilling]
            active = prefilling[next_to_prefill(progress)]
            active.last_served = self._steps
            active.generation.prefill()
            while not active.generation.is_prefilled and time.perf_counter() < deadline:
                active.generation.prefill()
            if active.generation.is_prefilled:
                self._begin(active)
            if time.perf_counter() >= deadline:
                return

    def _begin(self, active: _Active) -> None:
        """Start the next decode mode. A new drafter's costs are measured first, outside the request's own timings."""
        mode = active.tickets[0].mode
        if mode.drafter and not mode.shape and id(mode.drafter) not in self._governors:
            self._governors[id(mode.drafter)] = Governor(measure_costs(self.target, mode.drafter))
        self._publish(active, active.generation.begin(mode))

    def _decode(self) -> None:
        """One round of all prefilled requests."""
        decoding = [active for active in self._active if active.generation.is_prefilled]
        if not decoding:
            return
        contexts = [active.generation.cache.length for active in decoding]
        shapes = [active.tickets[0].mode.shape for active in decoding]
        governed = self._governed(decoding)
        for governor, indices in governed:
            chosen = governor.choose([contexts[index] for index in indices])
            for index in indices:
                shapes[index] = None if chosen == NO_DRAFT else chosen
        batch = [active.generation.running(shape) for active, shape in zip(decoding, shapes, strict=True)]
        began = time.perf_counter()
        results = decode_round(self.target, batch, self.batch_deviation)
        round_s = time.perf_counter() - began
        for governor, indices in governed:
            shape = shapes[indices[0]] or NO_DRAFT
            for index in indices:
                governor.learn_tokens(shape, len(results[index].token_ids))
            if len(indices) == len(decoding):
                governor.learn_time(shape, contexts, round_s)
        for active, result in zip(decoding, results, strict=True):
            self._publish(active, active.generation.record_round(result))

    def _governed(self, decoding: Sequence[_Active]) -> list[tuple[Governor, list[int]]]:
        """Each governor, and the indices of the requests whose shape it chooses."""
        by_drafter: dict[int, list[int]] = defaultdict(list)
        for index, mode in enumerate(active.tickets[0].mode for active in decoding):
            if mode.drafter and not mode.shape:
                by_drafter[id(mode.drafter)].append(index)
        return [(self._governors[key], indices) for key, indices in by_drafter.items()]

    def _publish(self, active: _Active, token_ids: list[int]) -> None:
        active.tickets[0].publish(token_ids)
        if active.generation.finish_reason is not None:
            self._complete(active)

    def _complete(self, active: _Active) -> None:
        """Set the finished completion on its ticket; start the next mode, or give the room back."""
        active.tickets.pop(0).future.set_result(active.generation.completion())
        if active.tickets and active.generation.is_prefilled:
            self._begin(active)
        elif not active.tickets:
            self._active.remove(active)
            active.generation.cache.release()

    def _finish_active(self) -> None:
        for active in list(self._active):
            self._waiting.add(active.tickets[1:])
            del active.tickets[1:]
            active.generation.cancel()
            self._complete(active)


def _visual_needs(modes: Sequence[DecodeMode]) -> VisualNeeds | None:
    readers = [reader for mode in modes for reader in (mode.drafter, mode.recording) if reader]
    return VisualNeeds.of_all(reader.visual_needs for reader in readers)


def _validate(request: Request) -> None:
    if request.max_new_tokens < 1:
        raise ConfigError(f"max_new_tokens={request.max_new_tokens} must be at least 1")
