from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ovbench.harness.pretraining.text.language_model import LanguageModelRecipe, build_model
from ovbench.harness.pretraining.text.tokenizer import vocabulary, write_tokenizer
from ovbench.tasks.world.captions import words


@pytest.fixture(scope="session")
def toy_language_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with an untrained two-layer language model of the world's vocabulary."""
    folder: Path = tmp_path_factory.mktemp("toy-lm")
    recipe = LanguageModelRecipe(width=32, layers=2, heads=2, mlp_width=48)
    build_model(recipe, vocabulary(words()), seed=0).save_pretrained(folder)
    write_tokenizer(folder, words(), max_length=recipe.max_length)
    return str(folder)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
