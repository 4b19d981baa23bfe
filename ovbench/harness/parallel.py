"""The processes of one command under `torchrun` or `accelerate launch`: who this one is, and what all of them share.

Contract: results do not depend on how many there are. Each takes its share of the samples by their running numbers;
gradients and losses are means over all of them, and one process alone writes.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from ovbench._base import launcher
from ovbench._base.errors import ConfigError, OvbenchError
from ovbench._base.lazy import require
from ovbench.harness.sharding import any_sharded

T = TypeVar("T")
_PATIENCE = timedelta(hours=12)


@dataclass(frozen=True, kw_only=True, slots=True)
class Processes:
    """This process among all; make it with `open_processes`."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.world_size > 1

    def share(self, count: int, what: str) -> int:
        """Returns this process's part of `count` things that are split evenly.

        Raises:
            ConfigError: They cannot be.
        """
        if count % self.world_size:
            raise ConfigError(
                f"{what} of {count} cannot be split over {self.world_size} processes",
                where="torchrun --nproc-per-node",
                fix=f"use a number of processes that divides {count}",
            )
        return count // self.world_size

    def data_parallel(self, module: nn.Module) -> nn.Module:
        """Returns a module whose gradients are means over all processes: DistributedDataParallel, or itself alone.

        Call it instead of the module, which stays the owner of the weights. Buffers are not broadcast: what ours hold
        is equal everywhere.
        """
        if not self.several:
            return module
        known = inspect.signature(nn.parallel.DistributedDataParallel.__init__).parameters
        name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # before torch 2.13
        options: dict[str, Any] = {name: False}
        return nn.parallel.DistributedDataParallel(
            module,
            device_ids=[self.device] if self.device.type == "cuda" else None,
            gradient_as_bucket_view=True,
            **options,
        )

    def shard(self, module: nn.Module, blocks: Iterable[nn.Module]) -> nn.Module:
        """Returns the same module with its weights spread over all processes (FSDP2); with one process untouched.

        Call it instead of `data_parallel`: gradients are means over all processes as well, and each holds only its part
        of weights, gradients and the optimiser's state. Parameters are replaced, so take them after this. The module
        must be equal on all processes, and may be on the CPU: blocks go to the device one at a time.

        Args:
            module: Is called as a whole.
            blocks: Modules inside that are gathered one at a time in forward and backward.
        """
        if not self.several:
            return module
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(self.device.type, (self.world_size,))
        for block in blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(module, mesh=mesh)
        return module

    @contextlib.contextmanager
    def summing_later(self, module: nn.Module, later: bool) -> Iterator[None]:
        """Keeps gradients of the backward passes inside to this process where `later`: accumulation over passes."""
        if later and isinstance(module, nn.parallel.DistributedDataParallel):
            with module.no_sync():
                yield
            return
        if self.several and any_sharded(module):
            cast(Any, module).set_requires_gradient_sync(not later)
        yield

    def mean(self, tensor: Tensor) -> Tensor:
        """Returns the mean of a tensor over all processes; itself where there is one."""
        if not self.several:
            return tensor
        reduced = tensor.detach().clone()
        torch.distributed.all_reduce(reduced)
        return reduced / self.world_size

    def broadcast(self, value: T) -> T:
        """Returns the main process's value."""
        if not self.several:
            return value
        box: list[Any] = [value]
        torch.distributed.broadcast_object_list(box, src=0)
        return cast(T, box[0])

    def on_main(self, work: Callable[[], T]) -> T:
        """Returns what the main process makes; an error of its is raised by all, so that none waits for it.

        Raises:
            OvbenchError: The work raised it.
        """
        box: tuple[T | None, OvbenchError | None] = (None, None)
        if self.is_main:
            try:
                box = (work(), None)
            except OvbenchError as error:
                box = (None, error)
        value, error = self.broadcast(box)
        if error is not None:
            raise error
        return cast(T, value)

    def gather(self, value: T) -> list[T]:
        """Returns the value of every process, in order."""
        if not self.several:
            return [value]
        boxes: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(boxes, value)
        return cast(list[T], boxes)

    def barrier(self) -> None:
        """Waits for all."""
        if self.several:
            torch.distributed.barrier()


ALONE = Processes()


def open_processes(device: str) -> Processes:
    """Returns the processes that a launcher started, or this one alone; the first call joins them.

    Args:
        device: `cpu`, `cuda` or `cuda:N`. Under a launcher each process has the GPU of its local number.

    Raises:
        ConfigError: A GPU is named by number under a launcher, or there are fewer GPUs than processes.
        DependencyError: accelerate is not installed.
    """
    if launcher.world_size() < 2:
        return Processes(device=torch.device(device))
    if device not in ("cpu", "cuda"):
        raise ConfigError(
            f"'{device}' names one GPU for several processes", where="--device", fix="use --device cuda, or cpu"
        )
    local, count = launcher.local_rank(), torch.cuda.device_count()
    if device == "cuda" and local >= count:
        raise ConfigError(
            f"process {local} of this machine has no GPU: there are {count}",
            where="torchrun --nproc-per-node",
            fix="start as many processes as there are GPUs, or use --device cpu",
        )
    accelerate = require("accelerate", extra="offline", purpose="several processes")
    # The main process may work alone for long (scores of 50,000 pictures, a lock that another command holds).
    state = accelerate.PartialState(cpu=device == "cpu", timeout=_PATIENCE)
    # Trap: accelerate may call the CPU `cpu:0`.
    own = torch.device("cpu") if device == "cpu" else state.device
    return Processes(rank=state.process_index, world_size=state.num_processes, device=own)
