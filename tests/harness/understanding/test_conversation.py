from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ovbench._base.errors import ConfigError, DataError
from ovbench.harness.pretraining.text.tokenizer import write_tokenizer
from ovbench.harness.understanding.conversation import (
    IGNORED,
    Message,
    apply_image_rule,
    question_prompt,
    render,
    template,
    tokenize,
)
from ovbench.tasks.world.captions import words

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "llava_prompts.json").read_text(encoding="utf-8"))


def messages(sample: dict[str, Any]) -> tuple[Message, ...]:
    found = tuple(Message(role=turn["from"], text=turn["value"]) for turn in sample["conversations"])
    return apply_image_rule(found) if "image" in sample else found


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, words(), max_length=512)
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("case", GOLDEN["train"], ids=lambda case: case["sample"]["id"])
def test_training_text_and_learnt_spans_equal_the_reference(case: dict[str, Any]) -> None:
    turns = messages(case["sample"])
    assert [turn.text for turn in turns] == [turn["value"] for turn in case["turns_after_image_rule"]]
    rendered = render(template(case["template"]), turns)
    assert rendered.text == case["prompt"]
    assert [list(span) for span in rendered.spans] == case["supervised_spans"]
    assert bool(rendered.masked) == (case["reference_warning"] is not None)


@pytest.mark.parametrize("case", GOLDEN["eval"])
def test_question_prompts_equal_the_reference(case: dict[str, Any]) -> None:
    assert question_prompt(template("v1"), case["user_text"], has_image=case["image"]) == case["prompt"]


@pytest.mark.parametrize("case", GOLDEN["eval_multi_turn"])
def test_open_dialogues_equal_the_reference(case: dict[str, Any]) -> None:
    turns: list[Message] = []
    for asked, replied in case["turns"]:
        turns.append(Message(role="human", text=asked))
        if replied is not None:
            turns.append(Message(role="gpt", text=replied))
    assert render(template("v1"), turns).text == case["prompt"]


def test_without_strict_reference_an_answer_that_holds_separators_is_learnt() -> None:
    turns = [Message(role="human", text="Q?"), Message(role="gpt", text="USER: go ASSISTANT: stop")]
    rendered = render(template("v1_short"), turns, strict_reference=False)
    assert [rendered.text[low:high] for low, high in rendered.spans] == [" USER: go ASSISTANT: stop</s>"]


def test_the_stop_mark_can_be_the_models_own() -> None:
    turns = [Message(role="human", text="Q?"), Message(role="gpt", text="A")]
    assert render(template("v1_short", stop="<|end|>"), turns).text == "USER: Q? ASSISTANT: A<|end|>"
    assert template("plain", stop="<|end|>").stop == "\n"


def test_two_humans_in_a_row_are_refused() -> None:
    turns = [Message(role="human", text="a"), Message(role="human", text="b")]
    with pytest.raises(DataError, match="utterance 2 is by 'human'"):
        render(template("v1"), turns)


def test_an_unknown_template_suggests_a_near_one() -> None:
    with pytest.raises(ConfigError, match="unknown template 'v1_shor'") as caught:
        template("v1_shor")
    assert "v1_short" in caught.value.fix


def test_only_answers_and_their_end_marks_are_learnt(tokenizer: Any) -> None:
    turns = [
        Message(role="human", text="<image>\nWhere is the boot?"),
        Message(role="gpt", text="top-left"),
        Message(role="human", text="Is there a bag in the image?"),
        Message(role="gpt", text="no"),
    ]
    rendered = render(template("v1_short"), turns)
    found = tokenize(tokenizer, rendered.text, rendered.spans, has_image=True)
    learnt = [label for label in found.labels if label != IGNORED]
    assert tokenizer.convert_ids_to_tokens(learnt) == ["top-left", "</s>", "no", "</s>"]
    assert tokenizer.convert_ids_to_tokens(list(found.ids[:3])) == ["<s>", "USER:", "where"]
    assert found.image_at == 2


def test_plain_learns_the_caption_behind_the_image(tokenizer: Any) -> None:
    turns = [Message(role="human", text="<image>\n"), Message(role="gpt", text="red boot top-left .")]
    rendered = render(template("plain"), turns)
    found = tokenize(tokenizer, rendered.text, rendered.spans, has_image=True)
    assert found.image_at == 1
    assert found.labels == (IGNORED, *found.ids[1:])


def test_two_image_marks_are_refused(tokenizer: Any) -> None:
    with pytest.raises(DataError, match="holds 2 image marks"):
        tokenize(tokenizer, "<image> <image>", has_image=True)


def test_a_tokenizer_without_offsets_is_refused() -> None:
    with pytest.raises(ConfigError, match="no character offsets"):
        tokenize(object(), "red", has_image=False)


@pytest.mark.parametrize("trim_offsets", [True, False])
def test_masks_hold_for_a_byte_level_tokenizer_whose_tokens_carry_blanks(trim_offsets: bool) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    text = "USER: Who is there? ASSISTANT: A boy.</s>USER: Is it loud? ASSISTANT: No</s>"
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    inner.train_from_iterator([text] * 20, trainers.BpeTrainer(vocab_size=200, special_tokens=["</s>"]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>")
    turns = [
        Message(role="human", text="Who is there?"),
        Message(role="gpt", text="A boy."),
        Message(role="human", text="Is it loud?"),
        Message(role="gpt", text="No"),
    ]
    rendered = render(template("v1_short"), turns)
    found = tokenize(tokenizer, rendered.text, rendered.spans, has_image=False)
    assert tokenizer.decode([label for label in found.labels if label != IGNORED]) == " A boy.</s> No</s>"
    assert tokenizer.decode([token for token, label in zip(found.ids, found.labels, strict=True) if label < 0]) == (
        "USER: Who is there? ASSISTANT:USER: Is it loud? ASSISTANT:"
    )


# What `preprocess_v1` of the reference makes of them, worked out by hand from its code: it cuts the finished text.
@pytest.mark.parametrize(
    ("texts", "learnt"),
    [
        (["Q", "", "R", "B"], [" B</s>"]),  # an empty answer in the middle leaves one round with one separator
        (["Q", "A", "", "B"], []),  # an empty question leaves a round without one
        (["Q", "A", "R"], []),  # the last question has no answer
        (["Q", "A</s>"], []),  # two stop marks side by side end the count too early
        (["Q", "A</s>USER: R ASSISTANT: B"], [" A</s>", " B</s>"]),  # an answer that holds a whole round
        (["Q</s>", "A"], []),
        (["Q ASSISTANT: P", "A"], []),
        (["Q ASSISTANT:", "A"], [" ASSISTANT: A</s>"]),  # the first of two overlapping separators is the cut
        ([" ", "A"], [" A</s>"]),
        (["Q", " "], ["  </s>"]),
    ],
)
def test_reference_masks_follow_the_cuts_of_the_text(texts: list[str], learnt: list[str]) -> None:
    turns = [Message(role="gpt" if number % 2 else "human", text=text) for number, text in enumerate(texts)]
    rendered = render(template("v1"), turns, opens=False)
    assert [rendered.text[low:high] for low, high in rendered.spans] == learnt
    assert bool(rendered.masked) == (not learnt)


def test_a_speaker_who_says_nothing_leaves_the_mark_alone() -> None:
    turns = [Message(role="human", text=""), Message(role="gpt", text="")]
    assert render(template("v1_short"), turns).text == "USER:ASSISTANT:"


def test_a_training_text_may_end_with_the_question() -> None:
    turns = [Message(role="human", text="Q")]
    assert render(template("v1_short"), turns, opens=False).text == "USER: Q "
    assert render(template("v1_short"), turns).text == "USER: Q ASSISTANT:"


def test_begin_mark_is_put_only_where_the_tokenizer_puts_one() -> None:
    from tests.harness.understanding import llava_layouts as layouts

    words = layouts.tokenizer()
    assert tokenize(words, "USER:", has_image=False).ids[0] == words.bos_token_id
    assert tokenize(words, "<s>USER:", has_image=False).ids.count(words.bos_token_id) == 1
    words.backend_tokenizer.post_processor = None
    assert tokenize(words, "USER:", has_image=False).ids[0] != words.bos_token_id
