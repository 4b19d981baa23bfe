"""What `ovbench pretrain` does: resolve a recipe, train, and write weights with a note of how they were made."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ovbench._base.errors import ConfigError
from ovbench._base.files import folder_lock, write_json
from ovbench._base.fingerprint import file_sha256
from ovbench._base.names import unknown
from ovbench._base.paths import asset
from ovbench.harness.events import Listener, Reporter
from ovbench.harness.pretraining.config import PretrainRecipe, VAERecipe, WardrobeRecipe
from ovbench.harness.pretraining.recipes import MINI, find_recipe, smoke, with_steps
from ovbench.tasks.world.draw import Sprites, embedded_sprites, read_fashion_mnist

log = logging.getLogger(__name__)
_EXTRA = ("vae", "lm", "wardrobe")


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainRequest:
    """One call of `ovbench pretrain`."""

    recipe: str
    protocol: str = "mini"
    out: Path = Path("pretrained")
    seed: int = 0
    sprites: Path | None = None  # folder with the original Fashion-MNIST files; None: the embedded subset
    vae: Path | None = None  # weights of the frozen VAE; None: the embedded one
    fraction: float = 1.0  # of the recipe's steps
    smoke: bool = False
    threads: int = 1  # of matrix products on CPU

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ConfigError(f"a seed must be 0 or more, got {self.seed}", where="--seed")
        if self.threads < 1:
            raise ConfigError(f"threads must be 1 or more, got {self.threads}", where="--threads")
        if not 0.0 < self.fraction <= 100.0:
            raise ConfigError(
                f"a fraction of the schedule must be in (0, 100], got {self.fraction}", where="--fraction"
            )

    @property
    def folder(self) -> Path:
        """Where checkpoints, logs and weights go: recipes, seeds and lengths never share one, so nothing is lost."""
        length = "-smoke" if self.smoke else f"-x{self.fraction:g}" if self.fraction != 1.0 else ""
        return self.out / f"{self.recipe}-seed{self.seed}{length}"

    @property
    def command(self) -> str:
        """The command line that makes the same file."""
        parts = [f"ovbench pretrain --recipe {self.recipe} --protocol {self.protocol} --seed {self.seed}"]
        parts += ["--sprites FASHION_MNIST_FOLDER"] if self.sprites else []
        parts += ["--vae VAE_FILE"] if self.vae else []
        parts += [f"--fraction {self.fraction:g}"] if self.fraction != 1.0 else []
        parts += ["--smoke"] if self.smoke else []
        return " ".join(parts)


def run_pretraining(request: PretrainRequest, listener: Listener) -> dict[str, Any]:
    """Trains and returns `weights` (path), `figures` (probes or losses), `command`, `seed`, `data` and `log`.

    The same is written as `<recipe>.training.json` beside the weights; the loss curves lie in `*.log.jsonl`.

    Raises:
        ConfigError: An unknown recipe, or one that the embedded world cannot feed.
        RecordError: Another process is using the folder.
    """
    _check_names(request)
    _warn_of_no_effect(request)
    import torch

    torch.set_num_threads(request.threads)
    train, test = _sprites(request)
    folder = request.folder
    with folder_lock(folder, purpose="training"):
        reporter = Reporter(request.recipe, listener)
        if request.recipe == "vae":
            made = _vae(request, reporter, train, test)
        elif request.recipe == "lm":
            made = _language_model(request, reporter)
        elif request.recipe == "wardrobe":
            made = _wardrobe(request, reporter, train, test)
        else:
            made = _encoder(request, reporter, train, test)
        note = {
            "command": request.command,
            "data": "text of the garment world"
            if request.recipe == "lm"
            else {"test_sprites": test.digest, "train_sprites": train.digest},
            "seed": request.seed,
            "threads": request.threads,
            "torch": torch.__version__,
            **made,
        }
        weights = Path(made["weights"])
        if weights.is_file():
            note["sha256"] = file_sha256(weights)
        write_json(folder / f"{request.recipe}.training.json", {**note, "weights": weights.name})
    return note


def _check_names(request: PretrainRequest) -> None:
    if request.protocol == "mini" and request.recipe not in MINI:
        if request.recipe not in _EXTRA:
            raise unknown("recipe", request.recipe, [*MINI, *_EXTRA], where="--recipe")
        return
    find_recipe(request.recipe, request.protocol)


def _warn_of_no_effect(request: PretrainRequest) -> None:
    idle = []
    if request.sprites is not None and request.recipe == "lm":
        idle.append("--sprites")
    if request.vae is not None and request.recipe != "ovis3":
        idle.append("--vae")
    if request.smoke and request.fraction != 1.0:
        idle.append("--fraction (with --smoke)")
    for setting in idle:
        log.warning("%s has no effect on the recipe '%s'", setting, request.recipe)


def _sprites(request: PretrainRequest) -> tuple[Sprites, Sprites]:
    if request.sprites is None:
        return embedded_sprites("train"), embedded_sprites("test")
    return read_fashion_mnist(request.sprites, "train"), read_fashion_mnist(request.sprites, "test")


def _vae(request: PretrainRequest, reporter: Reporter, train: Sprites, test: Sprites) -> dict[str, Any]:
    from ovbench.harness.pretraining.train_vae import train_vae

    recipe = VAERecipe()
    steps = 40 if request.smoke else max(1, round(recipe.steps * request.fraction))
    recipe = replace(
        recipe, steps=steps, batch_size=32 if request.smoke else recipe.batch_size, warmup_steps=min(100, steps // 4)
    )
    figures = train_vae(
        request.folder,
        train_sprites=train,
        test_sprites=test,
        recipe=recipe,
        seed=request.seed,
        progress=reporter.step("vae"),
    )
    return {"weights": str(request.folder / "vae.safetensors"), "figures": figures, "recipe": asdict(recipe)}


def _wardrobe(request: PretrainRequest, reporter: Reporter, train: Sprites, test: Sprites) -> dict[str, Any]:
    from ovbench.harness.pretraining.train_wardrobe import train_wardrobe

    recipe = WardrobeRecipe()
    if request.smoke:
        recipe = replace(recipe, steps=60, batch_size=64, warmup_steps=15, num_measured=1000)
    elif request.fraction != 1.0:
        steps = max(1, round(recipe.steps * request.fraction))
        recipe = replace(recipe, steps=steps, warmup_steps=round(recipe.warmup_steps * request.fraction))
    figures = train_wardrobe(
        request.folder,
        train_sprites=train,
        test_sprites=test,
        recipe=recipe,
        seed=request.seed,
        progress=reporter.step("wardrobe"),
    )
    return {"weights": str(request.folder / "wardrobe.safetensors"), "figures": figures, "recipe": asdict(recipe)}


def _language_model(request: PretrainRequest, reporter: Reporter) -> dict[str, Any]:
    from ovbench.harness.pretraining.text.language_model import DEFAULT_STEPS, train_language_model

    steps = 40 if request.smoke else max(1, round(DEFAULT_STEPS * request.fraction))
    figures = train_language_model(request.folder, steps=steps, seed=request.seed, progress=reporter.step("lm"))
    return {"weights": str(request.folder), "figures": figures, "recipe": {"steps": steps}}


def _encoder(request: PretrainRequest, reporter: Reporter, train: Sprites, test: Sprites) -> dict[str, Any]:
    from ovbench.harness.pretraining.train import pretrain

    recipe: PretrainRecipe = with_steps(find_recipe(request.recipe, request.protocol), request.fraction)
    if request.smoke:
        recipe = smoke(recipe)
    needs_vae = recipe.trunk.frontend != "pixels"
    result = pretrain(
        recipe,
        request.folder,
        seed=request.seed,
        train_sprites=train,
        test_sprites=test,
        vae_weights=(request.vae or asset("encoders/vae-mini.safetensors")) if needs_vae else None,
        phase_progress=reporter.step,
    )
    if result.decoder is not None:
        log.info("the decoder that was trained together with these tokens: %s", result.decoder)
    figures = {f"probe_{name}": value for name, value in result.probes.items()}
    for phase in recipe.phases:  # stages have different captions, so their losses are not one curve
        rows = [row for row in result.log if row["stage"] == phase.name]
        figures |= {f"{phase.name}_loss_first": rows[0]["loss"], f"{phase.name}_loss_last": rows[-1]["loss"]}
    return {"weights": str(result.weights), "figures": figures, "recipe": asdict(recipe)}
