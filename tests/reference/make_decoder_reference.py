"""Writes what Hugging Face transformers makes of two tiny random Qwen2 models: logits and gradients, in float32.

    python3 tests/reference/make_decoder_reference.py [FOLDER]     # needs torch and transformers (made with 2.15 and 5.23)

For each model a folder (in FOLDER, or beside this file): config.json and model.safetensors as transformers saves them, documents.json (tokens, and how many of
them are the prompt), expected.safetensors (`logits.I` of document I, all rows but the last; `gradient.NAME` of the mean
−log p of all targets of all documents). `stages/tests/decoder.rs` compares.
"""

import json
import pathlib
import shutil
import sys

import torch
from safetensors.torch import save_file
from transformers import Qwen2Config, Qwen2ForCausalLM

TARGET = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else __file__ + "/..").resolve()
COMMON = dict(attn_implementation="eager", max_position_embeddings=64, use_sliding_window=False)
MODELS = {
    "tied": dict(vocab_size=37, hidden_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                 intermediate_size=40, rms_norm_eps=1e-6, rope_theta=1e4, tie_word_embeddings=True),
    "untied": dict(vocab_size=50, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=1,
                   intermediate_size=48, rms_norm_eps=1e-5, rope_theta=1e6, tie_word_embeddings=False),
}
# (length, prompt): the shortest possible, an odd one, one longer than any tile of 24 rows.
DOCUMENTS = [(2, 1), (9, 4), (31, 12)]


def randomise(model, generator):
    """Weights large enough that every path matters; norms and biases away from 1 and 0."""
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("norm.weight"):
            parameter.data = 1 + 0.2 * noise
        elif name.endswith("bias"):
            parameter.data = 0.3 * noise
        else:
            parameter.data = 1.5 * noise / parameter.shape[1] ** 0.5


def reference(name, sizes):
    generator = torch.Generator().manual_seed(len(name))
    model = Qwen2ForCausalLM(Qwen2Config(**sizes, **COMMON)).float().eval()
    randomise(model, generator)
    model.tie_weights()
    documents, expected, losses = [], {}, []
    for index, (length, prompt) in enumerate(DOCUMENTS):
        tokens = torch.randint(sizes["vocab_size"], (length,), generator=generator)
        documents.append(dict(tokens=tokens.tolist(), prompt=prompt))
        logits = model(tokens[None, :-1]).logits[0]
        expected[f"logits.{index}"] = logits.detach().contiguous()
        losses.append(torch.nn.functional.cross_entropy(logits[prompt - 1:], tokens[prompt:], reduction="none"))
    torch.cat(losses).mean().backward()
    expected |= {f"gradient.{name}": parameter.grad.contiguous() for name, parameter in model.named_parameters()}
    folder = TARGET / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "documents.json").write_text(json.dumps(documents) + "\n")
    save_file(expected, folder / "expected.safetensors")


for name, sizes in MODELS.items():
    reference(name, sizes)
