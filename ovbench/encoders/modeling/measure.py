"""What one forward pass of an encoder costs: operations (counted, no weights needed), images per second, memory.

`python -m ovbench.encoders.modeling.measure REQUEST.json RESULT.json` is the process of its own in which speed and
memory are taken: a process that has done other work has used memory that is not the encoder's.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from ovbench._base.errors import ConfigError, OvbenchError
from ovbench.encoders.base import DType, Encoder, EncoderInfo, Tap
from ovbench.encoders.modeling.frozen import FrozenEncoder, check_device
from ovbench.encoders.modeling.tokens import TokenEncoder
from ovbench.encoders.modeling.vae_base import FrontEnd
from ovbench.encoders.registry import EncoderSpec, load_encoder, parse_encoder, with_options

BATCH_SIZES = (1, 32)
MIN_ROUNDS, MAX_ROUNDS = 3, 15
ROUNDS_S = 10.0  # no further round after this time, once there are MIN_ROUNDS


@dataclass(frozen=True, kw_only=True, slots=True)
class Flops:
    """Operations of one picture: matrix products, convolutions and attention; a multiply-accumulate is 2.

    Norms, activations, softmax and positions are not counted, as is usual.
    """

    network: int  # everything behind the front end, pooling heads included
    frontend: int  # the VAE in front


def count_flops(encoder: Encoder) -> Flops:
    """Returns the operations of one forward pass of one picture of `info.input.size`, as `features` runs it."""
    height, width = encoder.info.input.size
    images = torch.full((1, 3, height, width), 0.5)
    frontend = encoder.frontend if isinstance(encoder, TokenEncoder) else getattr(encoder, "vae", None)
    # `features` looks at the values, which tensors on meta do not have.
    run = encoder._run if isinstance(encoder, FrozenEncoder) else encoder.features
    total = counted_flops(lambda: run(images, Tap()))
    before = 0
    if isinstance(frontend, FrontEnd):
        device = next(frontend.parameters()).device
        before = counted_flops(lambda: frontend.encode(images.to(device) * 2.0 - 1.0))
    return Flops(network=total - before, frontend=before)


def counted_flops(run: Callable[[], Any]) -> int:
    """Returns the operations that torch counts while `run` runs.

    Attention is taken apart: fused kernels, and torch's fast path of whole layers, would hide theirs.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            run()
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return counter.get_total_flops()


_DEVICE_OF = Tensor.device.__get__  # pyright: ignore[reportAttributeAccessIssue]


class _ShapesOnly(TorchFunctionMode):
    """Keeps every tensor without values (on the device meta), also where code moves it or asks for its values.

    To the code it looks like a tensor of the CPU, because some of it asks (autocast knows no device meta).
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        given = dict(kwargs or {})
        if given.get("device") is not None:
            given["device"] = "meta"
        if not (args and isinstance(args[0], Tensor) and args[0].is_meta):
            return func(*args, **given)
        if func in (Tensor.cpu, Tensor.cuda):
            return args[0]
        if func == _DEVICE_OF:
            return torch.device("cpu")
        if func is Tensor.to:
            args = tuple("meta" if isinstance(each, str | torch.device) else each for each in args)
        elif func is Tensor.numpy:
            return torch.zeros(0, device="cpu").numpy()
        elif func in (Tensor.item, Tensor.__float__, Tensor.__int__):
            return 0
        return func(*args, **given)


@contextmanager
def without_weights() -> Iterator[None]:
    """Within it networks are built and run without values: every tensor has a shape and a type, and takes no memory."""
    with warnings.catch_warnings(), torch.device("meta"), _ShapesOnly():
        warnings.simplefilter("ignore")  # that tensors without values are not copied or initialised is the point
        yield


def sketch(spec: EncoderSpec) -> tuple[EncoderInfo, Flops]:
    """Builds a network without weights, and returns its facts and what a forward pass costs.

    It takes neither memory nor files. `weights_digest` and `identity` of the facts mean nothing.

    Raises:
        ConfigError: The family cannot build untrained networks, or an option does not fit.
        DependencyError: A library is not installed.
    """
    with without_weights():
        encoder = load_encoder(with_options(spec, weights="random:0"))
        return encoder.info, count_flops(encoder)


def measure(text: str, *, device: str = "cpu", dtype: DType = "float32") -> dict[str, Any]:
    """Returns images per second and peak memory of an encoder on this machine, taken in a process of its own.

    Args:
        text: Spec string; `?weights=random:0` will do, since neither depends on the values of weights.
        device: Where it runs.
        dtype: Of the transformer.

    Raises:
        OvbenchError: The encoder cannot be loaded or run there.
    """
    check_device(device)
    with tempfile.TemporaryDirectory(prefix="ovbench-") as folder:
        request, result = Path(folder, "request.json"), Path(folder, "result.json")
        request.write_text(json.dumps({"text": text, "device": device, "dtype": dtype}), encoding="utf-8")
        words = [sys.executable, "-m", "ovbench.encoders.modeling.measure", str(request), str(result)]
        done = subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        if not result.is_file():
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise OvbenchError(
                f"the measuring process ended with code {done.returncode}: {last}",
                where=f"--measure {text}",
                fix="it may have been killed for lack of memory" if done.returncode < 0 else "",
            )
        found = json.loads(result.read_text(encoding="utf-8"))
    if "error" in found:
        raise ConfigError(found["error"], where=found["where"], fix=found["fix"])
    return found


def _measure_here(text: str, device: str, dtype: DType) -> dict[str, Any]:
    where = check_device(device)
    memory = _CudaMemory(where) if where.type == "cuda" else _HostMemory()
    encoder = load_encoder(parse_encoder(text), device=device, dtype=dtype)
    passes: list[dict[str, Any]] = []
    for batch_size in BATCH_SIZES:
        memory.reset()
        seconds = _rounds(encoder, batch_size, where)
        passes.append(
            {
                "batch_size": batch_size,
                "images_per_s": batch_size / median(seconds),
                "num_rounds": len(seconds),
                "peak_memory_bytes": memory.peak(),
            }
        )
    return {
        "device": torch.cuda.get_device_name(where) if where.type == "cuda" else f"CPU ({_cpu_name()})",
        "dtype": dtype,
        "num_threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "memory": memory.what,
        "passes": passes,
    }


def _rounds(encoder: Encoder, batch_size: int, device: torch.device) -> list[float]:
    """Returns the seconds of each round, after one that is not counted."""
    height, width = encoder.info.input.size
    images = torch.rand(batch_size, 3, height, width, generator=torch.Generator().manual_seed(0)).to(device)
    seconds: list[float] = []
    for number in range(MAX_ROUNDS + 1):
        began = time.perf_counter()
        encoder.features(images)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number > 0:
            seconds.append(time.perf_counter() - began)
        if len(seconds) >= MIN_ROUNDS and sum(seconds) > ROUNDS_S:
            break
    return seconds


class _HostMemory:
    """Peak resident memory above what the process had before the encoder was loaded.

    Trap: `ru_maxrss` of a fresh process begins at the peak of the process that started it (Linux keeps it across
    exec), so Linux is asked for VmHWM, which belongs to the process alone and can be reset.
    """

    def __init__(self) -> None:
        self.what = "resident memory above that of Python with torch"
        if not _STATUS.is_file():
            self.what += ", loading included"
        self._before = _peak_resident()

    def reset(self) -> None:
        """Forgets the peak so far, as that of loading; where the system cannot, loading counts."""
        if _STATUS.is_file():
            try:
                _CLEAR.write_text("5", encoding="ascii")
            except OSError:
                self.what = self.what.partition(",")[0] + ", loading included"

    def peak(self) -> int:
        """Bytes."""
        return max(0, _peak_resident() - self._before)


_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _peak_resident() -> int:
    if _STATUS.is_file():
        for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class _CudaMemory:
    """Peak memory that torch allocated on a GPU, weights included."""

    what = "allocated by torch on the GPU, weights included"

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def reset(self) -> None:
        """Forgets the peak so far."""
        torch.cuda.reset_peak_memory_stats(self._device)

    def peak(self) -> int:
        """Bytes."""
        return torch.cuda.max_memory_allocated(self._device)


def _cpu_name() -> str:
    cores = f"{os.cpu_count()} cores"
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {cores}"


def _main(request: Path, result: Path) -> None:
    wanted = json.loads(request.read_text(encoding="utf-8"))
    try:
        found = _measure_here(wanted["text"], wanted["device"], wanted["dtype"])
    except OvbenchError as error:
        found = {"error": error.what, "where": error.where, "fix": error.fix}
    except torch.OutOfMemoryError:
        found = {"error": "the GPU's memory is not enough", "where": "--measure", "fix": "use --device cpu"}
    result.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]))
