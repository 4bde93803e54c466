"""One run in several processes, as ``torchrun`` starts them.

Every process draws its own batches from one common sequence, and gradients are averaged, so that W
processes take the step that one process takes which accumulates the same W batches. ``"ddp"`` keeps
the whole model in every process; ``"fsdp"`` shares out weights, gradients and moments, for models
that don't fit otherwise. Rank 0 writes; all others only compute.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from swath.core.errors import ConfigError, TrainingError

_TIMEOUT = timedelta(minutes=30)
_PEER_GONE = re.compile(r"closed by peer|reset by peer|remote process exited|Broken pipe")


@dataclass(frozen=True)
class World:
    """Where a process stands among those of its run.

    Attributes:
        rank: From 0; 0 writes files and shows progress.
        size: Number of processes.
        local_rank: Number among those of the same machine, which is that of its GPU.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def main(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0


def launched() -> World:
    """What ``torchrun`` has told this process in its environment; one process without it.

    Raises:
        ConfigError: If the environment says only half of it.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World()
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE={size} without {', '.join(missing)}; start several processes with "
            "torchrun --nproc-per-node N --no-python swath train ..."
        )
    return World(int(os.environ["RANK"]), size, int(os.environ.get("LOCAL_RANK", "0")))


def restarted() -> bool:
    """Whether ``torchrun --max-restarts`` has started this process in place of one that died."""
    return _restarts() > 0


def _restarts() -> int:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


@contextmanager
def process_group(world: World, device: torch.device) -> Iterator[None]:
    """Join the processes of the run, and part from them in the end."""
    if world.size == 1 or dist.is_initialized():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # gloo beside nccl: small messages that mustn't wait for the GPU
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    store, rank, size = next(iter(rendezvous("env://", timeout=_TIMEOUT)))
    # torchrun may keep its store over a restart, with the addresses of processes that are gone
    life = dist.PrefixStore(f"life {_restarts()}", store)  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=life, rank=rank, world_size=size, timeout=_TIMEOUT)
    try:
        yield
    except RuntimeError as error:
        if not _PEER_GONE.search(str(error)):
            raise
        raise TrainingError(
            f"rank {world.rank}: another process of this run is gone; what it printed says why "
            "(torchrun --max-restarts N goes on from the last checkpoint by itself)"
        ) from error
    finally:
        dist.destroy_process_group()


def any_process(flag: bool, world: World) -> bool:
    """Whether the flag is raised in at least one process; all of them must ask."""
    if world.size == 1:
        return flag
    raised = torch.tensor(int(flag))
    dist.all_reduce(raised, dist.ReduceOp.MAX)
    return bool(raised)


def mean_over_processes(figures: Mapping[str, float], world: World) -> dict[str, float]:
    """The mean of every figure; all processes must give the same names in the same order."""
    if world.size == 1:
        return dict(figures)
    values = torch.tensor(list(figures.values()), dtype=torch.float64)
    dist.all_reduce(values)
    return dict(zip(figures, (values / world.size).tolist(), strict=True))


def gather(value: Any, world: World) -> list[Any]:
    """Every process's value, in the order of ranks, in every process."""
    values = [value]
    if world.size > 1:
        values = [None] * world.size
        dist.all_gather_object(values, value)
    return values


def wait_for_all(world: World) -> None:
    """Go on when every process has come this far."""
    if world.size > 1:
        any_process(False, world)


# --- weights and moments, whole or in shards ---------------------------------------------------


def shard(model: nn.Module, device: torch.device, world: World) -> None:
    """Share a model's weights out among the processes, in place (FSDP2).

    Units are gathered for their computation and released after it: each element of an outermost
    `nn.ModuleList` (a transformer's block) is one, and everything outside of these is one more.
    Such elements must be called as modules; reading their weights alone doesn't gather them.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (world.size,))
    for unit in _units(model):
        fully_shard(unit, mesh=mesh)
    fully_shard(model, mesh=mesh)


def _units(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from (unit for unit in child if any(True for _ in unit.parameters()))
        else:
            yield from _units(child)


def model_state(model: nn.Module) -> dict[str, Tensor]:
    """All weights and buffers; of a sharded model whole ones on rank 0, nothing on the others."""
    if not _is_sharded(model):
        return model.state_dict()
    from torch.distributed.checkpoint.state_dict import get_model_state_dict

    tensors: dict[str, Any] = get_model_state_dict(model, options=_whole())
    return tensors


def load_model_state(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load what `model_state` gave; every process has all of it."""
    if not _is_sharded(model):
        model.load_state_dict(tensors)
        return
    from torch.distributed.checkpoint.state_dict import set_model_state_dict

    set_model_state_dict(model, dict(tensors), options=_whole())


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimiser's entry for each parameter, by the parameter's name."""
    if not _is_sharded(model):
        named = [(name, p) for name, p in model.named_parameters() if p in optimizer.state]
        return {name: dict(optimizer.state[p]) for name, p in named}
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    whole: dict[str, Any] = get_optimizer_state_dict(model, optimizer, options=_whole())
    entries: dict[str, Any] = whole.get("state", {})
    return entries


def load_optimizer_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, entries: Mapping[str, dict[str, Any]]
) -> None:
    """Load what `optimizer_state` gave; rates and other settings stay as they are."""
    if not _is_sharded(model):
        names = {id(p): name for name, p in model.named_parameters()}
        order = [names[id(p)] for group in optimizer.param_groups for p in group["params"]]
        fresh = optimizer.state_dict()
        fresh["state"] = {i: entries[name] for i, name in enumerate(order) if name in entries}
        optimizer.load_state_dict(fresh)
        _lay_out_like_parameters(optimizer)
        return
    from torch.distributed.checkpoint.state_dict import (
        get_optimizer_state_dict,
        set_optimizer_state_dict,
    )

    fresh = get_optimizer_state_dict(model, optimizer)
    set_optimizer_state_dict(model, optimizer, {**fresh, "state": dict(entries)}, options=_whole())


def _lay_out_like_parameters(optimizer: torch.optim.Optimizer) -> None:
    """Give moments the strides of their parameters, e.g. channels-last: fused steps assume so."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _is_sharded(model: nn.Module) -> bool:
    if not (dist.is_available() and dist.is_initialized()):
        return False
    from torch.distributed.fsdp import FSDPModule

    return isinstance(model, FSDPModule)


def _whole() -> Any:
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    return StateDictOptions(full_state_dict=True, cpu_offload=True)
