"""What a request can be refused for; `http/errors.py` maps each class to a status.

RequestError
  ├─ ValidationError     a field's value; `param` names the field
  │    └─ ContextLengthError  the prompt, or prompt and output, are too long for the model
  ├─ TemplateError       the chat template is missing, fails, or refuses the conversation
  ├─ ToolError           tools that cannot be used as asked
  ├─ BatchSizeError      too many prompts in one /v1/completions call
  └─ SuffixError         /v1/completions with `suffix`

The engine's own errors (`engine/request.py`) pass through unchanged.
"""


class RequestError(ValueError):
    """A request was understood and is refused; the text is for its sender."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class ValidationError(RequestError):
    """A field's value is out of bounds or not supported."""


class ContextLengthError(ValidationError):
    """More tokens than the model is served with. Clients that shorten a conversation and try again
    know this error by the words that OpenAI has for it.
    """

    def __init__(self, message: str, max_total_tokens: int, *, param: str) -> None:
        length = f"This model's maximum context length is {max_total_tokens} tokens"
        super().__init__(f"{message}. {length}", param=param)


class TemplateError(RequestError):
    """The conversation does not become a prompt."""


class ToolError(RequestError):
    """Tools cannot be used as asked."""


class BatchSizeError(RequestError):
    """Too many prompts at once."""


class SuffixError(RequestError):
    """Text after the insertion point is not supported."""
