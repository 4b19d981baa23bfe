from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ovbench._base.errors import ConfigError, RecordError
from ovbench._base.files import read_jsonl
from ovbench._base.seeding import torch_generator
from ovbench.harness.understanding.config import LlavaConfig
from ovbench.harness.understanding.conversation import Tokenized
from ovbench.harness.understanding.decoding import long_option_scores, option_scores, prefill
from ovbench.harness.understanding.evaluate import answer, deranged, judge, read_predictions
from ovbench.harness.understanding.llava import Llava, build_llava, splice
from ovbench.harness.understanding.wording import option_ids, prompt_of
from ovbench.tasks.base import Prediction, Sample, TaskData, TaskSpec

DIM = 8


SPEC = TaskSpec(
    name="toy",
    version=1,
    title="toy",
    kind="choice",
    source={},
    prompt="{question}",
    scoring="likelihood",
    parser="option_text",
    metrics=("accuracy",),
    headline="accuracy",
    chance=0.25,
    family="mini",
)
CELLS = ("top-left", "top-right", "bottom-left", "bottom-right")


def question(item_id: str, image_id: str, text: str, options: tuple[str, ...] = CELLS) -> Sample:
    return Sample(
        item_id=item_id, image_id=image_id, question=text, prompt=text, options=options, answer=options[0], group="g"
    )


def task(samples: Sequence[Sample]) -> TaskData:
    def no_image(image_id: str) -> np.ndarray:
        raise AssertionError(image_id)

    return TaskData(
        spec=SPEC, samples=tuple(samples), digest="d", images_digest="i", image=no_image, num_total=len(samples)
    )


QUESTIONS = [
    question(f"q{number}", f"test-{number // 2}", text)
    for number, text in enumerate(
        ["Where is the boot?", "Where is the boot relative to the bag?", "Where is the item for the feet?"] * 7
    )
]


def tokens(image_ids: Sequence[str]) -> torch.Tensor:
    return torch.stack([3 * torch.randn(4, DIM, generator=torch_generator(0, image_id)) for image_id in image_ids])


@pytest.fixture(scope="module")
def model(toy_language_model: str) -> Llava:
    built = build_llava(LlavaConfig(language_model=toy_language_model), DIM, seed=0).eval()
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if parameter.ndim == 2 and "embed" not in name:
                parameter.mul_(6)  # an untrained model says nearly the same about everything
    return built


def asked(model: Llava, out: Path, *, control: str = "none", batch_size: int = 16) -> list[Prediction]:
    return answer(model, task(QUESTIONS), tokens, control=control, batch_size=batch_size, out=out)


def test_answers_do_not_depend_on_the_batch_size(model: Llava, tmp_path: Path) -> None:
    alone = asked(model, tmp_path / "1.jsonl", batch_size=1)
    together = asked(model, tmp_path / "16.jsonl", batch_size=16)
    assert [(item.raw, item.chosen) for item in alone] == [(item.raw, item.chosen) for item in together]
    assert len({item.raw for item in alone}) > 1
    assert max(len(item.raw.split()) for item in alone) > 1
    for left, right in zip(alone, together, strict=True):
        assert left.option_scores == pytest.approx(right.option_scores, abs=1e-4)


def test_greedy_answers_equal_those_of_transformers(model: Llava, tmp_path: Path) -> None:
    found = asked(model, tmp_path / "a.jsonl")
    for sample, item in list(zip(QUESTIONS, found, strict=True))[:6]:
        _, prompt = prompt_of(model, sample.prompt, has_image=True)
        batch = splice([prompt], num_visual=4, pad=model.pad, max_length=99)
        embeddings = model.embed(batch, tokens([sample.image_id]))
        ids = model.language_model.generate(
            inputs_embeds=embeddings,
            attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.long),
            max_new_tokens=8,
            do_sample=False,
        )[0]
        assert model.tokenizer.decode(ids, skip_special_tokens=True).strip() == item.raw


def test_one_token_shortcut_equals_reading_prompt_and_option(model: Llava) -> None:
    samples = QUESTIONS[:3]
    prompts = [prompt_of(model, sample.prompt, has_image=True) for sample in samples]
    visual = tokens([sample.image_id for sample in samples])
    with torch.inference_mode():
        state = prefill(model, [item for _, item in prompts], visual)
        options = [
            option_ids(model, text, item, sample.options, where="q")
            for (text, item), sample in zip(prompts, samples, strict=True)
        ]
        short = option_scores(model, state, options, visual)
        general = long_option_scores(model, state, options, visual, [0, 1, 2])
    for left, right in zip(short, general, strict=True):
        assert left == pytest.approx(right, abs=1e-4)


def test_long_options_are_scored_by_the_mean_over_their_tokens(model: Llava, tmp_path: Path) -> None:
    samples = [question("q", "test-0", "Which scene is this?", options=("winter", "red boot , blue bag"))]
    found = answer(model, task(samples), tokens, out=tmp_path / "a.jsonl")[0]
    _, prompt = prompt_of(model, samples[0].prompt, has_image=True)
    ids = model.tokenizer(" red boot , blue bag", add_special_tokens=False)["input_ids"]

    whole = Tokenized(ids=(*prompt.ids, *ids), labels=(-100,) * (len(prompt.ids) + len(ids)), image_at=prompt.image_at)
    with torch.inference_mode():
        logits = model(splice([whole], num_visual=4, pad=0, max_length=99), tokens(["test-0"]))[0].log_softmax(-1)
    values = [float(logits[len(logits) - len(ids) - 1 + place, token]) for place, token in enumerate(ids)]
    assert found.option_scores is not None
    assert found.option_scores[1] == pytest.approx(sum(values) / len(values), abs=1e-4)
    assert found.chosen == samples[0].options[found.option_scores.index(max(found.option_scores))]


def images_of(path: Path) -> list[str | None]:
    return [row["image_id"] for row in read_jsonl(path)]


def test_shuffled_shows_every_question_another_image(model: Llava, tmp_path: Path) -> None:
    plain = asked(model, tmp_path / "a.jsonl")
    found = asked(model, tmp_path / "b.jsonl", control="shuffled")
    shown = {sample.image_id: other for other, sample in zip(images_of(tmp_path / "b.jsonl"), QUESTIONS, strict=True)}
    assert all(other not in (None, image_id) for image_id, other in shown.items())
    assert len(set(shown.values())) == len(shown)
    assert [item.option_scores for item in found] != [item.option_scores for item in plain]


def test_derangement_is_fixed_by_the_seed() -> None:
    ids = [f"i{number}" for number in range(50)]
    assert deranged(ids, 1) == deranged(ids[::-1], 1) != deranged(ids, 2)
    with pytest.raises(ConfigError, match="fewer than two"):
        deranged(["a", "a"], 0)


def test_blind_looks_at_no_image(model: Llava, tmp_path: Path) -> None:
    def refuse(image_ids: Sequence[str]) -> torch.Tensor:
        raise AssertionError

    found = answer(model, task(QUESTIONS), refuse, control="blind", out=tmp_path / "a.jsonl")
    assert images_of(tmp_path / "a.jsonl") == [None] * len(QUESTIONS)
    by_question = {(sample.prompt, item.raw) for sample, item in zip(QUESTIONS, found, strict=True)}
    assert len(by_question) == 3


@pytest.mark.parametrize("num_kept", [0, 3, 16, 18])
def test_a_killed_run_continues_behind_the_last_whole_line(model: Llava, tmp_path: Path, num_kept: int) -> None:
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    expected = asked(model, whole)
    lines = whole.read_text(encoding="utf-8").splitlines(keepends=True)
    cut.write_text("".join(lines[:num_kept]) + lines[num_kept][:25], encoding="utf-8")
    assert asked(model, cut) == expected
    assert cut.read_bytes() == whole.read_bytes()


def test_a_finished_file_is_read_without_the_model(model: Llava, tmp_path: Path) -> None:
    expected = asked(model, tmp_path / "a.jsonl")

    def refuse(image_ids: Sequence[str]) -> torch.Tensor:
        raise AssertionError

    again = answer(model, task(QUESTIONS), refuse, batch_size=16, out=tmp_path / "a.jsonl")
    assert again == expected == read_predictions(tmp_path / "a.jsonl")


def test_answers_to_other_questions_are_refused(model: Llava, tmp_path: Path) -> None:
    asked(model, tmp_path / "a.jsonl")
    with pytest.raises(RecordError, match="line 1 answers 'q0'"):
        asked(model, tmp_path / "a.jsonl", control="blind")


def test_a_model_in_training_mode_is_refused(toy_language_model: str, tmp_path: Path) -> None:
    training = build_llava(LlavaConfig(language_model=toy_language_model), DIM, seed=0).train()
    with pytest.raises(ConfigError, match="training mode"):
        asked(training, tmp_path / "a.jsonl")


def test_an_unknown_control_is_refused(model: Llava, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown control 'dark'"):
        asked(model, tmp_path / "a.jsonl", control="dark")


def test_likelihood_tasks_score_the_likeliest_option_and_keep_the_free_answer() -> None:
    found = judge(SPEC, QUESTIONS[0], "Top-right.", (-0.5, -0.9, -2.0, -3.0))
    assert (found.chosen, found.parsed, found.correct) == ("top-left", "top-right", True)


def test_greedy_tasks_score_what_the_parser_reads() -> None:
    spec = replace(SPEC, kind="yesno", scoring="greedy", parser="yesno_strict")
    sample = question("q", "test-0", "Is there a bag in the image?", options=("yes", "no"))
    assert judge(spec, sample, "yes", (-2.0, -0.1)).correct
    unread = judge(spec, sample, "maybe", (-0.1, -2.0))
    assert (unread.parsed, unread.chosen, unread.correct) == (None, None, False)


def test_predictions_are_read_from_a_steps_folder(model: Llava, tmp_path: Path) -> None:
    assert asked(model, tmp_path / "answers.jsonl") == read_predictions(tmp_path)
