"""Templates render as transformers renders them, inside a sandbox."""

from typing import Any

import pytest
from text_generation_router.prompt.chat_template import ChatTemplate, ChatTemplateError

USER = {"role": "user", "content": "Hi"}


def render(source: str, messages: list[dict[str, Any]] | None = None, **options: Any) -> str:
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    return ChatTemplate(source, tokens).render(messages or [USER], **options)


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}\n  {% if true %}\n{{ m.content }}\n  {% endif %}\n{% endfor %}",
        "{{ messages | tojson }}|{{ messages | tojson(indent=2) }}",
        "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}x{% endfor %}",
        "{{ bos_token }}{% generation %}{{ messages[0]['content'] }}{% endgeneration %}",
        "{% for i in range(3) %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% endfor %}",
        "{{ tools is defined }}{{ tools is none }}{{ undefined_thing }}{{ none }}",
        "{{ messages[::-1][0].content.strip().upper() }}\n\n",
        "{% set ns = namespace(a=1) %}{% set ns.a = 2 %}{{ ns.a }}{{ add_generation_prompt }}",
    ],
)
def test_renders_like_transformers(source: str) -> None:
    """The oracle is transformers' own compiler of templates."""
    from transformers.utils.chat_template_utils import _compile_jinja_template

    messages = [{"role": "user", "content": "<é & 'ü'>"}, USER]
    expected = _compile_jinja_template(source).render(
        messages=messages,
        tools=None,
        add_generation_prompt=True,
        bos_token="<s>",
        eos_token="</s>",
    )
    assert render(source, messages) == expected


def test_raise_exception_tells_its_reason() -> None:
    with pytest.raises(ChatTemplateError, match="roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ 1 / 0 }}",
        "{{ messages[0].content + 1 }}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{{ undefined_thing.x }}",
        "{{ messages | no_such_filter if false else messages[7].content.x }}",
    ],
)
def test_bad_templates_fail_with_one_error(source: str) -> None:
    with pytest.raises(ChatTemplateError):
        render(source)


def test_a_syntax_error_names_its_line() -> None:
    with pytest.raises(ChatTemplateError, match="line 2"):
        ChatTemplate("\n{% if %}", {})


def test_tells_whether_tools_are_shown() -> None:
    assert ChatTemplate("{% if tools %}{{ tools }}{% endif %}", {}).uses_tools
    assert not ChatTemplate("{% set tools = [] %}{{ messages }}", {}).uses_tools


def test_strftime_now() -> None:
    assert render("{{ strftime_now('%Y') }}").isdigit()


CONTINUABLE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}[end]{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.mark.parametrize(
    ("begun", "prompt"),
    [
        ("The answer", "[user]Hi[end][assistant]The answer"),
        ("The answer is  \n", "[user]Hi[end][assistant]The answer is"),
        ("Hi", "[user]Hi[end][assistant]Hi"),
        ("", "[user]Hi[end][assistant]"),
        ("  ", "[user]Hi[end][assistant]"),
    ],
)
def test_a_trailing_message_is_continued(begun: str, prompt: str) -> None:
    messages = [USER, {"role": "assistant", "content": begun}]
    assert render(CONTINUABLE, messages, continue_last=True) == prompt


def test_a_message_that_the_template_leaves_out_cannot_be_continued() -> None:
    messages = [USER, {"role": "assistant", "content": "x"}]
    with pytest.raises(ChatTemplateError, match="leaves out"):
        render("nothing", messages, continue_last=True)
