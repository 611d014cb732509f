"""Makes the small PyTorch references that stages/tests/decoder.rs compares with.

    python tests/reference/make_decoder_reference.py OUTPUT_FOLDER

Needs torch and transformers from PyPI. For each configuration: a Qwen2 model with random weights in Hugging Face layout, two packed
documents, their logits, the mean loss on the target positions, and the gradient of every parameter (all float32, a few hundred kB).
"""
import json, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from transformers import Qwen2Config, Qwen2ForCausalLM

CASES = {
    "tied": dict(vocab_size=53, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                 intermediate_size=80, tie_word_embeddings=True, rope_theta=10000.0, rms_norm_eps=1e-6),
    "untied": dict(vocab_size=61, hidden_size=56, num_hidden_layers=2, num_attention_heads=7, num_key_value_heads=1,
                   intermediate_size=72, tie_word_embeddings=False, rope_theta=1000000.0, rms_norm_eps=1e-5),
}
# (prompt length, target length) of each document; the loss counts the targets only.
DOCUMENTS = [(5, 9), (3, 1), (8, 20)]


def make(name: str, settings: dict, folder: Path) -> None:
    torch.manual_seed(sum(map(ord, name)))
    model = Qwen2ForCausalLM(Qwen2Config(**settings, max_position_embeddings=128, attn_implementation="eager")).float()
    with torch.no_grad():  # weights of a size that makes every term count
        for key, parameter in model.named_parameters():
            scale = 0.5 if "norm" in key or "bias" in key else 1.5 / parameter.shape[-1] ** 0.5
            parameter.copy_(torch.randn_like(parameter) * scale + (1.0 if "norm" in key else 0.0))
    model.save_pretrained(folder)
    documents, logits, losses = [], [], []
    for prompt, target in DOCUMENTS:
        tokens = torch.randint(0, settings["vocab_size"], (prompt + target,))
        out = model(tokens[None]).logits[0]
        losses.append(torch.nn.functional.cross_entropy(out[prompt - 1:-1], tokens[prompt:], reduction="sum"))
        documents.append(dict(tokens=tokens.tolist(), prompt=prompt))
        logits.append(out)
    loss = torch.stack(losses).sum() / sum(target for _, target in DOCUMENTS)
    loss.backward()
    expected = {f"grad.{key}": p.grad.contiguous() for key, p in model.named_parameters()}
    expected["logits"] = torch.cat(logits).detach().contiguous()
    save_file(expected, folder / "expected.safetensors")
    (folder / "documents.json").write_text(json.dumps(dict(documents=documents, loss=loss.item()), indent=1) + "\n")


for name, settings in CASES.items():
    folder = Path(sys.argv[1]) / name
    folder.mkdir(parents=True, exist_ok=True)
    make(name, settings, folder)
    print(name, sum(f.stat().st_size for f in folder.iterdir()), "bytes")
