"""LLaVA: a projector and any causal language model, joined by splicing visual rows into the token embeddings."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.lazy import require
from ovbench.harness.checkpoint import load_tensors, save_tensors
from ovbench.harness.parallel import ALONE, Processes
from ovbench.harness.sharding import whole_state
from ovbench.harness.understanding.config import LlavaConfig
from ovbench.harness.understanding.conversation import IGNORED, Template, Tokenized, template
from ovbench.harness.understanding.projector import build_projector

_PROJECTOR_PREFIX = "model.mm_projector."  # the original implementation's name, beside the language model's own keys


@dataclass(frozen=True, kw_only=True, slots=True)
class Spliced:
    """Right-padded sequences with room for visual rows. T counts text and visual positions."""

    ids: torch.Tensor  # int64 [B, L], text only
    index: torch.Tensor  # int64 [B, T] into text embeddings (B * L rows), then visual rows (images * N rows)
    lengths: torch.Tensor  # int64 [B], positions in use
    targets: torch.Tensor  # int64 [B, T]: the token at each position where it is learnt, IGNORED elsewhere


def splice(samples: Sequence[Tokenized], *, num_visual: int, pad: int, max_length: int) -> Spliced:
    """Lays out a batch: visual rows where the image mark was, everything behind them moved up.

    Args:
        samples: Samples with an image take the visual rows in order of appearance.
        num_visual: Visual rows per image.
        pad: Any id; padding lies behind the sequences, where a causal model never looks from inside.
        max_length: Positions kept.
    """
    width = max(len(sample.ids) for sample in samples)
    ids = torch.full((len(samples), width), pad, dtype=torch.int64)
    rows: list[torch.Tensor] = []
    targets: list[torch.Tensor] = []
    images = 0
    for number, sample in enumerate(samples):
        ids[number, : len(sample.ids)] = torch.tensor(sample.ids)
        row = torch.arange(len(sample.ids)) + number * width
        labels = torch.tensor(sample.labels)
        if sample.image_at is not None:
            at = sample.image_at
            visual = torch.arange(num_visual) + len(samples) * width + images * num_visual
            row = torch.cat([row[:at], visual, row[at:]])
            labels = torch.cat([labels[:at], torch.full((num_visual,), IGNORED), labels[at:]])
            images += 1
        rows.append(row[:max_length])
        targets.append(labels[:max_length])
    lengths = torch.tensor([len(row) for row in rows])
    longest = int(lengths.max())
    index = torch.stack([torch.cat([row, row[-1:].expand(longest - len(row))]) for row in rows])
    filler = torch.tensor([IGNORED])
    target = torch.stack([torch.cat([row, filler.expand(longest - len(row))]) for row in targets])
    return Spliced(ids=ids, index=index, lengths=lengths, targets=target)


class Llava(nn.Module):
    """Answers about visual tokens.

    Args:
        language_model: Any causal language model of transformers that takes `inputs_embeds` and `logits_to_keep`.
        tokenizer: Its fast tokenizer.
        projector: Visual tokens → embeddings.
        form: Template of the questions.
        max_length: Positions after splicing.
    """

    def __init__(
        self, language_model: nn.Module, tokenizer: Any, projector: nn.Module, form: Template, *, max_length: int = 2048
    ) -> None:
        super().__init__()
        self.language_model: Any = language_model
        self.projector = projector
        self.tokenizer = tokenizer
        self.form = form
        self.max_length = max_length

    @property
    def pad(self) -> int:
        """The id used behind sequences; its value is never seen."""
        found = self.tokenizer.pad_token_id
        return int(found) if found is not None else 0

    def embed(self, batch: Spliced, visual: torch.Tensor | None) -> torch.Tensor:
        """Returns the spliced embeddings `[B, T, width]`.

        Args:
            batch: The layout.
            visual: Visual tokens `[images, N, C]`, one entry per sample with an image; None without images.
        """
        text = self.language_model.get_input_embeddings()(batch.ids.to(self.device)).flatten(0, 1)
        table = text
        if visual is not None and len(visual):
            rows = self.projector(visual.to(self.device)).flatten(0, 1)
            table = torch.cat([text, rows.to(text.dtype)])
        if int(batch.index.max()) >= len(table):
            raise DataError(f"{len(table)} embedding rows are too few for the layout", where="visual tokens")
        return table.index_select(0, batch.index.flatten().to(table.device)).unflatten(0, batch.index.shape)

    @property
    def device(self) -> torch.device:
        """Where the language model is."""
        return self.language_model.get_input_embeddings().weight.device

    def forward(self, batch: Spliced, visual: torch.Tensor | None, *, keep: torch.Tensor | None = None) -> torch.Tensor:
        """Returns logits `[B, kept, V]` of the positions `keep` (all when None), positions counted after splicing.

        No attention mask is passed: sequences are padded on the right and attention is causal, so real positions
        never see padding.
        """
        embeddings = self.embed(batch, visual)
        positions = torch.arange(embeddings.shape[1], device=embeddings.device)[None]
        return self.language_model(
            inputs_embeds=embeddings,
            position_ids=positions.expand(len(embeddings), -1),
            use_cache=False,
            logits_to_keep=0 if keep is None else keep.to(embeddings.device),
        ).logits

    def loss(self, batch: Spliced, visual: torch.Tensor | None) -> torch.Tensor:
        """Returns the mean negative log-likelihood of the learnt tokens; logits are made at their positions only.

        Raises:
            DataError: Nothing in the batch is learnt.
        """
        wanted = batch.targets[:, 1:]
        columns = (wanted != IGNORED).any(0).nonzero().flatten()
        if not len(columns):
            raise DataError("no token of this batch is learnt", where="training data", fix="check the label masks")
        logits = self(batch, visual, keep=columns)
        return nn.functional.cross_entropy(
            logits.flatten(0, 1).float(), wanted[:, columns].flatten().to(logits.device), ignore_index=IGNORED
        )


@contextlib.contextmanager
def _without_bars(settings: Any) -> Iterator[None]:
    """Keeps transformers' own progress bars off the terminal, which belongs to the command line."""
    shown = settings.is_progress_bar_enabled()
    settings.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            settings.enable_progress_bar()


def load_language_model(name: str, *, device: str = "cpu") -> tuple[nn.Module, Any]:
    """Returns a causal language model in float32 and its tokenizer.

    Attention is `eager` on the CPU, where the fused kernel is slow in bfloat16, and `sdpa` elsewhere.

    Args:
        name: A folder, or a hub id (then transformers' own offline settings hold).
        device: Torch device.

    Raises:
        ConfigError: Nothing can be loaded from there.
    """
    transformers = require("transformers", purpose="understanding")
    try:
        with _without_bars(transformers.utils.logging):
            tokenizer = transformers.AutoTokenizer.from_pretrained(name)
            model = transformers.AutoModelForCausalLM.from_pretrained(
                name, dtype=torch.float32, attn_implementation="eager" if device == "cpu" else "sdpa"
            )
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"no language model can be loaded from '{name}': {str(error).splitlines()[0]}",
            where="language_model",
            fix="give a folder with config.json, model.safetensors and tokenizer.json",
        ) from error
    return model.to(device), tokenizer


def build_llava(config: LlavaConfig, dim: int, *, seed: int, stage: int = 2, device: str = "cpu") -> Llava:
    """Returns an untrained LLaVA: a fresh projector in front of the language model as stored.

    Args:
        config: The recipe.
        dim: Width of the visual tokens.
        seed: Initialisation of the projector.
        stage: Whose template it speaks.
        device: Torch device.
    """
    model, tokenizer = load_language_model(config.language_model, device=device)
    width = model.get_input_embeddings().weight.shape[1]  # type: ignore[operator]
    projector = build_projector(config.projector, dim, width, seed=seed).to(device)
    form = template(config.stage(stage).template, stop=tokenizer.eos_token)
    return Llava(model, tokenizer, projector, form, max_length=config.max_length)


def save_llava(
    path: Path,
    model: Llava,
    *,
    with_language_model: bool,
    metadata: Mapping[str, str],
    processes: Processes = ALONE,
) -> None:
    """Writes the projector, and the language model where it was trained, under the original implementation's keys.

    Args:
        path: The file; the main process writes it.
        model: Sharded or not: the file holds whole tensors.
        with_language_model: Write it too.
        metadata: Words that go with it.
        processes: All call this together.
    """
    tensors = {f"{_PROJECTOR_PREFIX}{key}": value for key, value in whole_state(model.projector).items()}
    if with_language_model:
        tensors |= whole_state(model.language_model)  # copies, because safetensors refuses tied tensors
    if processes.is_main:
        save_tensors(path, tensors, metadata)


def load_weights(path: Path, model: Llava) -> None:
    """Loads what `save_llava` wrote into a model of the same shape.

    Raises:
        DataError: The file is damaged or belongs to another architecture.
    """
    tensors = load_tensors(path)
    projector = {
        key.removeprefix(_PROJECTOR_PREFIX): value
        for key, value in tensors.items()
        if key.startswith(_PROJECTOR_PREFIX)
    }
    rest = {key: value for key, value in tensors.items() if not key.startswith(_PROJECTOR_PREFIX)}
    try:
        model.projector.load_state_dict(projector)
        if rest:
            model.language_model.load_state_dict(rest)
    except RuntimeError as error:
        raise DataError(f"the weights do not fit the model: {error}", where=str(path)) from error


def load_llava(weights: Path, config: LlavaConfig, *, dim: int, stage: int = 2, device: str = "cpu") -> Llava:
    """Returns a trained LLaVA, ready to answer.

    Args:
        weights: What `train_llava` returned.
        config: The recipe it was trained with.
        dim: Width of the visual tokens.
        stage: Whose template it speaks.
        device: Torch device.
    """
    model = build_llava(config, dim, seed=0, stage=stage, device=device)
    load_weights(weights, model)
    return model.eval()
