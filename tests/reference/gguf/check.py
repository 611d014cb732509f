"""Converts model folders with llama.cpp's converter and compares every tensor and number of the GGUF files with the folders.

    python3 tests/reference/gguf/check.py CONVERTER EXPORTS     # needs torch, transformers, gguf, sentencepiece, protobuf

The converter knows tokenizers by the hash of what they make of a text; one that was trained here it is told.
"""

import json
import logging
import pathlib
import sys

import numpy
from safetensors.numpy import load_file

converter, exports = (pathlib.Path(argument).resolve() for argument in sys.argv[1:])
sys.path[:0] = [str(converter), str(converter / "gguf-py")]

import convert_hf_to_gguf  # noqa: E402
import gguf  # noqa: E402
from conversion.base import TextModel  # noqa: E402

TextModel.get_vocab_base_pre = lambda self, tokenizer: "qwen2"
MODULES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}
complaints = []


class Listener(logging.Handler):
    def emit(self, record):
        # transformers 5 spells out that nothing is scaled, which the converter does not know; the folder does not say it.
        if "Unknown RoPE type: default" not in record.getMessage():
            complaints.append(record.getMessage())


logging.getLogger("hf-to-gguf").addHandler(Listener(level=logging.WARNING))


def name_in_gguf(name):
    module, kind = name.rsplit(".", 1)
    if module.startswith("model.layers."):
        _, _, layer, module = module.split(".", 3)
        return f"blk.{layer}.{MODULES[module]}.{kind}"
    return f"{MODULES[module]}.{kind}"


def paired(tensor, heads):
    """Llama's queries and keys turn neighbouring channels in llama.cpp, halves of a head in the Hugging Face layout."""
    halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
    return halves.swapaxes(1, 2).reshape(tensor.shape)


def check(folder):
    made = converter / f"{folder.name}.gguf"
    sys.argv = ["convert_hf_to_gguf.py", str(folder), "--outtype", "f32", "--outfile", str(made)]
    convert_hf_to_gguf.main()
    reader, config = gguf.GGUFReader(made), json.loads((folder / "config.json").read_text())
    found = {tensor.name: tensor.data.reshape(tensor.shape[::-1]) for tensor in reader.tensors}
    heads = {"q": config["num_attention_heads"], "k": config["num_key_value_heads"]}
    ours = load_file(folder / "model.safetensors")
    for name, tensor in ours.items():
        if config["model_type"] == "llama" and (part := name.split(".")[-2][0]) in heads and "_proj" in name:
            tensor = paired(tensor, heads[part])
        other = found.pop(name_in_gguf(name))
        assert other.shape == tensor.shape and numpy.array_equal(other, tensor), name
    assert set(found) <= {"rope_freqs.weight"}, found.keys()
    family = config["model_type"]
    for field, expected in {
        "attention.head_count": config["num_attention_heads"], "attention.head_count_kv": config["num_key_value_heads"],
        "block_count": config["num_hidden_layers"], "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"], "context_length": config["max_position_embeddings"],
        "rope.freq_base": config["rope_theta"], "attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
    }.items():
        value = reader.fields[f"{family}.{field}"].contents()
        assert abs(value - expected) <= 1e-6 * abs(expected), (field, value, expected)
    return len(ours)


for folder in sorted(path for path in exports.iterdir() if path.is_dir() and not (path / "adapter").exists()):
    print(f"{folder.name}: {check(folder)} tensors as we wrote them")
assert not complaints, complaints
print("exports: llama.cpp's converter had nothing to complain about")
