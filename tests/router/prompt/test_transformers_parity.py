"""Whole templates, in the manner of well-known families, give the text that transformers'
`apply_chat_template` gives.
"""

from collections.abc import Callable
from typing import Any

import pytest
from text_generation_router.prompt.chat_template import ChatTemplate
from tokenizers import Tokenizer, models

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
TEMPLATES = {
    "chatml with tools and thinking": """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- "# Tools\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(last_user=messages|length - 1, found=false) %}
{%- for message in messages[::-1] %}
    {%- if message.role == "user" and not ns.found %}
        {%- set ns.last_user = (messages|length - 1) - loop.index0 %}
        {%- set ns.found = true %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set content = message.content %}
        {%- if '</think>' in content %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>' ~ message.role ~ '\\n' ~ content }}
        {%- for call in message.tool_calls or [] %}
            {{- '<tool_call>' ~ call.function.name ~ ' ' ~ call.function.arguments | tojson }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {{- '<|im_start|>user\\n<tool_response>' ~ message.content }}
        {{- '</tool_response><|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}""",
    "headers and a date": """\
{{- bos_token }}
{%- if not date_string is defined %}{%- set date_string = "26 Jul 2024" %}{%- endif %}
{%- if tools is not none %}{{- "Environment: ipython\\n" }}{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}
{%- for message in messages %}
    {%- if message.content is string or 'tool_calls' in message %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- for t in tools or [] %}
    {{- t | tojson(indent=4) }}{{- "\\n\\n" }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}""",
    "instructions and alternation": """\
{% set roles = ['user', 'assistant'] %}
{{ bos_token }}{% for message in messages if message.role in roles %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Conversation roles must alternate!') }}
{% endif %}
{% if message['role'] == 'user' %}
{{ '[INST] ' + message['content'] + ' [/INST]' }}
{% elif message['role'] == 'assistant' %}
{% generation %}{{ message['content'] ~ eos_token }}{% endgeneration %}
{% endif %}
{% endfor %}
""",
    "documents, macros and filters": """\
{%- macro show(document, index) %}
Document {{ index }} ({{ document.title | upper }}):
  {{ document['text'] | replace('\\n', ' ') | trim }}
{% endmacro -%}
{%- for d in documents or [] %}{{ show(d, loop.index) }}{%- endfor %}
{%- for role, group in messages | groupby('role') %}
{{ role }}={{ group | map(attribute='content') | select | join(';') }}
{%- if loop.last %}{% break %}{% endif %}
{%- endfor %}
{{ '%s-%03d' | format('n', messages | length) }} {{ "{:>5}|{}".format('a', 1) }}
{{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ [1, 2] + [3] }}
{{ messages | tojson(sort_keys=true, separators=(',', ':'), ensure_ascii=true) }}
{{- dict(a=1).get('a') }}{% set x %}  block {{ 2 ** 10 }}{% endset %}{{ x | length }}""",
}
MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "  Be <brief> & 'kind' … ü  "},
    {"role": "user", "content": "Hi\nthere"},
    {
        "role": "assistant",
        "content": "<think>hm</think>\nHello",
        "tool_calls": [
            {"type": "function", "function": {"name": "f", "arguments": {"é": [1, None, "<"]}}}
        ],
    },
    {"role": "tool", "content": "42"},
    {"role": "user", "content": "{{ not_code }} </s>"},
]
TOOL = {
    "type": "function",
    "function": {
        "name": "f",
        "description": "Does “it”",
        "parameters": {"type": "object", "properties": {"é": {"type": "string"}}},
    },
}
DOCUMENTS = [{"title": "One", "text": " a\nb "}, {"title": "Two", "text": "c"}]


@pytest.fixture(scope="module")
def oracle() -> Callable[..., str]:
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"x": 0}, unk_token="x")), **TOKENS
    )

    def render(source: str, messages: list[dict[str, Any]], **options: Any) -> str:
        rendered: str = tokenizer.apply_chat_template(
            messages, chat_template=source, tokenize=False, **options
        )
        return rendered

    return render


@pytest.mark.parametrize("source", TEMPLATES.values(), ids=TEMPLATES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tools": [TOOL]},
        {"documents": DOCUMENTS},
        {"variables": {"enable_thinking": False, "date_string": "1 Jan 2030"}},
        {"add_generation_prompt": False},
    ],
    ids=lambda options: ",".join(options),
)
def test_same_text_as_transformers(
    oracle: Callable[..., str], source: str, options: dict[str, Any]
) -> None:
    given = {"add_generation_prompt": True, **options}
    variables = given.pop("variables", {})
    expected = oracle(source, MESSAGES, **given, **variables)
    rendered = ChatTemplate(source, TOKENS).render(MESSAGES, variables=variables, **given)
    assert rendered == expected


@pytest.mark.parametrize("name", ["chatml with tools and thinking", "headers and a date"])
def test_the_same_message_is_continued(oracle: Callable[..., str], name: str) -> None:
    messages = [*MESSAGES, {"role": "assistant", "content": "It is"}]
    source = TEMPLATES[name]
    expected = oracle(source, messages, continue_final_message=True)
    assert ChatTemplate(source, TOKENS).render(messages, continue_last=True) == expected
