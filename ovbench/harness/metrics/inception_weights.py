"""The published weights of the FID network: where the file is looked for, its digest, and what is done on load."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ovbench._base.errors import ConfigError, DataError
from ovbench.encoders.modeling.sources import read_state
from ovbench.encoders.modeling.weights_file import check_finite
from ovbench.harness.metrics.inception import INPUT_PX, NETWORK, Inception
from ovbench.harness.metrics.published_weights import PublishedWeights

Precision = Literal["float32", "bfloat16"]
SHA256_PREFIX = "6726825d"
WEIGHT_FILES = (f"weights-{NETWORK}-{SHA256_PREFIX}.pth", f"pt_{NETWORK}-{SHA256_PREFIX}.pth")
RANDOM = "random"  # instead of a path: seeded, untrained weights, for tests
_URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
_MAX_CHANGE = 1e-5  # of the pooled features, relative, between the network as published and as it is run
_log = logging.getLogger(__name__)


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Switches TF32 off: a reported value is float32 throughout. torch has it on for cuDNN's convolutions."""
    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, cudnn


@cache
def random_state() -> dict[str, Tensor]:
    """Returns the seeded, untrained weights of `tests/golden/inception_random.json`: for tests, never for a score."""
    state: dict[str, Tensor] = {}
    for key, like in Inception().state_dict().items():
        shape = tuple(like.shape)
        seed = int.from_bytes(hashlib.sha256(f"ovbench-inception-random-v1:{key}".encode()).digest()[:4], "little")
        n = np.random.RandomState(seed).standard_normal(shape)
        match key.rpartition(".")[2], key:
            case "num_batches_tracked", _:
                state[key] = torch.tensor(0)
                continue
            case "running_mean", _:
                value = 0.1 * n
            case "running_var", _:
                value = 1 + 0.2 * np.abs(n)
            case "bias", "fc.bias":
                value = 0.1 * n
            case "bias", _:
                value = 0.1 * n - 0.1
            case _, "fc.weight":
                value = n / np.sqrt(2048)
            case _ if key.endswith("bn.weight"):
                value = 1.2 * (1 + 0.1 * n)
            case _:
                value = n * np.sqrt(2 / np.prod(shape[1:]))
        state[key] = torch.from_numpy(np.asarray(value, dtype=np.float32))
    return state


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """Returns sha256 over all names in order, each followed by the tensor's bytes."""
    digest = hashlib.sha256()
    for key in sorted(state):
        digest.update(key.encode())
        digest.update(state[key].contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class LoadedInception:
    """The network with what its weights are."""

    network: Inception
    sha256: str
    trained: bool  # False: seeded, untrained weights
    precision: Precision
    value_change: float  # of the pooled features, relative L2, against the plain float32 network, on two fixed pictures


def _published() -> PublishedWeights:
    return PublishedWeights(
        network="the FID network",
        names=WEIGHT_FILES,
        sha256_prefix=SHA256_PREFIX,
        url=_URL,
        option="--weights",
        else_note="torchvision's own Inception is another network",
    )


def find_weights(path: str | Path | None = None) -> Path:
    """Returns the weights file; see `PublishedWeights.find`."""
    return _published().find(path)


def load_inception(
    weights: str | Path | None = None,
    *,
    fast: bool = True,
    device: str | torch.device = "cpu",
    precision: Precision = "float32",
) -> LoadedInception:
    """Returns the network with the 2015 weights.

    Args:
        weights: A file; None: see `find_weights`; `random`: seeded, untrained weights.
        fast: Batch norms in the convolutions, channels last. It is compared with the plain network on two fixed
            pictures: in float32 the plain one is returned, with a warning, should they differ by more than 1e-5.
        device: Where it runs.
        precision: `bfloat16` is two to three times as fast and changes the features by about 4e-3; not for a reported
            number.

    Raises:
        DataError: The file is absent, damaged, or another network's.
        ConfigError: The file is of a kind that holds code, or a precision is asked for that the plain network lacks.
    """
    if precision == "bfloat16" and not fast:
        raise ConfigError("the plain network runs in float32 only", where="precision", fix="use fast=True")
    state, digest, where = _read(weights)
    plain = _build(state, where)
    network, change = plain, 0.0
    if fast:
        noise = torch.rand(2, 3, INPUT_PX, INPUT_PX, generator=torch.Generator().manual_seed(0))
        probe = (2 * noise - 1).contiguous(memory_format=torch.channels_last)
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        network = _build(state, where).fold().to(torch.device(device), dtype).channels_last()
        with torch.inference_mode(), full_float32():
            expected = plain(probe, ["2048"])["2048"]
            got = network(probe.to(device, network.fc.weight.dtype), ["2048"])["2048"].cpu()
        change = float((got - expected).norm() / expected.norm())
        if precision == "float32" and not change <= _MAX_CHANGE:
            _log.warning(
                "the fast form of the FID network differs by %.1e on this machine; the plain form is used", change
            )
            network, change = plain, 0.0
    return LoadedInception(
        network=network.to(torch.device(device)),
        sha256=digest,
        trained=where != RANDOM,
        precision=precision,
        value_change=change,
    )


def _read(weights: str | Path | None) -> tuple[dict[str, Tensor], str, str]:
    """Returns the tensors, their digest, and where they are from."""
    if str(weights) == RANDOM:
        state = random_state()
        return state, state_sha256(state), RANDOM
    path = find_weights(weights)
    if path.suffix.lower() in (".pkl", ".pickle"):
        raise ConfigError(
            f"'{path.name}' is a pickle, which can run code, and is not opened",
            where=str(path),
            fix=f"use {WEIGHT_FILES[0]}: the same network",
        )
    digest = _published().check(path)
    return read_state(path), digest, str(path)


def _build(state: Mapping[str, Tensor], where: str) -> Inception:
    with torch.device("meta"):
        network = Inception()
    network = network.to_empty(device="cpu")
    _load_strict(network, state, where)
    check_finite(network.state_dict(), where=where)
    return network


def _load_strict(network: Inception, state: Mapping[str, Tensor], where: str) -> None:
    own = network.state_dict()
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    other = [key for key in own.keys() & state.keys() if own[key].shape != state[key].shape]
    if missing or extra or other:
        raise DataError(
            f"the weights do not fit the FID network: {len(missing)} tensors missing, {len(extra)} unknown, "
            f"{len(other)} of another shape, first '{(missing + extra + sorted(other))[0]}'",
            where=where,
            fix=f"use {WEIGHT_FILES[0]}",
        )
    network.load_state_dict(dict(state))
