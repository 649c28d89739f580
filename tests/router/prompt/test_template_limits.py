"""A template may be hostile, and so may what it reads: rendering ends soon, with one error."""

import asyncio
from typing import Any

import pytest
from text_generation_router.prompt.chat_template import (
    ChatTemplate,
    ChatTemplateError,
    SlowTemplateError,
)
from text_generation_router.prompt.conversation import ChatTemplates, Conversation
from text_generation_router.prompt.model_files import PromptFiles
from text_generation_router.prompt.template_limits import MAX_SIZE

USER = {"role": "user", "content": "Hi"}
MANY = "{% for i in range(100000) %}"


def render(source: str, **options: Any) -> str:
    return ChatTemplate(source, {"bos_token": "<s>"}).render([USER], **options)


@pytest.mark.parametrize(
    "source",
    [
        MANY + MANY + "{% endfor %}{% endfor %}",
        MANY + "{% for j in range(100000) if false %}{% endfor %}{% endfor %}",
        MANY + "{% set x = range(100000) | list | sort %}{% endfor %}",
        "{% macro f(n) %}{{ (f(n - 1) ~ f(n - 1)) if n }}{% endmacro %}{{ f(60) }}",
        MANY + "{% if range(100000) | list | length > 5 %}{% endif %}{% endfor %}",
        "{% for i in [1, 2] recursive %}{{ loop([1, 2]) if loop.depth < 60 }}{% endfor %}",
    ],
)
def test_endless_work_is_given_up(source: str) -> None:
    with pytest.raises(SlowTemplateError, match="too long"):
        render(source, seconds=0.05)


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[0].content * 10 ** 9 }}",
        "{{ 10 ** 9 * messages[0].content }}",
        "{{ [messages] * 10 ** 9 }}",
        "{{ 'x' * 10 ** 9 }}",
        "{{ 2 ** (10 ** 9) }}",
        "{% set ns = namespace(n=10) %}" + MANY + "{% set ns.n = ns.n * ns.n %}{% endfor %}",
        "{% set ns = namespace(x='ab') %}" + MANY + "{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set ns = namespace(x='ab') %}" + MANY + "{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}" + MANY + "{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set x = 'a' * 10000 %}{{ x.replace('', x) }}",
        "{% set x = 'a' * 10000 %}{{ x | replace('', x) }}",
        "{% set x = 'a' * 10000 %}{{ x.join([x] * 9999) }}",
        "{% set x = 'a' * 10000 %}{{ ([x] * 9999) | join }}",
        "{{ 'x'.ljust(10 ** 9) }}",
        "{{ 'x'.zfill(10 ** 9) }}",
        "{{ '\t'.expandtabs(10 ** 9) }}",
        "{{ 'x' | center(10 ** 9) }}",
        "{{ ('\n' * 10000) | indent(1000) }}",
        "{{ messages | tojson(indent=10 ** 9) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%.1000000000f' % 1 }}",
        "{{ '%*d' % (10 ** 9, 1) }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ '{:{}}'.format(1, 10 ** 9) }}",
        "{% set x = 'a' * 1000000 %}{% set y %}" + MANY + "{{ x }}{% endfor %}{% endset %}",
        "{% set x = 'a' * 1000000 %}" + MANY + "{{ x }}{% endfor %}",
    ],
)
def test_what_would_grow_too_large_is_not_made(source: str) -> None:
    with pytest.raises(ChatTemplateError):
        render(source)


def test_garbage_counts_too() -> None:
    """Many texts below the bound, each forgotten, would still be made at gigabytes a second."""
    source = "{% set x = 'a' * 3999999 %}" + MANY + "{% set y = x + 'b' %}{% endfor %}"
    with pytest.raises(ChatTemplateError, match="too much text"):
        render(source)


def test_a_large_conversation_fits() -> None:
    content = "word " * (MAX_SIZE // 10)
    assert render("{{ messages[0].content }}{{ content }}", variables={"content": content}) == (
        "Hi" + content
    )


@pytest.mark.parametrize(
    "source",
    [
        "{{ namespace(_x=1) }}",
        "{% set ns = namespace() %}{% set ns._x = 1 %}",
        "{{ dict.mro }}{{ dict.__class__ }}",
        "{{ messages.clear() }}",
    ],
)
def test_inner_attributes_stay_closed(source: str) -> None:
    with pytest.raises(ChatTemplateError):
        render(source + "{{ raise_exception('rendered') }}")


def test_a_request_cannot_replace_special_tokens() -> None:
    assert render("{{ bos_token }}{{ x }}", variables={"bos_token": "!", "x": 1}) == "<s>1"


def test_which_names_a_request_may_set() -> None:
    source = "{{ bos_token }}{{ strftime_now('%Y') }}{% if enable_thinking %}{{ tools }}{% endif %}"
    assert ChatTemplate(source, {"bos_token": "<s>"}).variables == {"enable_thinking", "tools"}


async def test_a_slow_rendering_does_not_hold_up_the_event_loop() -> None:
    source = "{% for i in range(3000) %}{% for j in range(100) %}{% endfor %}{% endfor %}done"
    templates = ChatTemplates(PromptFiles(chat_templates={"default": source}))
    conversation = Conversation(messages=[USER])
    rendering = asyncio.create_task(templates.render(conversation))
    num_turns = 0
    while not rendering.done():
        await asyncio.sleep(0)
        num_turns += 1
    templates.close()
    assert await rendering == "done"
    assert num_turns > 3
