"""How a conversation becomes one string: LLaVA-1.5's templates, those of its successors, and a tokenizer's own."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ovbench._base.errors import ConfigError
from ovbench._base.names import lookup
from ovbench.harness.understanding.chat_template import ChatTemplate


@dataclass(frozen=True, kw_only=True, slots=True)
class Template:
    """The strings around what the two speakers say.

    `rounds`: LLaVA-1.5's form. A speaker who says nothing leaves only the mark, and whole samples can be masked as the
    reference does. `turns`: each turn has a head and a closing token. `bare`: image mark, caption, stop; no roles, and
    what the human says is thrown away. `chat`: the tokenizer's own chat template.
    """

    name: str
    form: Literal["rounds", "turns", "bare", "chat"] = "rounds"
    system: str = ""  # block before the first turn, with what separates them
    user: str = "USER: "  # in front of what the human says
    user_end: str = " "  # behind it
    assistant: str = "ASSISTANT:"  # in front of an answer; an open prompt ends with it
    lead: str = " "  # between that and the answer; learnt, since it belongs to the answer's first piece
    stop: str = "</s>"  # ends an answer and is learnt; of `rounds`: the language model's own end mark
    after: str = ""  # behind the stop, not learnt
    trims: bool = False  # blanks around what is said are dropped
    other_stops: tuple[str, ...] = ()  # further tokens that end an answer
    chat: ChatTemplate | None = field(default=None, repr=False)  # of `chat`

    @property
    def bare(self) -> bool:
        """Whether there are no roles."""
        return self.form == "bare"

    @property
    def separator(self) -> str:
        """What stands between a question and its answer, e.g. ` ASSISTANT: `."""
        return f"{self.user_end}{self.assistant}{self.lead}"


# llava/conversation.py of haotian-liu/LLaVA: conv_vicuna_v1 and conv_llava_plain.
_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
# llava/conversation.py of LLaVA-NeXT: conv_llava_llama_3 (OpenVision's language model is a Llama 3) and conv_qwen.
_SYSTEM_LLAMA_3 = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
_HEAD_3 = "<|start_header_id|>{}<|end_header_id|>\n\n"
TEMPLATES = {
    "plain": Template(name="plain", form="bare", stop="\n"),
    "v1": Template(name="v1", system=f"{_SYSTEM} "),
    "v1_short": Template(name="v1_short"),
    "llama_3": Template(
        name="llama_3",
        form="turns",
        system=f"{_HEAD_3.format('system')}{_SYSTEM_LLAMA_3}<|eot_id|>",
        user=_HEAD_3.format("user"),
        user_end="<|eot_id|>",
        assistant=_HEAD_3.format("assistant"),
        lead="",
        stop="<|eot_id|>",
        trims=True,  # Llama 3's own chat template, through which LLaVA-NeXT writes it, does
        other_stops=("<|end_of_text|>",),
    ),
    "qwen": Template(
        name="qwen",
        form="turns",
        system="<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n",
        user="<|im_start|>user\n",
        user_end="<|im_end|>\n",
        assistant="<|im_start|>assistant\n",
        lead="",
        stop="<|im_end|>",
        after="\n",
        other_stops=("<|endoftext|>",),
    ),
    "chat": Template(name="chat", form="chat", lead=""),
}


def template(name: str, *, stop: str | None = None, tokenizer: Any = None) -> Template:
    """Returns a template.

    Args:
        name: A key of `TEMPLATES`.
        stop: Replaces the end mark of answers in the `v1` forms by the model's own; the others bring theirs.
        tokenizer: The language model's: `chat` is made of it, and the marks of `llama_3` and `qwen` are sought in it.

    Raises:
        ConfigError: There is no such template, or it does not fit the tokenizer.
    """
    found = lookup(TEMPLATES, name, kind="template", where="template")
    if found.form == "chat":
        if tokenizer is None:
            raise ConfigError("the template 'chat' is made of a tokenizer, and none was given", where="template")
        chat = ChatTemplate.of(tokenizer)
        return replace(found, chat=chat, stop=chat.stop)
    if found.form == "turns" and tokenizer is not None:
        _check_marks(found, tokenizer)
    return replace(found, stop=stop) if found.form == "rounds" and stop is not None else found


def _check_marks(form: Template, tokenizer: Any) -> None:
    ids = tokenizer.convert_tokens_to_ids(form.stop)
    if ids is None or (ids == tokenizer.unk_token_id and form.stop != tokenizer.unk_token):
        raise ConfigError(
            f"the template '{form.name}' ends answers with '{form.stop}', which the tokenizer does not know",
            where="template",
            fix="choose the template of this language model: v1 for Llama 2 and Vicuna, llama_3, qwen, or chat",
        )
