"""Writes what transformers' AutoTokenizer makes of some texts with a tokenizer of ours, inside a Qwen2 model folder.

    python3 tests/reference/make_tokenizer_reference.py     # needs transformers (made with 5.23)

Reads tokenizer/tokenizer.json, which `stages/tests/tokenizer.rs` keeps equal to what is trained; writes tokenizer/ids.json.
"""

import json
import pathlib
import shutil
import tempfile

from transformers import AutoTokenizer

TARGET = pathlib.Path(__file__).parent / "tokenizer"
TEXTS = [
    "Dose 455 mg, tablets 90 70 60 mg, max 4?\n",
    "## Thinking\n\n90*3 185\nHmm, wait\n90*2 275\n\n## Final Response\n\n1/2/1<|endoftext|>",
    "<|im_start|>user\nIt's 2 o'clock, we'll WAIT.<|im_end|>\n",
    "Straße 漢字 naïve – 3½ \t tabs\r\n\r\n   and   spaces  \n",
    "Doses waiting waitHmm maxx tablet tabletsmg\u00a0mg",
]

with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    shutil.copy(TARGET / "tokenizer.json", folder)
    shutil.copy(TARGET.parent / "tied" / "config.json", folder)
    settings = dict(tokenizer_class="PreTrainedTokenizerFast", eos_token="<|endoftext|>", clean_up_tokenization_spaces=False)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = [dict(text=text, ids=tokenizer(text).input_ids) for text in TEXTS]
    assert all(tokenizer.decode(row["ids"]) == row["text"] for row in rows)
    (TARGET / "ids.json").write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n")
