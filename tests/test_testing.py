"""The report of `check_encoder`: what it accepts, how it reads, and that every registered encoder passes."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ovbench._base.errors import ConfigError
from ovbench.encoders.base import Encoder, Family, Features, LoadRequest, PreprocessSpec, Tap
from ovbench.encoders.modeling.frozen import weights_digest
from ovbench.encoders.modeling.tokens import Network, TokenEncoder
from ovbench.encoders.modeling.trunk import untrained_trunk
from ovbench.encoders.registry import EncoderSpec, families, load_encoder, parse_encoder
from ovbench.testing import CheckReport, check_encoder, rows_of

MINI = [f"{f.key}/{v.name}" for f in families().values() for v in f.variants if v.protocol == "mini"]


def _spec(load: Callable[[int], Encoder]) -> EncoderSpec:
    """A spec of a family that knows `weights=random:SEED`; `load` gets the seed."""

    def from_request(request: LoadRequest) -> Encoder:
        return load(int(request.options.get("weights", "random:7").removeprefix("random:")))

    spec = parse_encoder("random/mini")
    family = Family(
        key="seeded", title="", variants=spec.family.variants, load=from_request, options={"weights": "random:SEED"}
    )
    return replace(spec, family=family)


def _parts(name: str, seed: int) -> dict[str, Any]:
    vit = untrained_trunk(seed)
    network = Network(
        model=vit,
        blocks=tuple(vit.transformer.resblocks),
        run=vit,
        dim=128,
        grid=(8, 8),
        num_prefix=1,
    )
    return {"name": name, "network": network, "input": PreprocessSpec(size=(64, 64))}


def _seeded(seed: int) -> TokenEncoder:
    encoder = TokenEncoder(**_parts("seeded/mini", seed))
    encoder._info = replace(encoder._info, random_seed=seed)
    return encoder


@pytest.mark.parametrize("spec", MINI)
def test_every_registered_mini_encoder_passes(spec: str) -> None:
    check_encoder(spec).raise_if_failed()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_lower_precision_passes_under_its_own_bounds(dtype: str) -> None:
    report = check_encoder("ovis3/mini", dtype=dtype)  # type: ignore[arg-type]
    report.raise_if_failed()
    assert dtype in report["features"].detail


@pytest.mark.gpu
@pytest.mark.parametrize("spec", MINI)
def test_every_registered_mini_encoder_passes_on_a_gpu(spec: str) -> None:
    check_encoder(spec, device="cuda").raise_if_failed()


def test_another_seed_and_batch_change_no_outcome() -> None:
    outcomes = [
        [(result.name, result.outcome) for result in check_encoder("clip/mini", seed=seed, batch=batch).results]
        for seed, batch in ((0, 4), (5, 2), (6, 7))
    ]
    assert outcomes[0] == outcomes[1] == outcomes[2]


def test_a_built_encoder_is_checked_and_what_needs_a_second_build_is_skipped() -> None:
    report = check_encoder(load_encoder("clip/mini"))
    assert report.passed
    assert report["fingerprint-builds"].outcome == report["random-weights"].outcome == "skipped"
    assert "factory" in report["fingerprint-builds"].detail


def test_a_class_is_a_factory() -> None:
    class Mine(TokenEncoder):
        def __init__(self) -> None:
            super().__init__(**_parts("mine", 3))

    report = check_encoder(Mine)
    assert report.encoder == "mine"
    assert report["fingerprint-builds"].outcome == "passed"


def test_random_weights_are_checked_where_the_family_offers_them() -> None:
    report = check_encoder(_spec(_seeded))
    report.raise_if_failed()
    assert report["random-weights"].outcome == "passed"


def _ignores_the_seed(seed: int) -> Encoder:
    encoder = _seeded(0)
    encoder._info = replace(encoder._info, random_seed=seed)
    return encoder


def _is_not_marked(seed: int) -> Encoder:
    encoder = _seeded(seed)
    encoder._info = replace(encoder._info, random_seed=None)
    return encoder


def _draws_anew() -> Callable[[int], Encoder]:
    seeds: Iterator[int] = count(100)

    def load(seed: int) -> Encoder:
        encoder = _seeded(seed if seed == 7 else next(seeds))
        encoder._info = replace(encoder._info, random_seed=seed)
        return encoder

    return load


@pytest.mark.parametrize(
    ("load", "text"),
    [
        (_ignores_the_seed, "does not depend on the weights"),
        (_is_not_marked, "results are not marked"),
        (_draws_anew(), "do not come from the seed alone"),
    ],
)
def test_faulty_random_weights_are_named(load: Callable[[int], Encoder], text: str) -> None:
    report = check_encoder(_spec(load))
    assert [result.name for result in report.failures] == ["random-weights"]
    assert text in report["random-weights"].detail


def test_random_weights_are_skipped_with_the_reason() -> None:
    without = replace(parse_encoder("clip/mini"), family=replace(families()["clip"], provider="another package"))
    assert check_encoder(without)["random-weights"].detail == "the encoder 'clip' has no option 'weights'"
    assert "a built encoder" in check_encoder(load_encoder("random"))["random-weights"].detail


class Breaks(TokenEncoder):
    """Fails inside its own code."""

    def __init__(self) -> None:
        super().__init__(**_parts("breaks", 3))

    def features(self, images_01: Tensor, tap: Tap | None = None) -> Features:
        raise KeyError("lost")


def test_an_adapter_that_raises_fails_its_checks_and_the_report_goes_on() -> None:
    report = check_encoder(Breaks)
    assert not report.passed
    assert report["features"].outcome == "failed"
    assert "raised KeyError at test_testing.py:" in report["features"].detail
    assert report["prepare"].outcome == report["frozen"].outcome == "passed"


class Refuses(Breaks):
    """Refuses every picture."""

    def features(self, images_01: Tensor, tap: Tap | None = None) -> Features:
        raise ConfigError("no picture is good enough")


def test_an_adapter_that_refuses_correct_calls_fails() -> None:
    report = check_encoder(Refuses)
    assert report["features"].detail == "a correct call was refused: no picture is good enough"
    assert report["locality-latents"].outcome == "failed"


def test_an_object_that_is_no_encoder_is_named_with_what_it_lacks() -> None:
    class Half:
        info = None

        def features(self) -> None: ...

    report = check_encoder(Half())  # type: ignore[arg-type]
    assert not report.passed
    (result,) = report.results
    assert (
        result.detail
        == "Half has no prepare, llm_tokens, latents, fingerprint: it does not follow the Encoder protocol"
    )


def test_a_torch_module_that_is_no_encoder_is_not_taken_for_a_factory() -> None:
    module = torch.nn.Linear(2, 2)
    module.info = None  # type: ignore[assignment]
    assert "has no prepare" in check_encoder(module).results[0].detail  # type: ignore[arg-type]


def test_the_report_reads_as_a_table_and_ends_a_test() -> None:
    report = check_encoder(Breaks)
    with pytest.raises(AssertionError) as error:
        report.raise_if_failed()
    text = str(error.value)
    assert text.startswith(f"encoder breaks: {len(report.failures)} of {len(report.results)} checks failed\n")
    assert len(text.splitlines()) == 1 + len(report.results)
    assert rows_of(report)[0] == {"check": "protocol", "outcome": "passed", "detail": "6 members are there"}
    assert [row["check"] for row in rows_of(report)] == [result.name for result in report.results]


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown encoder 'clyp'"):
        check_encoder("clyp")
    with pytest.raises(ConfigError, match="at least 2 pictures, got 1"):
        check_encoder("clip/mini", batch=1)
    with pytest.raises(ConfigError, match="spec string names"):
        check_encoder(Breaks, dtype="bfloat16")


def test_the_callers_random_state_mode_and_encoder_are_left_alone() -> None:
    encoder = load_encoder("clip/mini")
    assert isinstance(encoder, TokenEncoder)
    digest = weights_digest(encoder)
    torch.manual_seed(11)
    random.seed(11)
    np.random.seed(11)
    expected = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    with torch.inference_mode():
        report: CheckReport = check_encoder(encoder)
        assert torch.is_inference_mode_enabled()
    report.raise_if_failed()
    assert torch.equal(torch.get_rng_state(), expected[0])
    assert random.getstate() == expected[1]
    assert np.random.get_state()[1].tolist() == expected[2]  # type: ignore[index]
    assert weights_digest(encoder) == digest
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in encoder.modules())


def test_importing_it_loads_no_torch() -> None:
    code = "import sys, ovbench.testing; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
