"""The sandbox that chat templates run in.

A template is foreign code, and what it reads comes from clients. It gets the environment that
transformers gives it: `trim_blocks` and `lstrip_blocks`, loop controls, `tojson` without HTML
escapes, `raise_exception`, `strftime_now`, `dict` and `namespace` without inner attributes, and
`{% generation %}` blocks, which only mark text. Every pass of a loop, call and filter looks at the
limits (`template_limits.py`).
"""

import json
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import wraps
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from text_generation_router.prompt.template_limits import (
    SMALL,
    check_method,
    check_operator,
    check_time,
    require_size,
    within_limits,
)

# A filter that templates cannot write.
_LOOK = "look at the limits"


class TemplateSandbox(ImmutableSandboxedEnvironment):
    """One environment for each template; it holds no state of a rendering, so several threads may
    use it.
    """

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", _GenerationBlock],
        )
        self.filters["tojson"] = _to_json
        self.filters = {name: _limited(name, each) for name, each in self.filters.items()}
        self.filters[_LOOK] = _look
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = _strftime_now
        self.globals["dict"] = _TemplateDict()
        self.globals["namespace"] = _TemplateNamespace

    @staticmethod
    def concat(parts: Iterable[str]) -> str:
        """Join what a block, a macro or the whole template wrote."""
        texts = list(parts)
        require_size(sum(map(len, texts)))
        return "".join(texts)

    def call(self, context: Context, called: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Every call of a template comes here."""
        check_time()
        owner = getattr(called, "__self__", None)
        if isinstance(owner, str):
            check_method(called.__name__, owner, args, kwargs)
        return within_limits(super().call(context, called, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """The operators that make new values come here, mostly to join short texts."""
        if operator == "+":
            value = left + right
            return value if type(value) is str and len(value) < SMALL else within_limits(value)
        check_operator(operator, left, right)
        return within_limits(super().call_binop(context, operator, left, right))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """`str.format`, which the sandbox replaces by its own; `call` does not see its text."""
        formatting = super().wrap_str_format(value)
        if formatting is None:
            return None

        @wraps(formatting)
        def limited_format(*args: Any, **kwargs: Any) -> str:
            check_method("format", value.__self__, args, kwargs)
            return formatting(*args, **kwargs)

        return limited_format

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        parsed = super()._parse(source, name, filename)
        limited: nodes.Template = _LimitedNodes().visit(parsed)
        limited.set_environment(self)
        return limited


@jinja2.pass_context
def _look(context: Context, value: Any) -> Any:  # noqa: ARG001  keeps it out of constants
    """Looks at the limits."""
    check_time()
    return value if value is True else within_limits(value)


class _LimitedNodes(NodeTransformer):
    """Lets every pass of a loop, and what `~` made, be looked at."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802  jinja2 looks it up so
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_looked_at(nodes.Const(True)), lineno=node.lineno))
        if node.test is not None:
            node.test = nodes.And(_looked_at(nodes.Const(True)), node.test, lineno=node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _looked_at(node)


def _looked_at(value: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(value, _LOOK, [], [], None, None)


class _GenerationBlock(Extension):
    """`{% generation %}` marks the assistant's text for training; serving takes its content."""

    tags = {"generation"}  # noqa: RUF012  jinja2 declares it so

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class _TemplateDict:
    """`dict` without the attributes of the type."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        """As `dict.fromkeys`."""
        return dict.fromkeys(*args)


class _TemplateNamespace(Namespace):
    """`namespace` without names that begin with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, given = args[0], dict(*args[1:], **kwargs)
        for name in given:
            _require_plain_name(name)
        Namespace.__init__(self, given)

    def __setitem__(self, name: str, value: Any) -> None:
        _require_plain_name(name)
        super().__setitem__(name, value)


def _require_plain_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace cannot have the attribute {name!r}")


def _limited(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that looks at the limits. Some are given the environment before the value."""
    first = 1 if hasattr(original, "jinja_pass_arg") else 0

    @wraps(original)
    def limited_filter(*args: Any, **kwargs: Any) -> Any:
        check_time()
        before, (value, *rest) = args[:first], args[first:]
        if name == "join":
            value = list(value)
        check_method(name, value, rest, kwargs)
        return within_limits(original(*before, value, *rest, **kwargs))

    return limited_filter


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(layout: str) -> str:
    return datetime.now().astimezone().strftime(layout)
