from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from ovbench._base.errors import ConfigError, DataError
from ovbench.harness.understanding.answer_requests import Request
from ovbench.harness.understanding.engine import AnswerEngine, Packing
from ovbench.harness.understanding.llava import Llava
from tests.harness.understanding.tiny import QUESTIONS, generated, many_requests, tiny_llava, tokens

SHARED: tuple[Packing, ...] = ("padded", "packed")


@pytest.fixture(scope="module")
def model(toy_language_model: str) -> Llava:
    return tiny_llava(toy_language_model)


@pytest.fixture(scope="module")
def requests() -> list[Request]:
    return many_requests(504)


@pytest.fixture(scope="module")
def said(model: Llava, requests: list[Request]) -> list[tuple[int, ...]]:
    return [generated(model, request) for request in requests]


def one(question: str, image_id: str | None = "image-0", *, max_new_tokens: int = 8) -> Request:
    return Request(image_id=image_id, question=question, max_new_tokens=max_new_tokens)


def test_the_answers_under_test_have_1_to_64_tokens(requests: list[Request], said: list[tuple[int, ...]]) -> None:
    lengths = {len(ids) for ids in said}
    assert {1, 2, 3, 64} <= lengths
    assert len(lengths) > 30
    assert len(set(requests)) == 504
    assert len(set(said)) > 200
    per_image = [
        sum(request.image_id == image for request in requests) for image in {item.image_id for item in requests}
    ]
    assert {1, 2, 12} <= set(per_image)
    assert any(request.image_id is None for request in requests)


@pytest.mark.parametrize("packing", SHARED)
def test_504_answers_equal_generate_token_by_token(
    model: Llava, requests: list[Request], said: list[tuple[int, ...]], packing: Packing
) -> None:
    engine = AnswerEngine(model, tokens, packing=packing)
    found = engine.ask(requests)
    assert [reply.ids for reply in found] == said
    assert engine.counts.asked_again < 26


@pytest.mark.parametrize("max_positions", [30, 150, 700])
@pytest.mark.parametrize("packing", SHARED)
def test_the_size_of_packs_changes_no_answer(
    model: Llava, requests: list[Request], said: list[tuple[int, ...]], packing: Packing, max_positions: int
) -> None:
    found = AnswerEngine(model, tokens, packing=packing, max_positions=max_positions).ask(requests[:90])
    assert [reply.ids for reply in found] == said[:90]


@pytest.mark.parametrize("packing", SHARED)
@pytest.mark.parametrize("kind", ["grouped", "qwen2"])
def test_answers_equal_generate_in_other_architectures(toy_language_model: str, kind: str, packing: Packing) -> None:
    model = tiny_llava(toy_language_model, kind)
    asked = many_requests(25, max_new_tokens=24)
    found = AnswerEngine(model, tokens, packing=packing).ask(asked)
    assert [reply.ids for reply in found] == [generated(model, request) for request in asked]


@pytest.mark.parametrize("packing", SHARED)
def test_answers_equal_generate_with_fused_attention(toy_language_model: str, packing: Packing) -> None:
    model = tiny_llava(toy_language_model, attention="sdpa")
    asked = many_requests(25, max_new_tokens=24)
    found = AnswerEngine(model, tokens, packing=packing).ask(asked)
    assert [reply.ids for reply in found] == [generated(model, request) for request in asked]


@pytest.mark.parametrize("kind", ["window", "mamba"])
def test_what_cannot_share_is_read_in_rows_of_equal_length_and_says_why(
    toy_language_model: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_llava(toy_language_model, kind)
    asked = many_requests(30, max_new_tokens=16)
    with caplog.at_level(logging.WARNING):
        engine = AnswerEngine(model, tokens, packing="padded")
    assert engine.packing == "equal"
    assert {"window": "DynamicSlidingWindowLayer", "mamba": "takes no past_key_values"}[kind] in caplog.text
    found = engine.ask(asked)
    assert [reply.ids for reply in found] == [generated(model, request) for request in asked]
    assert max(len(reply.ids) for reply in found) > 4
    assert engine.counts.images == len({request.image_id for request in asked} - {None})
    scored = [replace(asked[0], options=("red boot", "bag"), max_new_tokens=2)]
    alone = AnswerEngine(model, tokens, reference=True).ask(scored)[0]
    assert AnswerEngine(model, tokens).ask(scored)[0].option_scores == pytest.approx(alone.option_scores, abs=1e-4)


@pytest.mark.parametrize("ignored", ["attention_mask", "position_ids"])
@pytest.mark.parametrize("packing", SHARED)
def test_a_model_that_leaves_a_mask_or_positions_unused_is_found_out(
    toy_language_model: str, packing: Packing, ignored: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_llava(toy_language_model)
    forward = model.language_model.model.forward
    model.language_model.model.forward = lambda **given: forward(**{**given, ignored: None})
    engine = AnswerEngine(model, tokens, packing=packing)
    assert engine.packing == "equal"
    assert "questions read together are off by" in caplog.text
    asked = many_requests(25, max_new_tokens=6)
    reference = AnswerEngine(model, tokens, reference=True).ask(asked)
    assert [reply.ids for reply in engine.ask(asked)] == [reply.ids for reply in reference]


def test_options_are_left_out_where_they_are_not_wanted(model: Llava) -> None:
    asked = [replace(one(QUESTIONS[0]), options=options) for options in (("red", "bag"), ("bag", "red"))]
    engine = AnswerEngine(model, tokens, score_options=False)
    assert [reply.option_scores for reply in engine.ask(asked)] == [(), ()]
    assert engine.counts.asked == 1


@pytest.mark.parametrize("packing", SHARED)
@pytest.mark.parametrize(
    "asked",
    [
        [one(QUESTIONS[0])],
        [one(QUESTIONS[0], None)],
        [one(QUESTIONS[0]), one(QUESTIONS[0], None)],
        [one("red"), one("red boot"), one("red boot bag")],  # each the beginning of the next
        [one("red"), one("red " * 60)],
        [one(QUESTIONS[0], f"image-{number}") for number in range(9)],
        [one(QUESTIONS[number], max_new_tokens=1 + 3 * number) for number in range(9)],
    ],
    ids=["alone", "blind", "image-and-blind", "nested", "short-and-long", "one-per-image", "limits"],
)
def test_edge_cases_equal_generate(model: Llava, asked: list[Request], packing: Packing) -> None:
    found = AnswerEngine(model, tokens, packing=packing).ask(asked)
    assert [reply.ids for reply in found] == [generated(model, request) for request in asked]


@pytest.mark.parametrize("packing", SHARED)
def test_a_prompt_beyond_the_models_length_is_cut_as_alone(
    model: Llava, packing: Packing, caplog: pytest.LogCaptureFixture
) -> None:
    asked = [one("red boot " * 200), one("red boot " * 200 + "bag"), one("bag")]
    alone = AnswerEngine(model, tokens, reference=True).ask(asked)
    with caplog.at_level(logging.WARNING):
        found = AnswerEngine(model, tokens, packing=packing).ask(asked)
    assert [reply.ids for reply in found] == [reply.ids for reply in alone]
    assert "2 questions are longer than 256 positions" in caplog.text


@pytest.mark.parametrize("packing", SHARED)
def test_options_score_as_they_do_alone(model: Llava, packing: Packing) -> None:
    options = ("red", "red boot , blue bag", "blue bag", "the red boot is left of the blue bag")
    asked = [
        replace(request, options=options[: 2 + number % 3] if number % 4 else (), max_new_tokens=6)
        for number, request in enumerate(many_requests(60))
    ]
    alone = AnswerEngine(model, tokens, reference=True).ask(asked)
    found = AnswerEngine(model, tokens, packing=packing, close_call=0).ask(asked)
    for left, right in zip(found, alone, strict=True):
        assert left.option_scores == pytest.approx(right.option_scores, abs=2e-4)
        assert left.ids == right.ids


def test_scores_without_a_free_answer_cost_no_step(model: Llava) -> None:
    asked = [Request(image_id="image-0", question=QUESTIONS[0], options=("red", "bag"), max_new_tokens=0)]
    engine = AnswerEngine(model, tokens, close_call=0)
    reply = engine.ask(asked)[0]
    assert (reply.raw, reply.ids, engine.counts.steps) == ("", (), 0)
    assert reply.margin == pytest.approx(abs(reply.option_scores[0] - reply.option_scores[1]), abs=2e-6)


def test_a_request_for_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="nothing is asked"):
        Request(image_id=None, question="?", options=("one",), max_new_tokens=0)


def test_a_constrained_choice_looks_at_first_tokens_alone(model: Llava) -> None:
    asked = Request(
        image_id="image-0", question=QUESTIONS[0], options=("red boot", "blue bag"), first_token=True, max_new_tokens=1
    )
    short = replace(asked, options=("red", "blue"), first_token=False)
    left, right = AnswerEngine(model, tokens, close_call=0).ask([asked, short])
    assert left.option_scores == pytest.approx(right.option_scores, abs=1e-4)
    with pytest.raises(DataError, match="begin with the same token"):
        AnswerEngine(model, tokens).ask([replace(asked, options=("red boot", "red bag"))])


def test_every_image_is_encoded_once_and_every_question_asked_once(model: Llava) -> None:
    encoded: list[str] = []

    def counting(image_ids: Sequence[str]) -> torch.Tensor:
        encoded.extend(image_ids)
        return tokens(image_ids)

    asked = pope_requests(12)
    engine = AnswerEngine(model, counting, max_positions=200)
    found = engine.ask(asked)
    assert sorted(encoded) == sorted({str(request.image_id) for request in asked})
    assert (engine.counts.images, engine.counts.requests, engine.counts.asked) == (12, 216, len(set(asked)))
    by_question = dict(zip(asked, found, strict=True))
    assert [by_question[request] for request in asked] == found


def pope_requests(num_images: int) -> list[Request]:
    """POPE's structure: per image three subsets of three yes and three no; yes questions are the same in each."""
    found: list[Request] = []
    for image in range(num_images):
        # 5127 - 500 * 10 = 127 images have eight distinct negatives, the others seven.
        negatives = [QUESTIONS[8 + (image + place) % 40] for place in range(8 if image % 500 < 127 else 7)]
        for subset in range(3):
            yes = QUESTIONS[:3]
            no = [negatives[(3 * subset + place) % len(negatives)] for place in range(3)]
            found += [one(question, f"image-{image}", max_new_tokens=2) for question in (*yes, *no)]
    return found


def test_9000_pope_rows_are_500_encoder_passes_and_5127_calls(model: Llava) -> None:
    asked = pope_requests(500)
    assert len(asked) == 9000
    plan = AnswerEngine(model, tokens).plan(asked)
    assert (plan.num_requests, plan.num_images, plan.num_asks) == (9000, 500, 5127)
    assert sorted(member for pack in plan.packs for member in pack.members) == list(range(9000))


@pytest.mark.parametrize("packing", SHARED)
def test_what_questions_share_is_read_once(model: Llava, packing: Packing) -> None:
    asked = [one(f"{QUESTIONS[0]} {'red ' * number}", f"image-{image}") for image in range(3) for number in range(1, 5)]
    engine = AnswerEngine(model, tokens, packing=packing, close_call=0)
    plan = engine.plan(asked)
    (pack,) = plan.packs
    whole = [ask.length(6, 256) for ask in pack.asks]
    assert plan.system == 2  # the begin mark and `USER:`
    shared = sum(group.prefix - plan.system for group in pack.groups)
    own = sum(length - pack.groups[0].prefix for length in whole)
    engine.ask(asked)
    assert engine.counts.positions == plan.system + shared + own
    assert engine.counts.positions < sum(whole) / 1.5


def test_the_largest_group_comes_first(model: Llava) -> None:
    asked = [one(QUESTIONS[0], "small"), *(one(question, "large") for question in QUESTIONS[:9])]
    plan = AnswerEngine(model, tokens, max_positions=60).plan(asked)
    assert plan.packs[0].image_ids == ("large",)
    assert plan.packs[-1].image_ids == ("small",)


@pytest.mark.parametrize("packing", SHARED)
def test_a_large_group_is_split_and_its_prefix_read_once(model: Llava, packing: Packing) -> None:
    asked = [one(question) for question in QUESTIONS]
    whole = AnswerEngine(model, tokens, packing=packing, close_call=0)
    split = AnswerEngine(model, tokens, packing=packing, close_call=0, max_positions=100)
    assert len(split.plan(asked).packs) > 3
    assert [reply.ids for reply in split.ask(asked)] == [reply.ids for reply in whole.ask(asked)]
    assert split.counts.positions == whole.counts.positions
    assert split.counts.images == 1


@pytest.mark.parametrize("packing", SHARED)
def test_close_calls_are_asked_again_alone(model: Llava, packing: Packing, caplog: pytest.LogCaptureFixture) -> None:
    asked = many_requests(40, max_new_tokens=8)
    plain = AnswerEngine(model, tokens, packing=packing, close_call=0).ask(asked)
    threshold = sorted(reply.margin for reply in plain)[10]
    engine = AnswerEngine(model, tokens, packing=packing, close_call=threshold)
    with caplog.at_level(logging.INFO):
        found = engine.ask(asked)
    assert engine.counts.asked_again == 10
    assert "10 of 40 questions were close calls and were asked again alone" in caplog.text
    reference = AnswerEngine(model, tokens, reference=True).ask(asked)
    for left, right, before in zip(found, reference, plain, strict=True):
        assert left == right if before.margin < threshold else left == before


@pytest.mark.parametrize("packing", SHARED)
def test_in_bfloat16_near_ties_get_the_reference_answer(toy_language_model: str, packing: Packing) -> None:
    model = tiny_llava(toy_language_model).to(torch.bfloat16)
    asked = many_requests(60, max_new_tokens=4)
    plain = AnswerEngine(model, tokens, packing=packing, close_call=0).ask(asked)
    engine = AnswerEngine(model, tokens, packing=packing)
    found = engine.ask(asked)
    reference = AnswerEngine(model, tokens, reference=True).ask(asked)
    close = [reply.margin < 0.1 for reply in plain]
    assert 0 < engine.counts.asked_again == sum(close) < len(asked)
    assert [item for item, near in zip(found, close, strict=True) if near] == [
        item for item, near in zip(reference, close, strict=True) if near
    ]


def test_reference_asks_one_by_one_and_leaves_nothing_out(model: Llava) -> None:
    asked = [one(QUESTIONS[0]), one(QUESTIONS[0]), one(QUESTIONS[1])]
    engine = AnswerEngine(model, tokens, reference=True)
    found = engine.ask(asked)
    assert (engine.counts.asked, engine.counts.images, engine.counts.asked_again) == (3, 3, 0)
    assert [reply.ids for reply in found] == [generated(model, request) for request in asked]


def test_a_trusted_first_token_ends_the_answer(toy_language_model: str) -> None:
    model = tiny_llava(toy_language_model, end=0.1)
    asked = many_requests(100, max_new_tokens=4)
    exact = AnswerEngine(model, tokens).ask(asked)
    trusting = AnswerEngine(model, tokens, trust_first_token=True).ask(asked)
    closing = {model.tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no")}
    hits = [reply.ids[0] in closing for reply in exact]
    assert 0 < sum(hits) < len(hits)
    for left, right, hit in zip(exact, trusting, hits, strict=True):
        assert right.ids == (left.ids[:1] if hit else left.ids)
    assert any(left.ids != right.ids for left, right in zip(exact, trusting, strict=True))


def test_replies_are_handed_over_pack_by_pack(model: Llava) -> None:
    asked = many_requests(60, max_new_tokens=2)
    packs: list[set[int]] = []
    found = AnswerEngine(model, tokens, max_positions=200).ask(asked, on_group=lambda replies: packs.append({*replies}))
    assert len(packs) > 3
    assert sorted(place for pack in packs for place in pack) == list(range(60))
    assert len(found) == 60


def test_packs_that_are_done_are_left_out_and_the_others_unchanged(model: Llava) -> None:
    asked = many_requests(60, max_new_tokens=2)
    packs = list(AnswerEngine(model, tokens, max_positions=200).stream(asked))
    done = {place for pack in packs[:2] for place in pack}
    assert list(AnswerEngine(model, tokens, max_positions=200).stream(asked, done=done)) == packs[2:]


def test_no_request_is_no_reply(model: Llava) -> None:
    assert AnswerEngine(model, tokens).ask([]) == []


def test_wrong_settings_are_refused(model: Llava) -> None:
    with pytest.raises(ConfigError, match="unknown packing 'tight'"):
        AnswerEngine(model, tokens, packing="tight")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="must be 1 or more, got 0 and 64"):
        AnswerEngine(model, tokens, max_positions=0)
    with pytest.raises(ConfigError, match="a gap of 0 or more"):
        AnswerEngine(model, tokens, close_call=-1.0)


def test_images_of_another_length_are_refused(model: Llava) -> None:
    def uneven(image_ids: Sequence[str]) -> torch.Tensor:
        return tokens(image_ids)[:, : 3 if image_ids[0] == "image-1" else 6]

    with pytest.raises(DataError, match="has 3 visual tokens and another 6"):
        AnswerEngine(model, uneven, max_positions=20).ask([one("red", "image-0"), one("red", "image-1")])
