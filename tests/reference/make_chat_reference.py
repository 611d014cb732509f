"""Writes what transformers' apply_chat_template makes of some conversations with templates after those of public model families.

    python3 tests/reference/make_chat_reference.py     # needs transformers (made with 5.23) and jinja2 (3.1)

Reads chat/NAME.jinja, writes chat/cases.json: template, messages, variables, and either what is expected or a template's own objection.
`stages/tests/chat.rs` compares byte for byte. The clock stands still, at `NOW`.
"""

import datetime
import json
import pathlib

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

HERE = pathlib.Path(__file__).parent
NOW = datetime.datetime(2025, 3, 9, 14, 5, 7)


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


chat_template_utils.datetime = Clock

USER = dict(role="user", content="  What is 90*3 + 5?\n")
AGAIN = dict(role="user", content="And – naïvely – in °C? <b>\"quoted\"</b>")
SYSTEM = dict(role="system", content=" Answer briefly. ")
ANSWER = dict(role="assistant", content="275\n\n")
THOUGHT = dict(role="assistant", content="<think>\n90*3 is 270\n</think>\n\n275")
REASONED = dict(role="assistant", content="5", reasoning_content="\n2 and 3\n")
CALL = dict(role="assistant", content="", tool_calls=[
    dict(type="function", id="abcdefgh1", function=dict(name="add", arguments=dict(a=270, b=5.5, note="it's \"é\" <&>", deep=dict(x=[1, None, True]))))])
TWO_CALLS = dict(role="assistant", content="Both.", tool_calls=[
    dict(type="function", id=f"abcdefgh{n}", function=dict(name="add", arguments=dict(a=n))) for n in (1, 2)])
RESULT = dict(role="tool", content="275.5", tool_call_id="abcdefgh1")
TOOLS = [dict(type="function", function=dict(
    name="add", description="Adds two numbers <a & b>.",
    parameters=dict(type="object", properties=dict(a=dict(type="number"), b=dict(type="number", description="né")), required=["a", "b"]))),
    dict(type="function", function=dict(name="now", description="Tells the time.", parameters=dict(type="object", properties={})))]
PARTS = dict(role="user", content=[dict(type="image"), dict(type="text", text=" Look. ")])

PLAIN = [[USER], [SYSTEM, USER], [USER, ANSWER, AGAIN], [SYSTEM, USER, ANSWER, AGAIN, ANSWER], [USER, AGAIN]]
CALLS = [[USER, CALL, RESULT, ANSWER, AGAIN], [USER, TWO_CALLS, RESULT, RESULT], [SYSTEM, USER, CALL]]
CASES = {
    "qwen2_5": [(c, {}) for c in PLAIN + CALLS] + [([USER], dict(tools=TOOLS)), ([SYSTEM, USER, CALL, RESULT], dict(tools=TOOLS))],
    "qwen3": [(c, {}) for c in PLAIN + CALLS] + [
        ([USER], dict(enable_thinking=False)), ([USER], dict(enable_thinking=True)), ([USER, THOUGHT, AGAIN], {}), ([USER, THOUGHT], {}),
        ([USER, REASONED, AGAIN, REASONED], {}), ([USER, THOUGHT, AGAIN, CALL, RESULT, THOUGHT], dict(tools=TOOLS)),
        ([SYSTEM, USER], dict(tools=TOOLS, enable_thinking=False))],
    "llama3": [(c, {}) for c in PLAIN + CALLS] + [
        ([USER], dict(date_string="1 Jan 2030")), ([SYSTEM, USER], dict(tools=TOOLS)), ([SYSTEM, USER], dict(tools=TOOLS, tools_in_user_message=False)),
        ([SYSTEM], dict(tools=TOOLS))],
    "gemma": [(c, {}) for c in PLAIN] + [([PARTS], {}), ([USER, ANSWER], {})],
    "mistral": [(c, {}) for c in PLAIN + CALLS] + [([USER], dict(tools=TOOLS)), ([SYSTEM, USER, CALL, RESULT, ANSWER, AGAIN], dict(tools=TOOLS))],
    "phi3": [(c, {}) for c in PLAIN],
    "idioms": [([SYSTEM, USER, ANSWER, AGAIN], {})],
}

tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(HERE / "tokenizer" / "tokenizer.json"), bos_token="<|im_start|>", eos_token="<|endoftext|>")
cases = []
for name, conversations in CASES.items():
    template = (HERE / "chat" / f"{name}.jinja").read_text()
    for messages, variables in conversations:
        for add_generation_prompt in (False, True):
            case = dict(template=name, add_generation_prompt=add_generation_prompt, messages=messages, variables=variables)
            try:
                case["expected"] = tokenizer.apply_chat_template(
                    messages, chat_template=template, add_generation_prompt=add_generation_prompt, tokenize=False, **variables)
            except TemplateError as error:
                case["objection"] = str(error)
            cases.append(case)
written = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
(HERE / "chat" / "cases.json").write_text(f"[\n{written}\n]\n")
print(f"{len(cases)} conversations, {sum('objection' in case for case in cases)} refused by their template")
