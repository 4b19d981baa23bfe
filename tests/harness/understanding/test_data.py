from __future__ import annotations

from collections import Counter

import pytest

from ovbench._base.errors import ConfigError, DataError
from ovbench.harness.understanding.config import LlavaConfig, StageConfig
from ovbench.harness.understanding.data import Order, WorldTrainingData
from ovbench.tasks.world.captions import scene_caption


def test_every_sample_is_seen_once_per_pass() -> None:
    order = Order(seed=0, stage=2, size=10)
    seen = Counter(pair for step in range(10) for pair in order(step, 4))
    assert seen == {(index, visit): 1 for index in range(10) for visit in range(4)}


def test_the_order_of_a_step_does_not_depend_on_earlier_steps() -> None:
    running = Order(seed=0, stage=2, size=10)
    steps = [running(step, 4) for step in range(12)]
    assert Order(seed=0, stage=2, size=10)(11, 4) == steps[11]
    assert Order(seed=0, stage=2, size=10)(7, 4) == steps[7]
    assert Order(seed=1, stage=2, size=10)(7, 4) != steps[7]


def test_stage_one_is_the_caption_and_stage_two_are_questions() -> None:
    data = WorldTrainingData(seed=0, num_scenes=5, num_turns=4)
    caption = data.conversation(1, 3, 0)
    assert caption.image_id == "train-000003"
    assert [item.text for item in caption.messages] == ["<image>\n", scene_caption(data.scene(3))]
    dialogue = data.conversation(2, 3, 0)
    assert len(dialogue.messages) == 8
    assert dialogue.messages[0].text.startswith("<image>\n")
    assert not any("<image>" in item.text for item in dialogue.messages[1:])


def test_passes_ask_other_questions_unless_told_not_to() -> None:
    assert WorldTrainingData(seed=0).conversation(2, 1, 0) != WorldTrainingData(seed=0).conversation(2, 1, 1)
    fixed = WorldTrainingData(seed=0, new_questions=False)
    assert fixed.conversation(2, 1, 0) == fixed.conversation(2, 1, 1)


def test_training_never_asks_for_a_test_image() -> None:
    assert all(image_id.startswith("train-") for image_id in WorldTrainingData(seed=0, num_scenes=20).image_ids(2))


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="num_scenes"):
        WorldTrainingData(seed=0, num_scenes=0)
    with pytest.raises(ConfigError, match="no language model"):
        LlavaConfig(language_model="")
    with pytest.raises(ConfigError, match="lr must be positive"):
        StageConfig(steps=1, batch_size=1, lr=0.0, template="v1")


def test_warm_up_is_rounded_up() -> None:
    assert StageConfig(steps=300, batch_size=1, lr=1.0, template="v1", warmup_ratio=0.03).warmup_steps == 9
    assert StageConfig(steps=310, batch_size=1, lr=1.0, template="v1", warmup_ratio=0.03).warmup_steps == 10


def test_images_are_drawn_by_name() -> None:
    data = WorldTrainingData(seed=0, num_scenes=5)
    image = data.image("train-000003")
    assert (image.shape, image.dtype.name) == ((64, 64, 3), "uint8")
    with pytest.raises(DataError, match="no training image 'train-000005'"):
        data.image("train-000005")


def test_the_digest_changes_with_every_setting() -> None:
    base = {"seed": 0, "num_scenes": 5, "num_turns": 4, "new_questions": True}
    others = [{"seed": 1}, {"num_scenes": 6}, {"num_turns": 5}, {"new_questions": False}, {}]
    assert len({WorldTrainingData(**{**base, **other}).digest for other in others}) == len(others)
    assert WorldTrainingData(**base).digest == WorldTrainingData(**base).digest
