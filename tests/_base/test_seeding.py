from __future__ import annotations

import torch

from ovbench._base.seeding import derive, numpy_generator, torch_generator


def test_derived_seed_never_changes() -> None:
    assert derive(0, "world/scene", "train", 3) == 312809685750621088


def test_seed_fits_every_generator() -> None:
    assert all(0 <= derive(seed, "x", index) < 2**63 for seed in (0, 1, 2**40) for index in range(50))


def test_every_label_counts() -> None:
    seeds = {
        derive(0),
        derive(1),
        derive(0, "a"),
        derive(0, "b"),
        derive(0, "a", 0),
        derive(0, "a", 1),
        derive(0, 0, "a"),
    }
    assert len(seeds) == 7


def test_labels_are_not_glued_together() -> None:
    assert derive(0, "ab", "c") != derive(0, "a", "bc")


def test_number_and_its_text_are_different_labels() -> None:
    assert derive(0, 1) != derive(0, "1")


def test_numpy_draws_repeat_and_differ_by_index() -> None:
    first, again, other = (numpy_generator(7, "noise", index).standard_normal(4) for index in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).all()


def test_torch_draws_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    first, again, other = (torch.randn(4, generator=torch_generator(7, "noise", index)) for index in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())
