"""A tokenizer's own chat template as a form of conversation: text, and where in it the answers are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ovbench._base.errors import ConfigError, DataError

_OTHERS = "choose another template: v1, llama_3 or qwen"
# Some templates ask the clock for the date, or think aloud; both would change what a model is asked.
_SETTINGS: Mapping[str, Any] = {"date_string": "26 Jul 2024", "enable_thinking": False}


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatTemplate:
    """Renders with `apply_chat_template`."""

    tokenizer: Any
    stop: str  # token that ends an answer
    tail: str  # everything behind an answer, beginning with the stop or blanks in front of it

    @classmethod
    def of(cls, tokenizer: Any) -> ChatTemplate:
        """Returns the chat template of a tokenizer.

        Raises:
            ConfigError: It has none, or one that does not close its answers with a token.
        """
        if not getattr(tokenizer, "chat_template", None):
            raise ConfigError(
                "the language model's folder has no chat template",
                where="template 'chat'",
                fix="add chat_template.jinja (or 'chat_template' in tokenizer_config.json) to the folder, or "
                + _OTHERS,
            )
        asked = [{"role": "user", "content": "ask"}]
        head = _apply(tokenizer, asked, opens=True)
        full = _apply(tokenizer, [*asked, {"role": "assistant", "content": "reply"}])
        if not full.startswith(head) or not full[len(head) :].startswith("reply"):
            raise ConfigError(
                "the chat template opens an answer otherwise when it is asked for than when it is there",
                where="template 'chat'",
                fix=_OTHERS,
            )
        tail = full[len(head) + len("reply") :]
        known = sorted({*tokenizer.get_added_vocab(), *tokenizer.all_special_tokens}, key=len, reverse=True)
        stop = next((token for token in known if tail.lstrip().startswith(token)), "")
        if not stop:
            raise ConfigError(
                f"the chat template closes an answer with {tail!r}, which is no token, so that a model could not "
                "learn to end",
                where="template 'chat'",
                fix=_OTHERS,
            )
        return cls(tokenizer=tokenizer, stop=stop, tail=tail)

    def render(
        self, turns: Sequence[tuple[str, str]], *, opens: bool = False
    ) -> tuple[str, tuple[tuple[int, int], ...]]:
        """Returns the text of a conversation and the spans of its answers, end marks included.

        Args:
            turns: Speaker (`human` or `gpt`) and text.
            opens: End with what stands in front of the next answer.

        Raises:
            DataError: The template refuses the conversation, or rewrites earlier turns, so that an answer would be
                learnt behind another text than it is asked for with.
        """
        roles = {"human": "user", "gpt": "assistant"}
        messages = [{"role": roles[speaker], "content": text} for speaker, text in turns]
        text = _apply(self.tokenizer, messages, opens=opens)
        spans: list[tuple[int, int]] = []
        closing = self.tail.index(self.stop) + len(self.stop)
        for number, message in enumerate(messages):
            if message["role"] != "assistant" or not message["content"].strip():
                continue
            head = _apply(self.tokenizer, messages[:number], opens=True)
            full = _apply(self.tokenizer, messages[: number + 1])
            if not (full.startswith(head) and full.endswith(self.tail) and text.startswith(full)):
                raise DataError(
                    f"the chat template rewrites turn {number + 1} of {len(messages)} when others follow",
                    where="template 'chat'",
                    fix=_OTHERS,
                )
            spans.append((len(head), len(full) - len(self.tail) + closing))
        return text, tuple(spans)


def _apply(tokenizer: Any, messages: Sequence[Mapping[str, str]], *, opens: bool = False) -> str:
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=opens, **_SETTINGS)
    except TemplateError as error:
        raise DataError(
            f"the chat template refuses the conversation: {error}", where="template 'chat'", fix=_OTHERS
        ) from error
