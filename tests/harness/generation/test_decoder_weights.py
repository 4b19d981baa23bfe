from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ovbench._base.errors import ConfigError, DataError
from ovbench.harness.generation.decoder import ViTDecoder
from ovbench.harness.generation.decoder_config import DECODERS, DecoderConfig
from ovbench.harness.generation.decoder_weights import config_of, load_decoder, read_decoder_state, save_decoder
from tests.harness.generation.rae_data import small_decoder

State = dict[str, Tensor]
HEADS = small_decoder().config.num_heads


def _autoencoder(decoder: ViTDecoder) -> State:
    """The state of a whole RAE of the reference: the encoder is there twice."""
    others = {"encoder.encoder.proj.weight": torch.ones(2), "encoder.proj.weight": torch.ones(2)}
    return {**others, **{f"decoder.{key}": value for key, value in decoder.state_dict().items()}}


def _training(decoder: ViTDecoder, live: ViTDecoder, wrap: str = "") -> dict[str, Any]:
    def wrapped(state: State) -> State:
        return {f"{wrap}{key}": value for key, value in state.items()}

    return {
        "step": 7,
        "epoch": 1,
        "model": wrapped(_autoencoder(live)),
        "ema": wrapped(_autoencoder(decoder)),
        "optimizer": {"state": {0: {"step": torch.tensor(7.0)}}, "param_groups": [{"lr": 2e-4, "params": [0]}]},
        "scheduler": {"last_epoch": 7, "base_lrs": [2e-4]},
        "disc": {"heads.0.0.0.weight_orig": torch.ones(1)},
    }


def _same(one: ViTDecoder, other: ViTDecoder) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[key]) for key, value in one.state_dict().items())


WRITERS: dict[str, Callable[[ViTDecoder, ViTDecoder], Any]] = {
    "decoder": lambda ema, live: ema.state_dict(),
    "wrapped decoder": lambda ema, live: {f"module._orig_mod.{k}": v for k, v in ema.state_dict().items()},
    "nested": lambda ema, live: {"state_dict": dict(ema.state_dict())},
    "autoencoder": lambda ema, live: _autoencoder(ema),
    "training": lambda ema, live: _training(ema, live),
    "wrapped training": lambda ema, live: _training(ema, live, wrap="module."),
    "compiled part": lambda ema, live: {f"decoder._orig_mod.{key}": value for key, value in ema.state_dict().items()},
}


@pytest.mark.parametrize("layout", WRITERS)
def test_every_layout_gives_the_averaged_decoder(tmp_path: Path, layout: str) -> None:
    ema, live = small_decoder(seed=1), small_decoder(seed=2)
    torch.save(WRITERS[layout](ema, live), tmp_path / "model.pt")
    loaded = load_decoder(tmp_path / "model.pt", num_heads=HEADS)
    assert loaded.config == ema.config
    assert _same(loaded, ema)
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_the_last_weights_are_there_on_request(tmp_path: Path) -> None:
    ema, live = small_decoder(seed=1), small_decoder(seed=2)
    torch.save(_training(ema, live), tmp_path / "ep-last.pt")
    assert _same(load_decoder(tmp_path / "ep-last.pt", weights="model", num_heads=HEADS), live)
    assert read_decoder_state(tmp_path / "ep-last.pt").origin == "ema"


def test_the_position_table_is_the_files(tmp_path: Path) -> None:
    decoder = small_decoder()
    with torch.no_grad():
        decoder.decoder_pos_embed.add_(1.0)
    save_decoder(tmp_path / "decoder.safetensors", decoder)
    loaded = load_decoder(tmp_path / "decoder.safetensors", decoder.config, frozen=False)
    assert torch.equal(loaded.decoder_pos_embed, decoder.decoder_pos_embed)
    assert loaded.decoder_pred.weight.requires_grad
    assert not loaded.decoder_pos_embed.requires_grad


def test_loading_draws_nothing_from_the_callers_generator(tmp_path: Path) -> None:
    save_decoder(tmp_path / "decoder.safetensors", small_decoder())
    before = torch.random.get_rng_state()
    load_decoder(tmp_path / "decoder.safetensors", num_heads=HEADS)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("name", ["vit-b", "vit-l", "vit-xl", "mini"])
def test_shapes_name_the_preset(name: str) -> None:
    with torch.device("meta"):
        tensors = ViTDecoder(DECODERS[name]).state_dict()
    assert config_of(tensors, where="file") == DECODERS[name]


def test_unknown_shapes_need_the_number_of_heads(tmp_path: Path) -> None:
    save_decoder(tmp_path / "decoder.safetensors", small_decoder())
    with pytest.raises(ConfigError) as error:
        load_decoder(tmp_path / "decoder.safetensors")
    assert "do not say how many attention heads" in error.value.what
    assert "width 16, 2 blocks and MLP 24" in error.value.what
    assert error.value.fix == "give num_heads"


def _without(key: str) -> Callable[[State], Any]:
    return lambda state: {name: value for name, value in state.items() if name != key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("decoder_norm.bias"), r"do not fit the architecture \(missing: decoder_norm.bias\)"),
        (_without("decoder_pos_embed"), r"\(missing: decoder_pos_embed\)"),
        (lambda state: {**state, "mask_token": torch.ones(1)}, r"\(unexpected: mask_token\)"),
        (lambda state: {**state, "decoder_norm.bias": torch.ones(3)}, "wrong shape: decoder_norm.bias"),
        (lambda state: {**state, "decoder_norm.bias": torch.full((16,), torch.nan)}, "NaN or infinite values"),
        (lambda state: {**state, "module.decoder_norm.bias": torch.ones(16)}, "two tensors for 'decoder_norm.bias'"),
        (lambda state: {"epoch": 3, **state}, "is not a dictionary of tensors: 'epoch' is a int"),
        (lambda state: {f"vit.{key}": value for key, value in state.items()}, "holds no decoder of RAE"),
        (lambda state: {}, r"holds no decoder of RAE \(it holds: nothing"),
        (lambda state: [1, 2], "holds a list, no weights"),
        (lambda state: {"ema": {"encoder.w": torch.ones(1)}}, "holds no decoder of RAE"),
    ],
)
def test_a_file_that_is_not_this_decoder_is_refused(
    tmp_path: Path, change: Callable[[State], Any], message: str
) -> None:
    decoder = small_decoder()
    torch.save(change(dict(decoder.state_dict())), tmp_path / "model.pt")
    with pytest.raises(DataError, match=message):
        load_decoder(tmp_path / "model.pt", decoder.config)


def test_a_decoder_of_another_size_is_refused(tmp_path: Path) -> None:
    save_decoder(tmp_path / "decoder.safetensors", small_decoder())
    wider = DecoderConfig(latent_dim=6, num_patches=16, patch_px=4, width=32, depth=2, num_heads=2, mlp_width=24)
    with pytest.raises(DataError, match="wrong shape: decoder_embed.bias: \\(16,\\) instead of \\(32,\\)"):
        load_decoder(tmp_path / "decoder.safetensors", wider)


def test_weights_that_a_checkpoint_lacks_are_not_replaced(tmp_path: Path) -> None:
    document = _training(small_decoder(), small_decoder())
    del document["ema"]
    torch.save(document, tmp_path / "ep-last.pt")
    with pytest.raises(ConfigError) as error:
        load_decoder(tmp_path / "ep-last.pt", num_heads=HEADS)
    assert error.value.what == "the training checkpoint 'ep-last.pt' holds no 'ema' weights, only 'model'"
    assert error.value.fix == "ask for weights='model'"


def test_diffusers_files_and_folders_are_sent_elsewhere(tmp_path: Path) -> None:
    state = {
        f"decoder.{key}".replace(".attention.attention.query.", ".attention.to_q."): value.contiguous()
        for key, value in small_decoder().state_dict().items()
    }
    save_file(state, tmp_path / "diffusion_pytorch_model.safetensors")
    with pytest.raises(DataError) as error:
        load_decoder(tmp_path / "diffusion_pytorch_model.safetensors")
    assert "is in diffusers' layout" in error.value.what
    with pytest.raises(DataError) as error:
        load_decoder(tmp_path)
    assert "diffusers_rae.import_folder" in error.value.fix


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return exec, ("raise SystemExit('ran')",)

    torch.save({"ema": Evil()}, tmp_path / "model.pt")
    with pytest.raises(DataError, match="holds pickled code or objects"):
        load_decoder(tmp_path / "model.pt")
