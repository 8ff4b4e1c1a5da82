"""Chat templates in the styles of well-known models, each with messages: what make_tokenizer_goldens.py renders."""

CHAT = [
    {"role": "system", "content": "You are terse.\nVery."},
    {"role": "user", "content": "  Is 1 < 2 & \"quoted\"? é 你好 \U0001f600 "},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "Why?"},
]

TOOLS = [{"type": "function", "function": {
    "name": "search", "description": "Finds <b>pages</b> & \"facts\" – é",
    "parameters": {"type": "object", "properties": {
        "query": {"type": "string"}, "limits": {"type": "array", "items": {"type": "number", "default": 1.5e-7}},
        "flag": {"type": "boolean", "default": True}, "none": None}, "required": ["query"]}}}]

TOOL_CHAT = [
    {"role": "user", "content": "Look it up."},
    {"role": "assistant", "content": "", "tool_calls": [
        {"type": "function", "function": {"name": "search", "arguments": {"query": "a\tb\"c\\", "limits": [1, 2.0, 1e16]}}}]},
    {"role": "tool", "content": "first"},
    {"role": "tool", "content": "second"},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\nDone."},
    {"role": "user", "content": "Thanks."},
]

CHATML = """\
{% for message in messages %}
    {% if loop.first and message['role'] != 'system' %}
<|im_start|>system
You help.<|im_end|>
    {% endif %}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' }}
{% endfor %}
{% if add_generation_prompt %}
<|im_start|>assistant
{% endif %}
"""

LLAMA3 = """\
{{- bos_token }}
{%- set date = "26 Jul 2024" if not date_string is defined else date_string %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nToday: " + date + "\\n\\n" + system_message + "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("one tool call at once") }}
        {%- endif %}
        {{- '{"name": "' + message.tool_calls[0].function.name + '", "parameters": ' }}
        {{- message.tool_calls[0].function.arguments | tojson }}
        {{- "}" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

MISTRAL = """\
{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set ns = namespace(index=0, seen=[]) %}
{%- for message in loop_messages %}
    {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
        {{- raise_exception("roles must alternate") }}
    {%- endif %}
    {%- set ns.index = ns.index + 1 %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- else %}
        {{- " " + message["content"] + eos_token }}
    {%- endif %}
{%- endfor %}
"""

QWEN = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {{- "# Tools\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- endif %}
{%- set ns = namespace(last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if message.role == "user" and message.content is string and not message.content.startswith('<tool_response>') %}
        {%- set ns.last = index %}
        {%- break %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == "system" %}
        {%- continue %}
    {%- endif %}
    {%- if message.role == "tool" %}
        {%- if loop.previtem is not defined or loop.previtem.role != "tool" %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
        {%- if loop.last or loop.nextitem.role != "tool" %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- else %}
        {%- set content = message.content %}
        {%- if '</think>' in content and loop.index0 < ns.last %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- for call in message.tool_calls or [] %}
            {%- set call = call.function if call.function else call %}
            {{- '\\n<tool_call>\\n{"name": "' ~ call.name ~ '", "arguments": ' ~ (call.arguments | tojson) ~ '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""

PHI3 = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{'<|system|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}"
    "{% else %}{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)

PYTHON = """\
{#- what templates borrow from Python -#}
{%- macro show(name, value) -%}
{{ name }}={{ value }};
{%- endmacro %}
{%- for key, value in tools[0].function.parameters.properties.items() %}
{{ show(key, value.type) }}
{%- endfor %}
{{ messages[0].content.strip().upper().split(' ')|join('|') }}
{{ messages|map(attribute='role')|list }} {{ messages|selectattr('role', 'equalto', 'user')|list|length }}
{{ tools[0].function.parameters | tojson(indent=4) }}
{{ {'z': 1, 'a': [], 'é': {}} | tojson(ensure_ascii=True, sort_keys=True, separators=(',', ':')) }}
{{ messages[0].get('name', 'nobody') }} {{ messages[0].get('name') }} {{ true }} {{ none }} {{ [1, 'a', none, 2.5] }}
{{ 'abc'.replace('b', '<') }} {{ 'a,b'.split(',') }} {{ 'x'.endswith('x') }} {{ '%s-%d' | format('s', 3) }} {{ 7 // 2 }}
{% generation %}kept{% endgeneration %}

{{- undefined_name }}|{{ documents is none }}|{{ 'tail' if tools is not none }}
{% for i in range(3) if i != 1 %}{{ loop.index }}:{{ i }}{{ ',' if not loop.last }}{% endfor %}
"""

REASONING = """\
{% for m in messages %}{{ m.role }}:{{ m.content }}{% if m.reasoning_content %}[{{ m.reasoning_content }}|{{ m.thinking }}]{% endif %};{% endfor %}
"""

LLAMA_TOKENS = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
SPM_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def case(name, template, messages, tokens=None, prompt=True, **variables):
    return {"name": name, "template": template, "messages": messages, "special_tokens": tokens or {},
            "add_generation_prompt": prompt, "variables": variables}


CASES = [
    case("chatml", CHATML, CHAT),
    case("chatml without a system message", CHATML, CHAT[1:], prompt=False),
    case("llama3", LLAMA3, CHAT, LLAMA_TOKENS),
    case("llama3 calling a tool", LLAMA3, TOOL_CHAT[:2], LLAMA_TOKENS, date_string="1 Jan 2025"),
    case("mistral", MISTRAL, CHAT, SPM_TOKENS),
    case("qwen", QWEN, CHAT),
    case("qwen with tools", QWEN, TOOL_CHAT, tools=TOOLS),
    case("qwen not thinking", QWEN, CHAT, enable_thinking=False),
    case("phi3", PHI3, CHAT, SPM_TOKENS),
    case("phi3 without a prompt", PHI3, CHAT, SPM_TOKENS, prompt=False),
    case("python", PYTHON, CHAT, tools=TOOLS),
    case("reasoning", REASONING, [{"role": "user", "content": "q"},
                                  {"role": "assistant", "thinking": "t", "content": "a"}]),
]
