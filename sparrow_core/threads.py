"""One pool of OpenMP workers, not several.

Torch keeps a pool for every thread that ever ran a large operation on a CPU, for as long as the thread lives. Once all
pools together have more threads than the machine has cores, their workers sleep between operations instead of spinning,
and every operation begins with a wake-up: measured on two cores, a pass over a short context takes 13.7 ms instead of
10.9.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


def on_temporary_thread(function: Callable[[], Result]) -> Result:
    """Call it on a thread that ends with it, and its pool too: what is loaded or measured leaves none behind."""
    with ThreadPoolExecutor(1, "sparrow-passing") as executor:
        return executor.submit(function).result()
