"""The recipes by name: the miniature ones that made the shipped weights, and OpenVision 3's at paper scale."""

from __future__ import annotations

from dataclasses import replace

from ovbench._base.errors import ConfigError
from ovbench._base.names import lookup
from ovbench.harness.pretraining.config import (
    ObjectiveConfig,
    PhaseConfig,
    PretrainRecipe,
    TextConfig,
    TrunkConfig,
)

_PIXEL_TRUNK = TrunkConfig(
    frontend="pixels",
    in_channels=3,
    input_size=64,
    downsampling=1,
    patch_size=8,
    width=128,
    layers=4,
    head_width=32,
    embed_dim=128,
)
_LATENT_TRUNK = replace(_PIXEL_TRUNK, frontend="tiny-vae", in_channels=16, downsampling=4, patch_size=2)
_MINI_TEXT = TextConfig(vocabulary_size=62, max_length=32, width=128, heads=4, encoder_layers=2, decoder_layers=2)
_MINI_PHASES = (
    PhaseConfig(name="low", resolution=32, steps=3000, batch_size=256, lr=1.5e-3, warmup_steps=100),
    PhaseConfig(name="full", resolution=64, steps=1500, batch_size=128, lr=6e-4, warmup_steps=50, single_every=3),
)
_CLIP = PretrainRecipe(
    name="clip",
    trunk=_PIXEL_TRUNK,
    text=_MINI_TEXT,
    objective=ObjectiveConfig(contrastive="softmax", caption=0.0, omega_rec=0.0),
    phases=_MINI_PHASES,
)
# Weights of arXiv 2601.15369v2, Table 1; the reconstruction branch sees half of each batch, which halves its cost.
_OVIS3_OBJECTIVE = ObjectiveConfig(contrastive="softmax", omega_rec=0.5, beta=0.4, noise_tau=0.5, rec_fraction=0.5)

MINI: dict[str, PretrainRecipe] = {
    "ovis3": replace(_CLIP, name="ovis3", trunk=_LATENT_TRUNK, objective=_OVIS3_OBJECTIVE),
    "clip": _CLIP,
    "siglip": replace(_CLIP, name="siglip", objective=replace(_CLIP.objective, contrastive="sigmoid")),
}


def _paper_phases(full_px: int) -> tuple[PhaseConfig, ...]:
    """Returns Table 1's two stages; an epoch is 1.28 million samples, rates are base x batch / 256 (OpenVision 1)."""
    epoch = 1_281_167
    return (
        PhaseConfig(
            name="low",
            resolution=128,
            steps=4000 * epoch // 8192,
            batch_size=8192,
            lr=8e-6 * 8192 / 256,
            warmup_steps=40 * epoch // 8192,
            lambda_lpips=0.0,
        ),
        PhaseConfig(
            name="full",
            resolution=full_px,
            steps=400 * epoch // 4096,
            batch_size=4096,
            lr=4e-7 * 4096 / 256,
            warmup_steps=20 * epoch // 4096,
            lambda_lpips=0.5,
        ),
    )


def _paper(name: str, width: int, layers: int, full_px: int) -> PretrainRecipe:
    return PretrainRecipe(
        name=name,
        trunk=TrunkConfig(
            frontend="flux-vae",
            in_channels=16,
            input_size=full_px,
            downsampling=8,
            patch_size=2,
            width=width,
            layers=layers,
            head_width=64,
            embed_dim=768,
        ),
        text=TextConfig(
            vocabulary_size=32000,
            max_length=128,
            width=width,
            heads=width // 64,
            encoder_layers=layers,
            decoder_layers=layers,
        ),
        objective=replace(_OVIS3_OBJECTIVE, rec_fraction=1.0, decoder_layers=12),
        phases=_paper_phases(full_px),
        group_size=1,
    )


PAPER: dict[str, PretrainRecipe] = {
    "ovis3-base-224": _paper("ovis3-base-224", 768, 12, 224),
    "ovis3-base-256": _paper("ovis3-base-256", 768, 12, 256),
    "ovis3-large-256": _paper("ovis3-large-256", 1024, 24, 256),
}


def find_recipe(name: str, protocol: str) -> PretrainRecipe:
    """Returns a recipe.

    Args:
        name: `ovis3`, `clip` or `siglip` under `mini`; `ovis3-base-224`, `ovis3-base-256` or `ovis3-large-256` under
            `openvision3`.
        protocol: `mini` or `openvision3`.

    Raises:
        ConfigError: An unknown recipe or protocol, with a suggestion.
    """
    tables = {"mini": MINI, "openvision3": PAPER}
    return lookup(lookup(tables, protocol, kind="protocol", where="--protocol"), name, kind="recipe", where="--recipe")


def smoke(recipe: PretrainRecipe) -> PretrainRecipe:
    """Returns a recipe that takes seconds: the same networks and losses, a few small steps per stage."""
    phases = tuple(
        replace(phase, steps=60 if number == 0 else 15, batch_size=64 if number == 0 else 32, warmup_steps=5)
        for number, phase in enumerate(recipe.phases)
    )
    return replace(recipe, phases=phases, checkpoint_every=20, probe_scenes=200)


def with_steps(recipe: PretrainRecipe, fraction: float) -> PretrainRecipe:
    """Returns the recipe with every stage's steps and warm-up multiplied by `fraction`."""
    if not 0.0 < fraction <= 100.0:
        raise ConfigError(f"a fraction of the schedule must be in (0, 100], got {fraction}", where="--fraction")
    phases = tuple(
        replace(p, steps=max(1, round(p.steps * fraction)), warmup_steps=round(p.warmup_steps * fraction))
        for p in recipe.phases
    )
    return replace(recipe, phases=phases)
