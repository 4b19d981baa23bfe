from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ovbench._base.errors import ConfigError, DataError
from ovbench.harness.understanding.config import LlavaConfig
from ovbench.harness.understanding.conversation import IGNORED, Tokenized
from ovbench.harness.understanding.llava import (
    Llava,
    Spliced,
    build_llava,
    load_language_model,
    load_llava,
    load_weights,
    save_llava,
    splice,
)
from ovbench.harness.understanding.losses import TokenLoss, num_learnt

DIM, NUM_VISUAL = 6, 3


@pytest.fixture
def model(toy_language_model: str) -> Llava:
    return build_llava(LlavaConfig(language_model=toy_language_model), DIM, seed=0).eval()


def mean_loss(model: Llava, batch: Spliced, visual: torch.Tensor | None) -> torch.Tensor:
    return TokenLoss(model, autocast=False)(batch, visual) / num_learnt(batch)


def sample(ids: tuple[int, ...], image_at: int | None) -> Tokenized:
    return Tokenized(ids=ids, labels=(IGNORED,) * (len(ids) - 1) + ids[-1:], image_at=image_at)


def test_visual_rows_stand_where_the_image_mark_was(model: Llava) -> None:
    batch = splice([sample((1, 4, 7, 8), 2)], num_visual=NUM_VISUAL, pad=0, max_length=99)
    visual = torch.randn(1, NUM_VISUAL, DIM)
    found = model.embed(batch, visual)[0]
    table = model.language_model.get_input_embeddings().weight
    wanted = torch.cat([table[[1, 4]], model.projector(visual)[0], table[[7, 8]]])
    assert torch.equal(found, wanted)
    assert batch.targets[0].tolist() == [IGNORED] * 6 + [8]


def test_each_sample_gets_its_own_image_also_between_samples_without_one(model: Llava) -> None:
    samples = [sample((1, 9), None), sample((1, 4, 7), 1), sample((1, 7), None), sample((1, 5), 1)]
    batch = splice(samples, num_visual=NUM_VISUAL, pad=0, max_length=99)
    visual = torch.randn(2, NUM_VISUAL, DIM)
    found, rows = model.embed(batch, visual), model.projector(visual)
    assert torch.allclose(found[1, 1:4], rows[0])
    assert torch.allclose(found[3, 1:4], rows[1])
    assert batch.lengths.tolist() == [2, 6, 2, 5]


def test_padding_changes_no_logits(model: Llava) -> None:
    short, long = sample((1, 4, 7), 2), sample((1, 4, 7, 8, 9, 10, 11), 2)
    visual = torch.randn(2, NUM_VISUAL, DIM)
    alone = model(splice([short], num_visual=NUM_VISUAL, pad=0, max_length=99), visual[:1])
    together = model(splice([short, long], num_visual=NUM_VISUAL, pad=0, max_length=99), visual)
    assert torch.allclose(alone[0], together[0, : alone.shape[1]], atol=1e-5)


def test_loss_equals_cross_entropy_of_all_logits(model: Llava) -> None:
    samples = [sample((1, 4, 7), 2), sample((1, 4, 7, 8, 9), 2), sample((1, 5), None)]
    batch = splice(samples, num_visual=NUM_VISUAL, pad=0, max_length=99)
    visual = torch.randn(2, NUM_VISUAL, DIM)
    logits = model(batch, visual)
    picked = [
        torch.log_softmax(logits[row, length - 2], -1)[item.ids[-1]]
        for row, (item, length) in enumerate(zip(samples, batch.lengths.tolist(), strict=True))
    ]
    assert torch.allclose(mean_loss(model, batch, visual), -torch.stack(picked).mean(), atol=1e-6)


def test_text_only_batch_keeps_the_projector_in_the_graph_with_no_gradient(model: Llava) -> None:
    batch = splice([sample((1, 5, 7), None)], num_visual=0, pad=0, max_length=9)
    mean_loss(model, batch, None).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.any()) != name.startswith("projector."), name


def test_mixed_batch_learns_as_the_mean_of_its_parts(model: Llava) -> None:
    pictured, plain = sample((1, 4, 7), 1), sample((1, 5, 6), None)
    visual = torch.randn(1, NUM_VISUAL, DIM)
    losses = [
        mean_loss(model, splice(rows, num_visual=NUM_VISUAL, pad=0, max_length=9), seen)
        for rows, seen in (([plain, pictured], visual), ([plain], None), ([pictured], visual))
    ]
    assert torch.allclose(losses[0], (losses[1] + losses[2]) / 2, atol=1e-6)


def test_answering_without_images_runs_no_projector(model: Llava) -> None:
    model.projector = torch.nn.Linear(DIM, 32)
    model.projector.forward = None  # type: ignore[method-assign,assignment]
    with torch.inference_mode():
        model(splice([sample((1, 5), None)], num_visual=0, pad=0, max_length=9), None)


def test_visual_tokens_of_another_width_are_refused(model: Llava) -> None:
    batch = splice([sample((1, 4, 7), 2)], num_visual=NUM_VISUAL, pad=0, max_length=99)
    with pytest.raises(DataError, match="reads visual tokens of width 6, and these have 7"):
        model.embed(batch, torch.randn(1, NUM_VISUAL, DIM + 1))


def test_visual_tokens_of_another_precision_are_read(model: Llava) -> None:
    batch = splice([sample((1, 4, 7), 2)], num_visual=NUM_VISUAL, pad=0, max_length=99)
    visual = torch.randn(1, NUM_VISUAL, DIM).bfloat16()
    assert torch.equal(model.embed(batch, visual), model.embed(batch, visual.float()))


def test_too_few_visual_rows_are_refused(model: Llava) -> None:
    batch = splice([sample((1, 4, 7), 2)], num_visual=NUM_VISUAL, pad=0, max_length=99)
    with pytest.raises(DataError, match="too few"):
        model.embed(batch, None)


def test_long_samples_are_cut_after_splicing() -> None:
    batch = splice([sample((1, 4, 7, 8), 2)], num_visual=NUM_VISUAL, pad=0, max_length=6)
    assert batch.lengths.tolist() == [6]
    assert batch.index.shape == batch.targets.shape == (1, 6)


def test_saved_weights_come_back(model: Llava, toy_language_model: str, tmp_path: Path) -> None:
    path = tmp_path / "stage2.safetensors"
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    save_llava(path, model, with_language_model=True, metadata={})
    again = load_llava(path, LlavaConfig(language_model=toy_language_model), dim=DIM)
    assert not again.training
    for (name, left), (_, right) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(left, right), name


def test_weights_of_another_width_are_refused(model: Llava, toy_language_model: str, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_llava(path, model, with_language_model=False, metadata={})
    other = build_llava(LlavaConfig(language_model=toy_language_model), DIM + 1, seed=0)
    with pytest.raises(
        DataError, match="do not fit the model: the projector reads visual tokens of width 6, .* have 7"
    ):
        load_weights(path, other)


def test_a_folder_without_a_language_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no language model can be loaded"):
        load_language_model(str(tmp_path))
