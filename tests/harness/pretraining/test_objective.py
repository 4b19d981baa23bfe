"""The losses against slow, obvious code, and the masks that keep false negatives out."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from ovbench.harness.pretraining.data import BOS, EOS, encode_caption, scene_batch, single_batch
from ovbench.harness.pretraining.objective import (
    caption_loss,
    noisy,
    quadrant_rows,
    sigmoid_contrastive,
    softmax_contrastive,
)
from ovbench.tasks.world.draw import embedded_sprites


@pytest.fixture
def vectors() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    image, text = (F.normalize(torch.randn(5, 8, generator=generator), dim=1) for _ in range(2))
    allowed = torch.rand(5, 5, generator=generator) < 0.7
    return image, text, allowed | torch.eye(5, dtype=torch.bool)


def test_softmax_contrastive_equals_the_double_loop(vectors: tuple[torch.Tensor, ...]) -> None:
    image, text, allowed = vectors
    total = 0.0
    for i in range(5):
        over_texts = sum(math.exp(7.0 * float(image[i] @ text[j])) for j in range(5) if allowed[i, j])
        over_images = sum(math.exp(7.0 * float(image[j] @ text[i])) for j in range(5) if allowed[j, i])
        hit = 7.0 * float(image[i] @ text[i])
        total += 0.5 * (math.log(over_texts) - hit + math.log(over_images) - hit)
    assert float(softmax_contrastive(image, text, torch.tensor(7.0), allowed)) == pytest.approx(total / 5, rel=1e-5)


def test_sigmoid_contrastive_equals_the_double_loop(vectors: tuple[torch.Tensor, ...]) -> None:
    image, text, allowed = vectors
    total = 0.0
    for i in range(5):
        for j in range(5):
            if allowed[i, j]:
                logit = 10.0 * float(image[i] @ text[j]) - 10.0
                total += math.log1p(math.exp(-logit if i == j else logit))
    loss = sigmoid_contrastive(image, text, torch.tensor(10.0), torch.tensor(-10.0), allowed)
    assert float(loss) == pytest.approx(total / 5, rel=1e-5)


def test_caption_loss_is_the_mean_over_words_that_are_there() -> None:
    ids = torch.tensor([[BOS, 5, EOS, 0], [BOS, 4, 6, EOS]])
    logits = torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(0))
    steps = [(0, 0, 5), (0, 1, EOS), (1, 0, 4), (1, 1, 6), (1, 2, EOS)]
    expected = -sum(float(logits[b, t].log_softmax(0)[word]) for b, t, word in steps) / len(steps)
    assert float(caption_loss(logits, ids)) == pytest.approx(expected, rel=1e-5)


def test_noise_has_one_level_per_image_within_tau() -> None:
    tokens = torch.zeros(400, 16, 32)
    levels = noisy(tokens, 0.5, torch.Generator().manual_seed(0)).flatten(1).std(dim=1)
    assert float(levels.max()) < 0.55
    assert float(levels.min()) < 0.05
    assert float(levels.mean()) == pytest.approx(0.25, abs=0.03)
    assert torch.equal(noisy(tokens, 0.0, torch.Generator()), tokens)


def test_quadrants_are_in_raster_order() -> None:
    rows = quadrant_rows(torch.arange(4), 4)
    assert rows.tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]


def test_captions_that_are_true_of_another_image_are_no_negatives() -> None:
    batch = single_batch(0, 0, 96, embedded_sprites("train"))
    (ids,), (allowed,) = batch.captions, batch.allowed
    same = (ids[:, None] == ids[None]).all(dim=-1)
    assert bool(allowed.diagonal().all())
    assert torch.equal(~allowed, same & ~torch.eye(96, dtype=torch.bool))
    assert int((~allowed).sum()) > 0


def test_a_scene_batch_has_hard_negatives_and_two_captions() -> None:
    batch = scene_batch(0, 0, 8, embedded_sprites("train"), group_size=4)
    assert batch.images_pm1.shape == (8, 3, 64, 64)
    assert float(batch.images_pm1.min()) >= -1.0
    assert float(batch.images_pm1.max()) <= 1.0
    short, full = batch.captions
    assert short.shape[1] == 5
    assert full.shape[1] > short.shape[1]
    assert full[0, 1] == full[3, 1]  # the theme, which a group shares


def test_batches_depend_on_the_step_alone() -> None:
    sprites = embedded_sprites("train")
    one, same, other = (scene_batch(0, step, 4, sprites) for step in (3, 3, 4))
    assert torch.equal(one.images_pm1, same.images_pm1)
    assert torch.equal(one.captions[0], same.captions[0])
    assert not torch.equal(one.images_pm1, other.images_pm1)


def test_captions_begin_and_end_with_marks() -> None:
    ids = encode_caption("red boot top-left")
    assert ids[0] == BOS
    assert ids[-1] == EOS
    assert len(ids) == 5
