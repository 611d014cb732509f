"""Loads model folders that we wrote (`stages/examples/export_models.rs`) in transformers, and adapters beside them in PEFT: no warning, no
tensor missing or left over, the same ids, prompts and logits.

    python3 tests/reference/check_exports.py FOLDER     # needs torch, transformers and peft
"""

import json
import logging
import pathlib
import sys
import warnings

import torch
import transformers
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

torch.set_num_threads(1)
complaints = []


class Listener(logging.Handler):
    def emit(self, record):
        complaints.append(record.getMessage())


transformers.logging.set_verbosity_warning()
transformers.logging.disable_progress_bar()
logging.captureWarnings(True)
warnings.simplefilter("always")
# What PEFT itself asks of transformers, whatever it loads.
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
for name in ("transformers", "peft", "py.warnings"):
    logging.getLogger(name).addHandler(Listener(level=logging.WARNING))


def relative(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


def check(folder):
    model, loaded = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, attn_implementation="eager")
    assert not any(loaded.values()), loaded
    assert model.dtype == torch.float32, model.dtype
    if (folder / "adapter").exists():
        model = PeftModel.from_pretrained(model, folder / "adapter")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ours = json.loads((folder / "ours.json").read_text())
    worst = 0
    for row in ours["texts"]:
        assert tokenizer(row["text"], add_special_tokens=False).input_ids == row["ids"], row["text"]
        assert tokenizer.decode(row["ids"]) == row["text"]
        expected = model(torch.tensor([row["ids"][:-1]])).logits[0].detach()
        worst = max(worst, relative(torch.tensor(row["logits"]).reshape(expected.shape), expected))
    assert tokenizer.apply_chat_template(ours["messages"], tokenize=False, add_generation_prompt=True) == ours["prompt"]
    assert tokenizer.eos_token_id == model.config.eos_token_id == model.generation_config.eos_token_id, "the end of a text"
    return worst


for folder in sorted(path for path in pathlib.Path(sys.argv[1]).iterdir() if path.is_dir()):
    worst = check(folder)
    print(f"{folder.name}: loaded, largest relative difference of logits {worst:.1e}")
    assert worst <= 1e-4
assert not complaints, complaints
print("exports: transformers and PEFT had nothing to complain about")
