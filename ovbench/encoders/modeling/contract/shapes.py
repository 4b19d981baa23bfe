"""Checks of what an adapter declares, and of the shape, type and layout of what it returns."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import asdict, replace
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ovbench._base.errors import OvbenchError
from ovbench.encoders.base import Tap
from ovbench.encoders.modeling.contract.subject import (
    Failure,
    Skip,
    Subject,
    hooks,
    offers_llm_tokens,
    refusal,
    relative_difference,
)


def check_info(subject: Subject) -> str:
    """The declared facts are complete and agree with each other."""
    info = subject.info
    faults: list[str] = []
    for name in ("dim", "patch_px", *(f"grid[{i}]" for i in range(2)), *(f"input.size[{i}]" for i in range(2))):
        field, _, index = name.removesuffix("]").partition("[")
        value: Any = info
        for part in field.split("."):
            value = getattr(value, part)
        value = value[int(index)] if index else value
        if not isinstance(value, int) or value < 1:
            faults.append(f"{name} is {value!r}, not a positive whole number")
    for name in ("depth", "num_prefix", "num_params", "num_params_frontend"):
        value = getattr(info, name)
        if not isinstance(value, int) or value < 0:
            faults.append(f"{name} is {value!r}, not a whole number from 0")
    for name in ("mean", "std"):
        values = getattr(info, name)
        if len(values) != 3 or not all(math.isfinite(v) and (name == "mean" or v > 0) for v in values):
            faults.append(f"{name} is {values!r}, not three {'finite' if name == 'mean' else 'positive'} numbers")
    faults += [f"{name} is empty" for name in ("name", "identity", "weights_digest") if not getattr(info, name)]
    if not faults:
        covered = tuple(side // info.patch_px for side in info.input.size)
        if covered != tuple(info.grid):
            faults.append(
                f"a picture of {info.input.size[0]} x {info.input.size[1]} holds {covered[0]} x {covered[1]} patches "
                f"of {info.patch_px} px, and the declared grid is {info.grid[0]} x {info.grid[1]}"
            )
        for name, tap in (("llm_tap", info.llm_tap), ("latent_tap", info.latent_tap)):
            if tap.layer != "final" and not -info.depth - 1 <= tap.layer <= info.depth:
                faults.append(f"{name} asks for layer {tap.layer} of {info.depth}")
        if info != subject.encoder.info:
            faults.append("two readings of info differ")
        if (error := refusal(lambda: json.dumps(asdict(info)))) is not None:
            faults.append(f"info cannot be written as JSON: {error}")
    if faults:
        raise Failure("; ".join(faults))
    return f"{info.grid[0]} x {info.grid[1]} tokens of {info.dim}, {info.num_prefix} prefix, {info.depth} blocks"


def check_prepare(subject: Subject) -> str:
    """Any picture becomes float32 [3, H, W] in [0, 1], upright and in RGB order."""
    height, width = subject.info.input.size
    generator = torch.Generator().manual_seed(subject.seed)
    shapes = {"RGB": (53, 71, 3), "L": (47, 31), "RGBA": (65, 33, 4)}
    for mode, shape in shapes.items():
        noise = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        picture = Image.fromarray(noise.numpy())
        prepared, again = subject.encoder.prepare(picture), subject.encoder.prepare(picture)
        if not isinstance(prepared, Tensor) or prepared.dtype != torch.float32:
            kind = prepared.dtype if isinstance(prepared, Tensor) else type(prepared).__name__
            raise Failure(f"prepare gives {kind} for a picture in {mode}, not a float32 tensor")
        if tuple(prepared.shape) != (3, height, width):
            raise Failure(f"prepare gives {list(prepared.shape)} for a picture in {mode}, not [3, {height}, {width}]")
        least, most = float(prepared.min()), float(prepared.max())
        if not (least >= 0.0 and most <= 1.0):
            raise Failure(
                f"prepare gives values {least:.3g} … {most:.3g} for a picture in {mode}, not [0, 1]: "
                "mean and std belong into features"
            )
        if not torch.equal(prepared, again):
            raise Failure(f"the same picture in {mode} was prepared twice and differs")
    square = subject.info.input.aspect == "pad"  # such a picture is not padded
    high, wide = (max(height, width),) * 2 if square else (height, width)
    for name, level in (("black", 0), ("white", 255)):
        prepared = subject.encoder.prepare(Image.new("RGB", (wide, high), (level, level, level)))
        off = float((prepared - level / 255).abs().max())
        if off > 1 / 255:
            raise Failure(f"a {name} picture becomes values that are off by {off:.3g}: the range is rescaled")
    picture = Image.new("RGB", (wide, high), (255, 0, 0))
    picture.paste((0, 0, 255), (wide // 2, 0, wide, high))
    prepared, quarter = subject.encoder.prepare(picture), width // 4
    left, right = prepared[:, :, :quarter].mean((1, 2)), prepared[:, :, -quarter:].mean((1, 2))
    if float(left[2]) > float(left[0]) and float(right[0]) > float(right[2]):
        raise Failure("a picture with red on the left has blue there: BGR order, or mirrored")
    if not (float(left[0]) > 0.9 and float(right[2]) > 0.9):
        raise Failure("a picture with red left and blue right does not keep its halves: rows and columns are swapped")
    return f"float32 [3, {height}, {width}] in [0, 1] for RGB, grey and RGBA pictures"


def check_features(subject: Subject) -> str:
    """Tokens are [B, N, C], finite, of a floating type, and depend on the picture."""
    info, count = subject.info, len(subject.images)
    features = subject.encoder.features(subject.images)
    tokens = features.tokens
    if tuple(tokens.shape) != (count, subject.num_tokens, info.dim):
        raise Failure(
            f"tokens are {list(tokens.shape)}, declared are [{count}, {subject.num_tokens}, {info.dim}]"
            + _prefix_hint(tokens.shape[1] - subject.num_tokens if tokens.ndim == 3 else 0)
        )
    if not tokens.is_floating_point():
        raise Failure(f"tokens are {tokens.dtype}, not a floating type")
    if tuple(features.grid) != tuple(info.grid):
        raise Failure(f"features say a grid of {features.grid}, and info says {info.grid}")
    if not bool(tokens.isfinite().all()):
        raise Failure("tokens hold NaN or infinite values for ordinary pictures")
    if relative_difference(tokens[0], tokens[1]) == 0.0:
        raise Failure("two different pictures give equal tokens: the picture is not read")
    return f"{str(tokens.dtype).removeprefix('torch.')} [{count}, {subject.num_tokens}, {info.dim}]"


def _prefix_hint(surplus: int) -> str:
    if surplus > 0:
        return f": {surplus} too many, a class or register token is kept in the grid"
    return f": {-surplus} too few, patches are dropped" if surplus < 0 else ""


def check_taps(subject: Subject) -> str:
    """Layers count the residual stream from 0 to L, negative numbers from its end; norms do what they say."""
    info, x = subject.info, subject.images[:2]
    depth = info.depth
    if depth == 0:
        raise Skip("the encoder declares no blocks to tap")
    pairs = [(-depth - 1, 0), (-1, depth), (-2, depth - 1)]
    for negative, positive in pairs:
        try:
            a, b = (subject.tokens(x, Tap(layer=layer, norm="none")) for layer in (negative, positive))
        except OvbenchError as error:
            raise Skip(f"the encoder refuses a tap: {error.what}") from error
        if relative_difference(a, b) > subject.tolerance:
            raise Failure(f"layer {negative} is not layer {positive}, though L is {depth}: layers are counted wrongly")
    if relative_difference(subject.tokens(x, Tap(layer=0)), subject.tokens(x, Tap(layer=depth, norm="none"))) == 0.0:
        raise Failure("layers 0 and L are equal: the tap is not obeyed")
    for layer in (depth + 1, -depth - 2):
        if not isinstance(error := refusal(lambda layer=layer: subject.tokens(x, Tap(layer=layer))), OvbenchError):
            seen = "is accepted" if error is None else f"raises {type(error).__name__} instead of an OvbenchError"
            raise Failure(f"layer {layer} {seen}, and there are layers {-depth - 1} … {depth}")
    stream = subject.tokens(x, Tap(layer=depth, norm="none")).float()
    normed = subject.tokens(x, Tap(layer=depth, norm="layernorm", eps=1e-6)).float()
    off = relative_difference(normed, F.layer_norm(stream, stream.shape[-1:], eps=1e-6))
    if off > subject.tolerance:
        raise Failure(
            f"norm 'layernorm' differs by {off:.2g} from LayerNorm without affine of the residual stream: "
            "a learned norm is under it"
        )
    return f"0 … {depth} and {-depth - 1} … -1 agree; layer {depth + 1} is refused; layernorm is without affine"


def check_prefix(subject: Subject) -> str:
    """`Tap(prefix=True)` adds the declared number of tokens, and changes no grid token."""
    info, x = subject.info, subject.images[:2]
    if info.depth == 0 and info.num_prefix == 0:
        raise Skip("the encoder declares no prefix tokens and no blocks")
    tap = replace(info.llm_tap, prefix=True)
    features, plain = subject.encoder.features(x, tap), subject.encoder.features(x, replace(tap, prefix=False))
    got = [len(x), 0, info.dim] if features.prefix is None else list(features.prefix.shape)
    if got != [len(x), info.num_prefix, info.dim]:
        raise Failure(f"the prefix is {got}, declared are {info.num_prefix} tokens of {info.dim}")
    if relative_difference(features.tokens, plain.tokens) != 0.0:
        raise Failure("asking for the prefix changes the grid tokens: one of them is taken from the other")
    together = subject.encoder.llm_tokens(x, tap)
    if tuple(together.shape) != (len(x), info.num_prefix + subject.num_tokens, info.dim):
        raise Failure(
            f"llm_tokens with the prefix are {list(together.shape)}, and {info.num_prefix} + {subject.num_tokens} "
            f"tokens of {info.dim} are declared"
        )
    if relative_difference(together[:, info.num_prefix :], features.tokens) != 0.0:
        raise Failure("llm_tokens with the prefix do not end with the grid tokens of features: the prefix stands last")
    return f"{info.num_prefix} + {subject.num_tokens} tokens"


def _first_tensor(output: object) -> Tensor | None:
    if isinstance(output, Tensor):
        return output
    if isinstance(output, list | tuple) and output:
        return _first_tensor(output[0])
    return None


def check_sequence(subject: Subject) -> str:
    """The blocks read exactly the declared prefix and grid; looked at inside, so an undeclared register is seen."""
    x, dim = subject.images[:3], subject.info.dim
    lengths: Counter[int] = Counter()

    def note(module: nn.Module, inputs: object, output: object) -> None:
        del module, inputs
        tensor = _first_tensor(output)
        if tensor is not None and tensor.ndim == 3 and tensor.shape[2] == dim and len(x) in tensor.shape[:2]:
            lengths[int(tensor.shape[1] if tensor.shape[0] == len(x) else tensor.shape[0])] += 1

    with hooks([module.register_forward_hook(note) for module in subject.need_modules().values()]):
        subject.tokens(x)
    if not lengths:
        raise Skip(f"no module returns a sequence [B, S, {dim}], so what the blocks read cannot be counted")
    length, declared = lengths.most_common(1)[0][0], subject.info.num_prefix + subject.num_tokens
    if length != declared:
        surplus = length - declared
        raise Failure(
            f"the blocks read {length} tokens, declared are {subject.info.num_prefix} + {subject.num_tokens} = "
            f"{declared}: "
            + (
                f"{surplus} class or register token(s) are not declared, and one may stand in the grid"
                if surplus > 0
                else f"{-surplus} token(s) are declared that are not there; a first patch may be taken for a prefix"
            )
        )
    return f"the blocks read {length} = {subject.info.num_prefix} + {subject.num_tokens} tokens"


def check_llm_tokens(subject: Subject) -> str:
    """`llm_tokens` are the tokens of `info.llm_tap`."""
    x, info = subject.images[:2], subject.info
    if not offers_llm_tokens(subject):
        raise Skip("the encoder has no blocks and is not offered to a language model")
    got = subject.encoder.llm_tokens(x)
    features = subject.encoder.features(x, info.llm_tap)
    parts = [features.tokens] if features.prefix is None else [features.prefix, features.tokens]
    wanted = torch.cat(parts, dim=1)
    if got.shape != wanted.shape:
        raise Failure(
            f"llm_tokens are {list(got.shape)}, and features at llm_tap are {list(wanted.shape)}"
            + _prefix_hint(got.shape[1] - wanted.shape[1] if got.ndim == 3 else 0)
        )
    if got.dtype != wanted.dtype:
        raise Failure(f"llm_tokens are {got.dtype}, and features are {wanted.dtype}")
    if (off := relative_difference(got, wanted)) > 0.0:
        raise Failure(f"llm_tokens differ by {off:.2g} from features at the declared llm_tap ({info.llm_tap})")
    return f"{list(got.shape)}, equal to features at llm_tap (layer {info.llm_tap.layer})"


def _as_latents(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    return tokens.float().transpose(1, 2).reshape(len(tokens), -1, *grid)


def check_latents(subject: Subject) -> str:
    """Latents are the tokens of `info.latent_tap`, transposed and reshaped, float32 and contiguous."""
    x, info = subject.images[:2], subject.info
    rows, columns = info.grid
    got = subject.encoder.latents(x)
    if got.dtype != torch.float32:
        raise Failure(f"latents are {got.dtype}, always float32 is promised: data statistics need it")
    if tuple(got.shape) != (len(x), info.dim, rows, columns):
        raise Failure(f"latents are {list(got.shape)}, declared are [{len(x)}, {info.dim}, {rows}, {columns}]")
    if not got.is_contiguous():
        raise Failure("latents are not contiguous: a reshape without .contiguous()")
    tokens = subject.tokens(x, info.latent_tap)
    bound = 1e-6 if tokens.dtype == torch.float32 else subject.tolerance
    off = relative_difference(got, _as_latents(tokens, info.grid))
    if off <= bound:
        return f"float32 {list(got.shape)}, equal to the tokens of latent_tap"
    likely = f"largest relative difference {off:.2g}"
    if relative_difference(got, _as_latents(tokens, (columns, rows)).transpose(2, 3)) <= bound:
        likely = "rows and columns of the grid are transposed"
    elif relative_difference(got, tokens.float().reshape(got.shape)) <= bound:
        likely = "the tokens were reshaped without transposing channels to the front"
    else:
        for name, tap in (("final", Tap()), ("llm_tap", info.llm_tap), ("no norm", Tap(norm="none"))):
            if not isinstance(refusal(lambda tap=tap: subject.tokens(x, tap)), OvbenchError) and (
                relative_difference(got, _as_latents(subject.tokens(x, tap), info.grid)) <= bound
            ):
                likely = f"they are the tokens of another tap ({name})"
                break
    raise Failure(f"latents are not the tokens of latent_tap transposed and reshaped: {likely}")


def check_resize(subject: Subject) -> str:
    """`latents(resize=True)` leaves pictures of the right size alone and takes pictures of another."""
    x = subject.images[:2]
    if relative_difference(subject.encoder.latents(x, resize=True), subject.encoder.latents(x)) > subject.tolerance:
        raise Failure("resize=True changes the latents of pictures that already have the encoder's size")
    half = F.interpolate(x, scale_factor=0.5, mode="area")
    try:
        got = subject.encoder.latents(half, resize=True)
    except OvbenchError as error:
        raise Skip(f"the encoder refuses to resize: {error.what}") from error
    wanted = subject.encoder.latents(x)
    if got.shape != wanted.shape:
        raise Failure(f"latents of resized pictures are {list(got.shape)}, not {list(wanted.shape)}")
    return f"{list(half.shape[2:])} px gives {list(got.shape)}"


def check_decode(subject: Subject) -> str:
    """Where `decode` is supported, it turns latents back into pictures in about [0, 1]."""
    if not subject.info.supports_decode:
        raise Skip("the encoder does not declare supports_decode")
    decode: Any = getattr(subject.encoder, "decode", None)
    if decode is None:
        raise Failure("supports_decode is declared, and there is no method decode")
    x = subject.images[:2]
    got = decode(subject.encoder.latents(x)).detach().cpu().float()
    if got.shape != x.shape:
        raise Failure(f"decode gives {list(got.shape)}, the pictures were {list(x.shape)}")
    if not bool(got.isfinite().all()):
        raise Failure("decode gives NaN or infinite values")
    low, high = float(got.min()), float(got.max())
    error = float((got - x).square().mean().sqrt())
    if subject.info.random_seed is None:
        for name, other in (("[-1, 1]", x * 2 - 1), ("0 … 255", x * 255)):
            if float((got - other).square().mean().sqrt()) < error:
                raise Failure(f"decode gives values {low:.2f} … {high:.2f}, nearer to {name} than to [0, 1]")
    return f"values {low:.2f} … {high:.2f}, RMS error {error:.3f}"
