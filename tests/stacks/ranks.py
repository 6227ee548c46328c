"""Processes of one gloo group, which run the same function side by side."""

from __future__ import annotations

import gc
import io
import os
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from multiprocessing.queues import Queue
from pathlib import Path
from queue import Empty
from typing import Any, final

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

# A rank that waits for one that raised must not hang the tests.
_LIMIT = timedelta(seconds=60)


@final
class Ranks:
    """Some processes that wait for work; made once for many tests, as starting them takes seconds.

    Args:
        count: how many.
        folder: for the file by which they find each other.
    """

    def __init__(self, count: int, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._work = [context.Queue() for _ in range(count)]
        self._done: Queue[tuple[int, bool, bytes]] = context.Queue()
        self._processes = [
            context.Process(target=_serve, args=(rank, count, str(folder / "meet"), self._work[rank], self._done))
            for rank in range(count)
        ]
        for process in self._processes:
            process.start()

    def run(self, job: Callable[..., Any], *args: Any) -> list[Any]:
        """Return what ``job(rank, *args)`` returns on each rank.

        Raises:
            RuntimeError: it raised on one, with the traceback; the others may have waited for it in vain.
        """
        for queue in self._work:
            queue.put((job, args))
        found: dict[int, Any] = {}
        failed = []
        for _ in self._processes:
            rank, well, packed = self._next()
            found[rank] = torch.load(_as_file(packed), weights_only=False)
            failed += [] if well else [f"rank {rank}:\n{found[rank]}"]
        if failed:
            raise RuntimeError("\n".join(failed))
        return [found[rank] for rank in sorted(found)]

    def _next(self) -> tuple[int, bool, bytes]:
        for _ in range(2 * int(_LIMIT.total_seconds())):
            with suppress(Empty):
                return self._done.get(timeout=1)
            if ended := [process.exitcode for process in self._processes if process.exitcode is not None]:
                raise RuntimeError(f"a rank has died, with exit code {ended}")
        raise RuntimeError("the ranks do not answer")

    def close(self) -> None:
        """End the processes."""
        for queue in self._work:
            queue.put(None)
        for process in self._processes:
            process.join(timeout=10)
            if process.is_alive():
                process.kill()


def _as_file(packed: bytes) -> Any:
    return io.BytesIO(packed)


def _packed(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _serve(rank: int, count: int, meet: str, work: Queue[Any], done: Queue[tuple[int, bool, bytes]]) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(count), LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=count, timeout=_LIMIT)
    while (given := work.get()) is not None:
        job, args = given
        torch.manual_seed(0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                found, well = job(rank, *args), True
        except BaseException:
            found, well = traceback.format_exc(), False
        done.put((rank, well, _packed(found)))
    gc.collect()  # sharded tensors that are still there when Python ends may abort gloo
    dist.destroy_process_group()
