"""What a request can be refused for; `http/errors.py` maps each class to a status.

RequestError
  ├─ ValidationError     a field's value; `param` names the field
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


class TemplateError(RequestError):
    """The conversation does not become a prompt."""


class ToolError(RequestError):
    """Tools cannot be used as asked."""


class BatchSizeError(RequestError):
    """Too many prompts at once."""


class SuffixError(RequestError):
    """Text after the insertion point is not supported."""
