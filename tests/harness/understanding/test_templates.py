from __future__ import annotations

from typing import Any

import pytest

from ovbench._base.errors import ConfigError, DataError
from ovbench.harness.understanding.conversation import (
    IGNORED,
    Message,
    question_prompt,
    render,
    template,
    tokenize,
)
from tests.harness.understanding import llava_layouts as layouts

TURNS = [
    Message(role="human", text="<image>\nWhat is it?"),
    Message(role="gpt", text="A red boot."),
    Message(role="human", text="Is it new?"),
    Message(role="gpt", text="no"),
]
CHATML = (
    "{%- if messages[0]['role'] != 'system' %}{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}"
    "{%- endif %}{%- for message in messages %}{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] "
    "+ '<|im_end|>' + '\\n' }}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
LLAMA_3 = (
    "{{- bos_token }}{%- for message in messages %}{{- '<|start_header_id|>' + message['role'] + "
    "'<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"
)
FORGETS = CHATML.replace(
    "+ message['content'] ", "+ (message['content'] if loop.last or message['role'] == 'user' else '…') "
)


def learnt(words: Any, form: Any, turns: list[Message], *, has_image: bool = True) -> list[str]:
    rendered = render(form, turns)
    found = tokenize(words, rendered.text, rendered.spans, has_image=has_image)
    runs: list[list[int]] = [[]]
    for label in found.labels:
        if label == IGNORED:
            runs.append([])
        else:
            runs[-1].append(label)
    return [words.decode(run) for run in runs if run]


def test_llama_3_is_what_llava_next_writes() -> None:
    head = "<|start_header_id|>{}<|end_header_id|>\n\n"
    text = (
        f"{head.format('system')}You are a helpful language and vision assistant. You are able to understand the "
        "visual content that the user provides, and assist the user with a variety of tasks using natural language."
        f"<|eot_id|>{head.format('user')}<image>\nWhat is it?<|eot_id|>{head.format('assistant')}A red boot.<|eot_id|>"
        f"{head.format('user')}Is it new?<|eot_id|>{head.format('assistant')}"
    )
    assert render(template("llama_3"), TURNS[:3]).text == text


def test_llama_3_equals_metas_own_template_behind_that_system_sentence() -> None:
    words = layouts.tokenizer(LLAMA_3)
    form = template("llama_3", tokenizer=words)
    system = form.system.removesuffix("<|eot_id|>").rpartition("\n\n")[2]
    messages = [
        {"role": "system", "content": system},
        *({"role": {"human": "user", "gpt": "assistant"}[turn.role], "content": f" {turn.text} "} for turn in TURNS),
    ]
    spaced = [Message(role=turn.role, text=f" {turn.text} ") for turn in TURNS]
    assert words.apply_chat_template(messages, tokenize=False) == "<s>" + render(form, spaced).text


def test_qwen_is_chatml_with_its_system_sentence() -> None:
    assert question_prompt(template("qwen"), "What is it?", has_image=True) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<image>\nWhat is it?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("name", "end"), [("v1", "</s>"), ("v1_short", "</s>"), ("llama_3", "<|eot_id|>"), ("qwen", "<|im_end|>")]
)
def test_answers_and_their_end_marks_alone_are_learnt(name: str, end: str) -> None:
    words = layouts.tokenizer()
    lead = " " if name.startswith("v1") else ""
    assert learnt(words, template(name, tokenizer=words), TURNS) == [f"{lead}A red boot.{end}", f"{lead}no{end}"]


@pytest.mark.parametrize("source", [CHATML, LLAMA_3], ids=["chatml", "llama 3"])
def test_chat_learns_answers_and_end_marks_of_the_tokenizers_own_template(source: str) -> None:
    words = layouts.tokenizer(source)
    form = template("chat", tokenizer=words)
    end = "<|im_end|>" if source is CHATML else "<|eot_id|>"
    assert form.stop == end
    assert learnt(words, form, TURNS) == [f"A red boot.{end}", f"no{end}"]


def test_chat_and_qwen_are_the_same_for_a_chatml_tokenizer() -> None:
    words = layouts.tokenizer(CHATML)
    own, named = template("chat", tokenizer=words), template("qwen", tokenizer=words)
    assert render(own, TURNS) == render(named, TURNS)
    assert question_prompt(own, "What?", has_image=True) == question_prompt(named, "What?", has_image=True)


@pytest.mark.parametrize("name", ["v1", "v1_short", "llama_3", "qwen", "chat"])
@pytest.mark.parametrize("source", [CHATML, LLAMA_3], ids=["chatml", "llama 3"])
def test_questions_are_asked_as_they_were_learnt(name: str, source: str) -> None:
    words = layouts.tokenizer(source)
    form = template(name, tokenizer=words)
    asked = tokenize(words, question_prompt(form, "What is it?", has_image=True), has_image=True)
    rendered = render(form, TURNS[:2])
    trained = tokenize(words, rendered.text, rendered.spans, has_image=True)
    first = next(place for place, label in enumerate(trained.labels) if label != IGNORED)
    assert trained.ids[:first] == asked.ids
    assert trained.image_at == asked.image_at
    assert asked.ids.count(words.bos_token_id) == 1


def test_chat_without_a_chat_template_names_the_file_and_the_way_out() -> None:
    with pytest.raises(ConfigError, match="no chat template") as caught:
        template("chat", tokenizer=layouts.tokenizer())
    assert "chat_template.jinja" in caught.value.fix
    assert "llama_3" in caught.value.fix


def test_chat_template_that_closes_answers_with_no_token_is_refused() -> None:
    with pytest.raises(ConfigError, match="could not learn to end"):
        template("chat", tokenizer=layouts.tokenizer(CHATML.replace("<|im_end|>", ".")))


def test_chat_template_that_rewrites_earlier_turns_is_refused_where_it_does() -> None:
    form = template("chat", tokenizer=layouts.tokenizer(FORGETS))
    assert len(render(form, TURNS[:2]).spans) == 1
    with pytest.raises(DataError, match="rewrites turn 2 of 4") as caught:
        render(form, TURNS)
    assert "qwen" in caught.value.fix


def test_chat_template_that_refuses_a_conversation_is_quoted() -> None:
    strict = "{%- if messages|length > 2 %}{{- raise_exception('one turn only') }}{%- endif %}" + CHATML
    form = template("chat", tokenizer=layouts.tokenizer(strict))
    with pytest.raises(DataError, match="refuses the conversation: one turn only"):
        render(form, TURNS)


def test_template_of_another_language_model_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'llama_3' ends answers with '<\|eot_id\|>', which the tokenizer does not"):
        template("llama_3", tokenizer=_WithoutMarks())


class _WithoutMarks:
    unk_token, unk_token_id = "<unk>", 0

    def convert_tokens_to_ids(self, _token: str) -> int:
        return 0


def test_end_mark_of_named_turns_is_not_replaced_by_the_models() -> None:
    assert template("llama_3", stop="</s>").stop == "<|eot_id|>"
    assert template("qwen", stop="</s>").stop == "<|im_end|>"


def test_stage_one_model_is_asked_for_a_description_alone() -> None:
    assert question_prompt(template("plain"), "", has_image=True) == "<image>"
    with pytest.raises(DataError, match="takes one human and one assistant"):
        question_prompt(template("plain"), "What is it?", has_image=True)
