"""The engine: requests in, captions out, one thread that steps. Knows no Ray, no HTTP and no method by name."""

import queue
import threading
import time
from types import TracebackType

from sparrow_core.config import EngineConfig
from sparrow_core.decoding.cache import KVCache
from sparrow_core.decoding.drafting import Drafter
from sparrow_core.decoding.target import TargetModel
from sparrow_core.engine.generation import Generation
from sparrow_core.engine.ticket import Ticket
from sparrow_core.errors import ConfigError, EngineClosedError, SparrowError
from sparrow_core.models.rivals import NoDrafter
from sparrow_core.types import Completion, Request, SpecStats, Timings


class Engine:
    """Decodes requests in order of arrival on a thread of its own, one at a time.

    `drafter` None decodes without drafts, as does `submit(draft=False)`; both give the same words. A request's own
    failure is set on its ticket; anything else ends the thread, fails what waits and makes `alive` False.
    """

    def __init__(self, target: TargetModel, drafter: Drafter | None, config: EngineConfig | None = None) -> None:
        self.target = target
        self.config = config or EngineConfig()
        self._without_drafts = NoDrafter()
        self._drafter = drafter or self._without_drafts
        info = target.info
        self._cache = KVCache(
            info.num_layers,
            info.num_kv_heads,
            info.head_dim,
            self.config.max_model_tokens,
            device=info.device,
            dtype=info.dtype,
        )
        self._waiting: queue.SimpleQueue[Ticket | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._last_step = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="sparrow-engine", daemon=True)
        self._thread.start()

    @property
    def drafter_name(self) -> str:
        return self._drafter.name

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self._closed

    @property
    def idle_s(self) -> float:
        """Seconds since the thread last finished a step; it grows while the engine has nothing to do, too."""
        return time.monotonic() - self._last_step

    def submit(self, request: Request, *, draft: bool = True) -> Ticket:
        """Queue a request; returns at once. Raises EngineClosedError, or ConfigError for settings out of range."""
        _check(request)
        ticket = Ticket(request, draft)
        with self._lock:
            if not self.alive:
                raise EngineClosedError("the engine is closed; make a new one")
            self._waiting.put(ticket)
        return ticket

    def close(self) -> None:
        """Cancel what runs, fail what waits, end the thread. Idempotent."""
        with self._lock:
            self._closed = True
            self._waiting.put(None)
        self._thread.join()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _run(self) -> None:
        ticket: Ticket | None = None
        try:
            while (ticket := self._waiting.get()) is not None:
                if self._closed:
                    _refuse(ticket)
                else:
                    self._serve(ticket)
        except BaseException as error:
            if ticket is not None:
                ticket.future.set_exception(error)
            raise
        finally:
            with self._lock:
                self._closed = True
            self._fail_waiting()

    def _serve(self, ticket: Ticket) -> None:
        if ticket.cancelled:
            ticket.future.set_result(_never_begun(ticket.request))
            return
        drafter = self._drafter if ticket.draft else self._without_drafts
        generation = Generation(self.target, drafter, self._cache, self.config, ticket.request)
        try:
            ticket.publish(generation.start())
        except SparrowError as error:
            ticket.future.set_exception(error)
            return
        while generation.finish_reason is None:
            self._last_step = time.monotonic()
            if ticket.cancelled or self._closed:
                generation.cancel()
            else:
                ticket.publish(generation.step())
        self._last_step = time.monotonic()
        ticket.future.set_result(generation.completion())

    def _fail_waiting(self) -> None:
        while not self._waiting.empty():
            ticket = self._waiting.get()
            if ticket is not None:
                _refuse(ticket)


def _refuse(ticket: Ticket) -> None:
    ticket.future.set_exception(EngineClosedError("the engine was closed before this request ran"))


def _never_begun(request: Request) -> Completion:
    """What is left of a request that was cancelled while it waited: nothing was seen, nothing written."""
    return Completion(request.request_id, (), "", "cancelled", 0, 0, SpecStats(), Timings())


def _check(request: Request) -> None:
    sampling = request.sampling
    if request.max_new_tokens < 1:
        raise ConfigError(f"max_new_tokens={request.max_new_tokens} must be at least 1")
    if sampling.temperature < 0:
        raise ConfigError(f"temperature={sampling.temperature} must be 0 (greedy) or more")
    if not 0 < sampling.top_p <= 1:
        raise ConfigError(f"top_p={sampling.top_p} must lie in (0, 1]")
    if sampling.top_k < 0:
        raise ConfigError(f"top_k={sampling.top_k} must be 0 (off) or more")
