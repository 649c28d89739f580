"""How models write their tool calls: one declaration for each way, told by the model's template.

An answer with calls, in the terms of `ToolFormat`:

    text  opens  call_opens BODY call_closes  between  call_opens BODY call_closes  closes

Where a BODY is an object with the name and the arguments, or the name and then the arguments.
Parser (`tool_calls.py`) and grammar (`grammar/tool_calls.py`) both follow these declarations.
"""

from collections.abc import Iterator
from dataclasses import dataclass

# A text in parts: marks that the parser looks for (each may be a token of its own), and between
# them white space, which the grammar writes and the parser takes as it comes.
Marks = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectBody:
    """{"name": "get_weather", "arguments": {"city": "Paris"}}, the keys as the model knows them."""

    name_key: str = "name"
    arguments_key: str = "arguments"
    # A key for the number of the call, which the model writes first.
    number_key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedBody:
    """get_weather, what stands between, {"city": "Paris"}"""

    between: Marks
    # What may stand before that, followed by the model's own id of the call.
    id_mark: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaggedBody:
    """The name, then every argument for itself, a string as it is and all else as JSON:

    get_weather> <parameter=city> Paris </parameter> </function>
    """

    name_closes: str = ">"
    argument_opens: str = "<parameter="
    argument_closes: str = "</parameter>"
    closes: str = "</function>"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFormat:
    """One way to write calls. No instance has state."""

    name: str
    # Texts that together tell a template of this kind, and those that tell it is another.
    known_by: Marks
    unlike: Marks = ()
    opens: Marks = ()
    call_opens: Marks = ()
    body: ObjectBody | NamedBody | TaggedBody
    call_closes: Marks = ()
    between: Marks = ()
    closes: Marks = ()
    # Whether an answer may also begin with the body of a call, without any mark.
    is_bare: bool = False
    # The length that the template wants the ids of calls to have; 0 for any.
    id_length: int = 0

    @property
    def first_mark(self) -> str:
        """The mark by which calls begin; empty if there is none."""
        return next(iter((*self.opens, *self.call_opens)), "")

    @property
    def has_section(self) -> bool:
        """Whether all calls of an answer stand between two marks."""
        return bool(self.opens)

    def marks(self) -> Iterator[str]:
        """All marks: tokenizers may have them as special tokens, and the parser has to see them."""
        texts = (self.opens, self.call_opens, self.call_closes, self.between, self.closes)
        for text in texts:
            yield from (part for part in text if not part.isspace())
        if isinstance(self.body, NamedBody):
            yield from (part for part in self.body.between if not part.isspace())
            yield self.body.id_mark

    def is_format_of(self, template: str) -> bool:
        """Whether a chat template's source tells that its model writes calls like this."""
        is_known = all(text in template for text in self.known_by)
        return is_known and not any(text in template for text in self.unlike)


HERMES = ToolFormat(
    name="Hermes",
    known_by=("<tool_call>",),
    unlike=("<arg_key>", "<function="),
    call_opens=("<tool_call>", "\n"),
    body=ObjectBody(),
    call_closes=("\n", "</tool_call>"),
    between=("\n",),
)
QWEN_CODER = ToolFormat(
    name="Qwen3 Coder",
    known_by=("<tool_call>", "<function=", "<parameter="),
    call_opens=("<tool_call>", "\n", "<function="),
    body=TaggedBody(),
    call_closes=("\n", "</tool_call>"),
    between=("\n",),
)
LLAMA = ToolFormat(
    name="Llama 3",
    known_by=('"name"', '"parameters"'),
    opens=("<|python_tag|>",),
    body=ObjectBody(arguments_key="parameters"),
    between=(";", " "),
    is_bare=True,
)
MISTRAL = ToolFormat(
    name="Mistral",
    known_by=("[TOOL_CALLS]", "[ARGS]"),
    call_opens=("[TOOL_CALLS]",),
    body=NamedBody(between=("[ARGS]",), id_mark="[CALL_ID]"),
    id_length=9,
)
MISTRAL_LIST = ToolFormat(
    name="Mistral's list",
    known_by=("[TOOL_CALLS]",),
    unlike=("[ARGS]",),
    opens=("[TOOL_CALLS]", "["),
    body=ObjectBody(),
    between=(",", " "),
    closes=("]",),
    id_length=9,
)
GRANITE = ToolFormat(
    name="Granite",
    known_by=("<|tool_call|>",),
    opens=("<|tool_call|>", "["),
    body=ObjectBody(),
    between=(",", " "),
    closes=("]",),
)
COHERE = ToolFormat(
    name="Cohere",
    known_by=("<|START_ACTION|>", "<|END_ACTION|>"),
    opens=("<|START_ACTION|>", "[", "\n    "),
    body=ObjectBody(name_key="tool_name", arguments_key="parameters", number_key="tool_call_id"),
    between=(",", "\n    "),
    closes=("\n", "]", "<|END_ACTION|>"),
)
COHERE_PLUS = ToolFormat(
    name="Cohere R+",
    known_by=("Action:", "```json", "tool_name"),
    opens=("Action:", " ", "```json", "\n", "[", "\n    "),
    body=ObjectBody(name_key="tool_name", arguments_key="parameters"),
    between=(",", "\n    "),
    closes=("\n", "]", "\n", "```"),
)
DEEPSEEK = ToolFormat(
    name="DeepSeek V3",
    known_by=("<｜tool▁calls▁begin｜>", "<｜tool▁sep｜>", "```json"),
    opens=("<｜tool▁calls▁begin｜>",),
    call_opens=("<｜tool▁call▁begin｜>", "function", "<｜tool▁sep｜>"),
    body=NamedBody(between=("\n", "```json", "\n")),
    call_closes=("\n", "```", "<｜tool▁call▁end｜>"),
    between=("\n",),
    closes=("<｜tool▁calls▁end｜>",),
)
DEEPSEEK_PLAIN = ToolFormat(
    name="DeepSeek V3.1",
    known_by=("<｜tool▁calls▁begin｜>", "<｜tool▁sep｜>"),
    unlike=("```json",),
    opens=("<｜tool▁calls▁begin｜>",),
    call_opens=("<｜tool▁call▁begin｜>",),
    body=NamedBody(between=("<｜tool▁sep｜>",)),
    call_closes=("<｜tool▁call▁end｜>",),
    closes=("<｜tool▁calls▁end｜>",),
)
FUNCTION_TAG = ToolFormat(
    name="function tags",
    known_by=("<function=",),
    unlike=("<parameter=",),
    call_opens=("<function=",),
    body=NamedBody(between=(">",)),
    call_closes=("</function>",),
)
# Version 3.2's, as `recipients.py` leaves it; version 3.1 writes function tags.
FUNCTIONARY = ToolFormat(
    name="functionary",
    known_by=(">>>all",),
    call_opens=(">>>",),
    body=NamedBody(between=("\n",)),
)
# gpt-oss's, as `harmony.py` spells it; the end of a call is the end of the answer.
HARMONY = ToolFormat(
    name="harmony",
    known_by=("<|channel|>commentary", "<|message|>", "<|call|>"),
    call_opens=("<|channel|>", "commentary", " ", "to=functions."),
    body=NamedBody(between=(" ", "<|constrain|>", "json", "<|message|>")),
)
# For models whose template does not know tools: they are told in the prompt how to call them.
GENERIC = ToolFormat(
    name="generic",
    known_by=(),
    body=ObjectBody(arguments_key="parameters"),
    between=(";", " "),
    is_bare=True,
)

# In the order in which templates are asked.
KNOWN_FORMATS = (
    HARMONY,
    FUNCTIONARY,
    DEEPSEEK,
    DEEPSEEK_PLAIN,
    COHERE,
    MISTRAL,
    MISTRAL_LIST,
    GRANITE,
    QWEN_CODER,
    FUNCTION_TAG,
    HERMES,
    COHERE_PLUS,
    LLAMA,
)


def format_of(template: str) -> ToolFormat | None:
    """The format that a chat template's source tells; None if it tells none that is known."""
    return next((known for known in KNOWN_FORMATS if known.is_format_of(template)), None)
