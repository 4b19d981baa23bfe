"""LLaVA: a projector and any causal language model, joined by splicing visual rows into the token embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ovbench._base.errors import DataError
from ovbench.harness.checkpoint import load_tensors, save_tensors
from ovbench.harness.parallel import ALONE, Processes
from ovbench.harness.sharding import whole_state
from ovbench.harness.understanding.config import LlavaConfig
from ovbench.harness.understanding.conversation import IGNORED, Template, Tokenized, template
from ovbench.harness.understanding.language_model import Precision, load_language_model, width_of
from ovbench.harness.understanding.projector import build_projector, check_projector, projector_widths

__all__ = [
    "PROJECTOR_PREFIX", "Llava", "Spliced", "build_llava", "load_language_model", "load_llava", "load_weights",
    "save_llava", "splice",
]  # fmt: skip
PROJECTOR_PREFIX = "model.mm_projector."  # the original implementation's name, beside the language model's own keys


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
        """The id used behind sequences; its value is never seen.

        Llama 2 has no padding mark, and `<unk>` (0) stands for it, as in the reference; elsewhere the end mark does.
        """
        rows = len(self.language_model.get_input_embeddings().weight)
        tokens = self.tokenizer
        for found in (tokens.pad_token_id, tokens.unk_token_id, tokens.eos_token_id):
            if found is not None and int(found) < rows:
                return int(found)
        return 0

    @property
    def end_ids(self) -> frozenset[int]:
        """The ids that end an answer: the template's, the tokenizer's and those of the model's generation settings."""
        tokens, form = self.tokenizer, self.form
        found: set[int] = set() if tokens.eos_token_id is None else {int(tokens.eos_token_id)}
        for mark in (*(() if form.bare else (form.stop,)), *form.other_stops):
            number = tokens.convert_tokens_to_ids(mark)
            if number is not None and (number != tokens.unk_token_id or mark == tokens.unk_token):
                found.add(int(number))
        if form.bare:  # a caption ends with its line, where the tokenizer has a token for that
            line = tokens(form.stop, add_special_tokens=False)["input_ids"][-1:]
            found |= {int(number) for number in line if tokens.decode([number]) == form.stop}
        stated = getattr(getattr(self.language_model, "generation_config", None), "eos_token_id", None)
        return frozenset(found | set([] if stated is None else [stated] if isinstance(stated, int) else stated))

    def embed(self, batch: Spliced, visual: torch.Tensor | None) -> torch.Tensor:
        """Returns the spliced embeddings `[B, T, width]`.

        Where a batch without images is learnt from, the projector still stands in the graph (with no rows of an
        all-zero image, as in the reference), so that processes with and without images average the same gradients.

        Args:
            batch: The layout.
            visual: Visual tokens `[images, N, C]`, one entry per sample with an image; None without images.

        Raises:
            DataError: Fewer visual tokens than the layout asks for, or of another width than the projector reads.
        """
        text = self.language_model.get_input_embeddings()(batch.ids.to(self.device)).flatten(0, 1)
        table = text
        if visual is not None and len(visual):
            table = torch.cat([text, self._project(visual).flatten(0, 1).to(text.dtype)])
        elif torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self.projector.parameters()):
            dim, _ = projector_widths(self.projector)
            table = torch.cat([text, self._project(text.new_zeros(1, 1, dim)).flatten(0, 1)[:0].to(text.dtype)])
        if int(batch.index.max()) >= len(table):
            raise DataError(f"{len(table)} embedding rows are too few for the layout", where="visual tokens")
        return table.index_select(0, batch.index.flatten().to(table.device)).unflatten(0, batch.index.shape)

    def _project(self, visual: torch.Tensor) -> torch.Tensor:
        dim, _ = projector_widths(self.projector)
        if visual.shape[-1] != dim:
            raise DataError(
                f"the projector reads visual tokens of width {dim}, and these have {visual.shape[-1]}",
                where="visual tokens",
                fix="use the encoder that the projector was trained with",
            )
        weight = next(self.projector.parameters())
        return self.projector(visual.to(self.device, weight.dtype))

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


def build_llava(
    config: LlavaConfig,
    dim: int,
    *,
    seed: int,
    stage: int = 2,
    device: str = "cpu",
    dtype: Precision = "float32",
    attn: str | None = None,
) -> Llava:
    """Returns an untrained LLaVA: a fresh projector in front of the language model as stored.

    Args:
        config: The recipe.
        dim: Width of the visual tokens.
        seed: Initialisation of the projector.
        stage: Whose template it speaks.
        device: Torch device.
        dtype: Of the language model's weights; the projector's are float32.
        attn: Kernel of the language model's attention; None: see `load_language_model`.
    """
    model, tokenizer = load_language_model(config.language_model, device=device, dtype=dtype, attn=attn)
    projector = build_projector(config.projector, dim, width_of(model), seed=seed).to(device)
    form = template(config.stage(stage).template, stop=tokenizer.eos_token, tokenizer=tokenizer)
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
    tensors = {f"{PROJECTOR_PREFIX}{key}": value for key, value in whole_state(model.projector).items()}
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
        key.removeprefix(PROJECTOR_PREFIX): value for key, value in tensors.items() if key.startswith(PROJECTOR_PREFIX)
    }
    rest = {key: value for key, value in tensors.items() if not key.startswith(PROJECTOR_PREFIX)}
    check_projector(projector, *projector_widths(model.projector), where=str(path))
    try:
        model.projector.load_state_dict(projector)
        if rest:
            model.language_model.load_state_dict(rest)
    except RuntimeError as error:
        raise DataError(f"the weights do not fit the model: {error}", where=str(path)) from error


def load_llava(
    weights: Path,
    config: LlavaConfig,
    *,
    dim: int,
    stage: int = 2,
    device: str = "cpu",
    dtype: Precision = "float32",
    attn: str | None = None,
) -> Llava:
    """Returns a trained LLaVA, ready to answer.

    Args:
        weights: What `train_llava` returned.
        config: The recipe it was trained with.
        dim: Width of the visual tokens.
        stage: Whose template it speaks.
        device: Torch device.
        dtype: Of the language model's weights.
        attn: Kernel of the language model's attention; None: see `load_language_model`.
    """
    model = build_llava(config, dim, seed=0, stage=stage, device=device, dtype=dtype, attn=attn)
    load_weights(weights, model)
    return model.eval()
