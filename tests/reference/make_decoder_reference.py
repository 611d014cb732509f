"""Writes what Hugging Face transformers makes of small random models of every family: logits, gradients and greedy answers, in float32.

    python3 tests/reference/make_decoder_reference.py [FOLDER]     # needs torch and transformers (made with 2.15 and 5.23)

For each model a folder (in FOLDER, or beside this file): config.json and model.safetensors as transformers saves them, documents.json (tokens, and how many of
them are the prompt), expected.safetensors (`logits.I` of document I, all rows but the last; `gradient.NAME` of the mean
−log p of all targets of all documents), and for some greedy.json (`[prompt, answer]`s by `generate`). `stages/tests/decoder.rs` compares.

A greedy answer can be compared only where no two tokens tie: of two logits that differ by less than the rounding of float32, either
program may take either. So prompts are drawn until there are enough along whose answers the best token leads by at least `LEAD`,
which is some hundred times that rounding; the models' weights are large, so that few draws are refused.
"""

import json
import pathlib
import shutil
import sys

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

torch.set_num_threads(1)
TARGET = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else __file__ + "/..").resolve()
COMMON = dict(attn_implementation="eager", max_position_embeddings=64, bos_token_id=None, eos_token_id=None)
# No vocabulary is a multiple of 64.
MODELS = {
    "tied": dict(model_type="qwen2", vocab_size=37, hidden_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                 intermediate_size=40, rms_norm_eps=1e-6, rope_theta=1e4, tie_word_embeddings=True, use_sliding_window=False),
    # Four query heads share one key.
    "untied": dict(model_type="qwen2", vocab_size=50, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=1,
                   intermediate_size=48, rms_norm_eps=1e-5, rope_theta=1e6, tie_word_embeddings=False, use_sliding_window=False),
    # Three heads, each with a key of its own.
    "odd": dict(model_type="qwen2", vocab_size=41, hidden_size=30, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=3,
                intermediate_size=44, rms_norm_eps=1e-6, rope_theta=1e4, tie_word_embeddings=True, use_sliding_window=False,
                max_position_embeddings=128),
    # Heads wider than hidden_size / heads, as in most sizes of Qwen3.
    "qwen3": dict(model_type="qwen3", vocab_size=45, hidden_size=28, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                  head_dim=12, intermediate_size=36, rms_norm_eps=1e-6, rope_theta=1e6, tie_word_embeddings=True, use_sliding_window=False,
                  max_position_embeddings=128),
    # Seven query heads share one key; texts reach far beyond the original length of 12, so that pairs of every kind are met.
    "llama": dict(model_type="llama", vocab_size=51, hidden_size=42, num_hidden_layers=2, num_attention_heads=7, num_key_value_heads=1,
                  intermediate_size=40, rms_norm_eps=1e-5, rope_theta=1e2, tie_word_embeddings=False, max_position_embeddings=128,
                  rope_scaling=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                    original_max_position_embeddings=12)),
    # Biases on all four projections, heads narrower than hidden_size / heads, turns slowed down evenly.
    "biased": dict(model_type="llama", vocab_size=33, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=1,
                   head_dim=6, intermediate_size=28, rms_norm_eps=1e-6, rope_theta=1e4, tie_word_embeddings=True, attention_bias=True,
                   rope_scaling=dict(rope_type="linear", factor=2.5)),
}
# (length, prompt): the shortest possible, an odd one, one longer than any tile of 24 rows.
DOCUMENTS = [(2, 1), (9, 4), (31, 12)]
# Models that also answer, with prompts of 1 to 25 tokens, eight of each length.
ANSWERING = ["odd", "qwen3", "llama"]
LENGTHS, EACH, ANSWER, LEAD = range(1, 26), 8, 64, 3e-4


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


def logits_and_gradients(model, vocabulary, generator):
    documents, expected, losses = [], {}, []
    for index, (length, prompt) in enumerate(DOCUMENTS):
        tokens = torch.randint(vocabulary, (length,), generator=generator)
        documents.append(dict(tokens=tokens.tolist(), prompt=prompt))
        logits = model(tokens[None, :-1]).logits[0]
        expected[f"logits.{index}"] = logits.detach().contiguous()
        losses.append(torch.nn.functional.cross_entropy(logits[prompt - 1:], tokens[prompt:], reduction="none"))
    torch.cat(losses).mean().backward()
    expected |= {f"gradient.{name}": parameter.grad.contiguous() for name, parameter in model.named_parameters()}
    return documents, expected


def answers(model, vocabulary, generator):
    """`EACH` prompts of each length with the greedy answers, whose every token leads by `LEAD`."""
    kept, refused = [], 0
    for length in LENGTHS:
        of_length = []
        while len(of_length) < EACH:
            prompts = torch.randint(vocabulary, (EACH, length), generator=generator)
            made = model.generate(prompts, attention_mask=torch.ones_like(prompts), do_sample=False, max_new_tokens=ANSWER,
                                  pad_token_id=0, output_logits=True, return_dict_in_generate=True)
            best = torch.stack(made.logits).topk(2).values
            leads = (best[..., 0] - best[..., 1]).min(dim=0).values >= LEAD
            refused += (~leads).sum().item()
            of_length += [[row[:length].tolist(), row[length:].tolist()] for row, lead in zip(made.sequences, leads) if lead]
        kept += of_length[:EACH]
    print(f"{len(kept)} answers of {ANSWER} tokens, {refused} prompts refused for a near tie")
    return kept


def reference(name, sizes):
    generator = torch.Generator().manual_seed(len(name))
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**(COMMON | sizes))).float().eval()
    randomise(model, generator)
    model.tie_weights()
    documents, expected = logits_and_gradients(model, sizes["vocab_size"], generator)
    folder = TARGET / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "documents.json").write_text(json.dumps(documents) + "\n")
    save_file(expected, folder / "expected.safetensors")
    if name in ANSWERING:
        rows = ",\n".join(json.dumps(row, separators=(",", ":")) for row in answers(model, sizes["vocab_size"], generator))
        (folder / "greedy.json").write_text(f"[\n{rows}\n]\n")


for name, sizes in MODELS.items():
    reference(name, sizes)
