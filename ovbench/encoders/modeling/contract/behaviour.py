"""Checks of how an adapter behaves: what it refuses, what its network reads, and that calls change nothing."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from ovbench._base.errors import OvbenchError
from ovbench.encoders.modeling.contract.subject import (
    Failure,
    Skip,
    Subject,
    digest_of,
    hooks,
    offers_llm_tokens,
    refusal,
    relative_difference,
)
from ovbench.encoders.preprocess import HALF, IMAGENET, OPENAI_CLIP


def _views(subject: Subject) -> dict[str, Callable[[Tensor], Tensor]]:
    """The three ways to read an encoder, each as one tensor."""
    encoder = subject.encoder
    found: dict[str, Callable[[Tensor], Tensor]] = {"features": lambda x: encoder.features(x).tokens}
    if offers_llm_tokens(subject):
        found["llm_tokens"] = lambda x: encoder.llm_tokens(x)
    found["latents"] = lambda x: encoder.latents(x)
    return found


def check_guard(subject: Subject) -> str:
    """Pictures outside [0, 1], of another size or channel count, and empty batches are refused by an OvbenchError."""
    x = subject.images[:2]
    one_nan, one_large = x.clone(), x.clone()
    one_nan[1, 2, -1, -1], one_large[1, 0, -1, -1] = float("nan"), 2.0
    values = {
        "values of 2.0": torch.full_like(x, 2.0),
        "values of -1.0": torch.full_like(x, -1.0),
        "NaN": torch.full_like(x, float("nan")),
        "infinity": torch.full_like(x, float("inf")),
        "one pixel that is NaN": one_nan,
        "one pixel of 2.0": one_large,
        "a picture already normalised by mean and std": _normalise(x, *IMAGENET),
    }
    patch = subject.info.patch_px
    shapes = {
        "one more row of patches": torch.nn.functional.pad(x, (0, 0, 0, patch), value=0.5),
        "one more column of patches": torch.nn.functional.pad(x, (0, patch), value=0.5),
        "four channels": torch.cat([x, x[:, :1]], dim=1),
        "one channel": x[:, :1],
        "a picture without a batch axis": x[0],
        "an empty batch": x[:0],
    }
    faults: list[str] = []
    for view, call in _views(subject).items():
        for name, bad in {**values, **shapes}.items():
            error = refusal(lambda call=call, bad=bad: call(bad))
            if isinstance(error, OvbenchError):
                continue
            if error is not None:
                faults.append(f"{view}: {name} raises {type(error).__name__} instead of an OvbenchError")
            elif name == "values of 2.0" and relative_difference(call(bad), call(torch.ones_like(bad))) == 0.0:
                faults.append(f"{view}: {name} are clamped silently to 1.0")
            else:
                faults.append(f"{view}: {name} is accepted")
    if faults:
        rest = f"; and {len(faults) - 4} more" if len(faults) > 4 else ""
        raise Failure("the guard of the input is missing or incomplete: " + "; ".join(faults[:4]) + rest)
    return f"{len(values) + len(shapes)} wrong inputs are refused by name"


def _normalise(x: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    return (x - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)


def _first_reader(subject: Subject, x: Tensor) -> tuple[str, Tensor]:
    """Returns the first layer that turns the three channels into something else, and what entered it."""
    seen: list[tuple[str, Tensor]] = []
    flat = 3 * subject.info.patch_px**2

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: object) -> None:
            tensor = next((value for value in (*inputs, *named.values()) if isinstance(value, Tensor)), None)
            if seen or tensor is None or len(tensor) != len(x):
                return
            pixels = tensor.ndim == 4 and tensor.shape[1] == 3
            # Trap: a module that normalises, as torchvision's does, reads three channels and returns three.
            same = isinstance(output, Tensor) and output.shape == tensor.shape
            patches = isinstance(module, nn.Linear) and tensor.ndim == 3 and tensor.shape[2] == flat
            if (pixels and not same) or patches:
                seen.append((name, tensor.detach().float().cpu().clone()))

        return hook

    # torch's own layers alone: a module of another origin may normalise inside, before it reads
    readers = {
        name: module
        for name, module in subject.need_modules().items()
        if type(module).__module__.startswith("torch.nn.")
        and not any(True for _ in module.children())
        and (not isinstance(module, nn.Linear) or (module.in_features == flat and subject.info.dim != flat))
    }
    with hooks([module.register_forward_hook(note(name), with_kwargs=True) for name, module in readers.items()]):
        subject.tokens(x)
    if not seen:
        raise Skip("no layer of torch.nn was seen to read the three channels, so what enters the network is unknown")
    return seen[0]


def check_normalisation(subject: Subject) -> str:
    """What enters the network is (images - mean) / std of the declared mean and std, once."""
    info, x = subject.info, subject.images[:2]
    name, got = _first_reader(subject, x)
    rows, columns = (side // info.patch_px * info.patch_px for side in info.input.size)
    linear = got.ndim == 3

    def arrange(images: Tensor) -> Tensor:
        # the order of values inside a linear layer's patch is the model's own: compare them sorted, per picture
        return images[:, :, :rows, :columns].flatten(1).sort().values if linear else images

    got = got.flatten(1).sort().values if linear else got
    declared = _normalise(x, info.mean, info.std)
    if got.shape != arrange(declared).shape:
        raise Skip(f"'{name}' reads {list(got.shape)}, not the pictures' {list(x.shape)}: the network resizes them")
    bound = 1e-4 if info.num_params_frontend else max(1e-4, min(2e-2, subject.tolerance))
    off = float((got - arrange(declared)).abs().max())
    if off <= bound:
        return f"'{name}' reads (images - mean) / std, to {off:.1g}"
    fault = f"'{name}' does not read (images - mean) / std with mean {info.mean} and std {info.std}: "
    for text, candidate in {
        "normalised twice": _normalise(declared, info.mean, info.std),
        "not normalised at all, it reads [0, 1]": x,
        "it reads [-1, 1]": _normalise(x, *HALF),
        "it reads CLIP's normalisation": _normalise(x, *OPENAI_CLIP),
        "it reads ImageNet's normalisation": _normalise(x, *IMAGENET),
        "it reads 0 … 255": x * 255,
        "it reads BGR instead of RGB": declared.flip(1),
    }.items():
        if float((got - arrange(candidate)).abs().max()) <= bound:
            raise Failure(fault + text)
    if not linear:
        slope, offset = _affine(x, got)
        if float((got - slope.view(1, 3, 1, 1) * x - offset.view(1, 3, 1, 1)).abs().max()) <= 10 * bound:
            means = ", ".join(f"{-b / a:.4g}" for a, b in zip(slope.tolist(), offset.tolist(), strict=True))
            stds = ", ".join(f"{1 / a:.4g}" for a in slope.tolist())
            raise Failure(f"{fault}it reads mean ({means}) and std ({stds})")
    raise Failure(f"{fault}largest difference {off:.3g}")


def _affine(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Least squares per channel: y = slope * x + offset."""
    x, y = (value.transpose(0, 1).flatten(1).double() for value in (x, y))
    dx, dy = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    slope = (dx * dy).sum(1) / dx.square().sum(1)
    return slope.float(), (y.mean(1) - slope * x.mean(1)).float()


def _generators() -> list[Tensor]:
    """Returns the states of torch's global generators, of the CPU and of every GPU."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [])]


def check_determinism(subject: Subject) -> str:
    """The same pictures give bit-equal tokens, whatever the state of the global random generators."""
    x = subject.images
    torch.manual_seed(1)
    before = _generators()
    first = subject.tokens(x)
    draws = any(not torch.equal(a, b) for a, b in zip(before, _generators(), strict=True))
    torch.manual_seed(2)
    state = random.getstate(), np.random.get_state()
    try:
        random.seed(2)
        np.random.seed(2)
        second = subject.tokens(x)
        torch.rand(17)
        third = subject.tokens(x)
    finally:
        random.setstate(state[0])
        np.random.set_state(state[1])
    off = max(relative_difference(second, first), relative_difference(third, first))
    if off > 0.0:
        cause = "dropout is on, or patches are masked or noised at random" if draws else "a state is kept between calls"
        raise Failure(
            f"the same pictures give tokens that differ by {off:.2g}"
            + (", and the call draws from torch's global generator: " if draws else ": ")
            + cause
        )
    return "three calls are equal to the last bit under other seeds"


def check_batch(subject: Subject) -> str:
    """The tokens of a picture do not depend on the pictures beside it, nor on its place in the batch."""
    x = torch.cat([subject.images, 1.0 - subject.images])[:5]
    bound = subject.tolerance
    together = subject.tokens(x)
    alone = torch.cat([subject.tokens(x[i : i + 1]) for i in range(len(x))])
    order = torch.roll(torch.arange(len(x)), 2)
    offs = {
        f"one picture alone and among {len(x)}": relative_difference(alone, together),
        "another order of the batch": relative_difference(subject.tokens(x[order]), together[order]),
        "a strided batch": relative_difference(subject.tokens(x[::2]), together[::2]),
    }
    worst = max(offs, key=lambda name: offs[name])
    if offs[worst] > bound:
        raise Failure(
            f"{worst}: tokens differ by {offs[worst]:.2g}, allowed are {bound:.0e}: "
            "statistics of the batch are used (a BatchNorm in training mode, or a norm over the batch axis)"
        )
    return f"largest relative difference {offs[worst]:.1g}, allowed {bound:.0e}"


def check_autograd(subject: Subject) -> str:
    """Outputs carry no gradient, feed trainable layers under the caller's autograd, and leave the pictures alone."""
    original = subject.images[:2]
    for view, call in _views(subject).items():
        with torch.enable_grad():
            x = original.clone()
            out = call(x)
            if not torch.equal(x, original):
                raise Failure(f"{view} changes the pictures that it is given, in place")
            if out.is_inference():
                raise Failure(
                    f"{view} returns inference tensors: they cannot feed trainable layers; "
                    "use torch.no_grad instead of torch.inference_mode"
                )
            if out.requires_grad or call(original.clone().requires_grad_()).requires_grad:
                raise Failure(f"{view} returns tensors that require grad: it does not run under torch.no_grad")
            weight = torch.ones(out.shape[-1], device=out.device, dtype=out.dtype, requires_grad=True)
            (out * weight).float().sum().backward()
            if weight.grad is None:
                raise Failure(f"no gradient reaches a layer behind {view}")
    return "no gradient flows back, a layer behind them can be trained, the pictures are unchanged"


def _named(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def check_frozen(subject: Subject) -> str:
    """No parameter takes gradients, no module is in training mode, no dropout is active."""
    modules = subject.need_modules()
    trainable = [
        f"{name}.{parameter}"
        for name, module in modules.items()
        for parameter, value in module.named_parameters(recurse=False)
        if value.requires_grad
    ]
    dropouts = [
        name for name, module in modules.items() if isinstance(module, _DropoutNd) and module.training and module.p > 0
    ]
    training = [name for name, module in modules.items() if module.training]
    faults = []
    if trainable:
        faults.append(f"{len(trainable)} parameter(s) require grad: {_named(trainable)}")
    if dropouts:
        faults.append(f"dropout is on in {len(dropouts)} module(s): {_named(dropouts)}")
    if training:
        faults.append(f"{len(training)} module(s) are in training mode: {_named(training)}")
    if faults:
        raise Failure("; ".join(faults))
    return f"{len(modules)} modules in evaluation mode, no parameter requires grad"


def check_train(subject: Subject) -> str:
    """`train()` and `train(True)` change neither a flag nor an output."""
    train = getattr(subject.encoder, "train", None)
    if not callable(train):
        raise Skip("the encoder has no method train, so nothing can call it")
    before = subject.tokens(subject.images)
    try:
        for text, arguments in (("train()", ()), ("train(True)", (True,))):
            train(*arguments)
            switched = [name for name, module in subject.modules.items() if module.training]
            if switched:
                raise Failure(f"{text} switches {len(switched)} module(s) to training mode: {_named(switched)}")
            opened = [n for n, m in subject.modules.items() for p in m.parameters(recurse=False) if p.requires_grad]
            if opened:
                raise Failure(f"{text} makes parameters trainable in {_named(opened)}")
            if (off := relative_difference(subject.tokens(subject.images), before)) > 0.0:
                raise Failure(f"{text} changes the tokens by {off:.2g}")
    finally:
        train(False)
    return "changes no flag and no output"


def check_state(subject: Subject) -> str:
    """Weights and buffers are the same after all calls of this report."""
    if subject.digest is None:
        raise Skip("the encoder shows no torch module: neither itself nor one of its attributes is one")
    if digest_of(subject.modules) != subject.digest:
        raise Failure("the calls of this report changed weights or buffers: statistics are updated, or a state is kept")
    return "the digest of all weights and buffers is what it was before the first call"
