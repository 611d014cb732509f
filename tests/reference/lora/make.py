"""Thirty steps of LoRA fine-tuning in a plain PyTorch loop, float32: what ours must agree with.

    python3 tests/reference/lora/make.py FOLDER [--compare]     # needs torch and transformers (made with 2.15 and 5.23)

The model, the documents and the batches are those of tests/reference/sft. Writes to FOLDER: adapters.safetensors (each A as it starts), settings.json and
expected.json (loss, gradient norm before clipping and learning rate of each step, and the loss over all documents of the model with its adapters merged). With
--compare the losses are held against the committed ones. `stages/tests/lora.rs` compares ours.

y = W x + alpha / rank * B (A x) is spelt out below, by nothing but torch.
"""

import json
import math
import pathlib
import sys

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

HERE = pathlib.Path(__file__).resolve().parent
BASE = HERE.parent / "sft"
SETTINGS = dict(steps=30, rank=3, alpha=5.0, batch_tokens=160, length_max=36, peak=2e-2, warmup=0.1, floor=0.05, decay=0.1, beta1=0.9, beta2=0.95,
                epsilon=1e-8, norm_max=1.0)
MODULES = dict(q="self_attn.q_proj", k="self_attn.k_proj", v="self_attn.v_proj", o="self_attn.o_proj", gate="mlp.gate_proj", up="mlp.up_proj",
               down="mlp.down_proj")


class Adapted(torch.nn.Module):
    def __init__(self, linear, a):
        super().__init__()
        self.linear, self.a = linear, torch.nn.Parameter(a)
        self.b = torch.nn.Parameter(torch.zeros(linear.out_features, a.shape[0]))
        self.scale = SETTINGS["alpha"] / SETTINGS["rank"]

    def forward(self, x):
        return self.linear(x) + self.scale * ((x @ self.a.T) @ self.b.T)

    def merged(self):
        self.linear.weight.data += self.scale * (self.b @ self.a)
        return self.linear


def places(model):
    for index, layer in enumerate(model.model.layers):
        for name, path in MODULES.items():
            parent, child = path.split(".")
            yield f"layers.{index}.{name}.a", getattr(layer, parent), child


def adapt(model, generator):
    model.requires_grad_(False)
    starts = {}
    for name, parent, child in places(model):
        linear = getattr(parent, child)
        starts[name] = torch.randn(SETTINGS["rank"], linear.in_features, generator=generator) / linear.in_features ** 0.5
        setattr(parent, child, Adapted(linear, starts[name].clone()))
    return starts


def rate(done):
    """Warm-up from a fiftieth of the peak, then half a cosine down to the floor."""
    warmup, floor = SETTINGS["warmup"], SETTINGS["floor"]
    warmed = 1.0 if done >= warmup else max(done / warmup, 0.02)
    after = min(max((done - warmup) / (1 - warmup), 0.0), 1.0)
    return SETTINGS["peak"] * min(warmed, max(floor, 0.5 + 0.5 * math.cos(math.pi * after)))


def summed_loss(model, document):
    """The tail of a long document stays."""
    excess = max(0, len(document["tokens"]) - SETTINGS["length_max"])
    tokens, prompt = torch.tensor(document["tokens"][excess:]), max(1, document["prompt"] - excess)
    logits = model(tokens[None, :-1]).logits[0, prompt - 1:]
    return torch.nn.functional.cross_entropy(logits, tokens[prompt:], reduction="sum"), len(tokens) - prompt


def train(model, documents, batches):
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    adamw = torch.optim.AdamW(learnt, lr=0.0, betas=(SETTINGS["beta1"], SETTINGS["beta2"]), eps=SETTINGS["epsilon"], weight_decay=SETTINGS["decay"],
                              foreach=False)
    rows = []
    for step in range(SETTINGS["steps"]):
        parts = [summed_loss(model, documents[index]) for index in batches[step]]
        loss = sum(part for part, _ in parts) / sum(targets for _, targets in parts)
        loss.backward()
        grad_norm = torch.nn.utils.clip_grad_norm_(learnt, SETTINGS["norm_max"]).item()
        learning_rate = rate(step / SETTINGS["steps"])
        for group in adamw.param_groups:
            group["lr"] = learning_rate
        adamw.step()
        adamw.zero_grad()
        rows.append(dict(loss=loss.item(), grad_norm=grad_norm, learning_rate=learning_rate))
    return rows


def main():
    torch.set_num_threads(1)
    target = pathlib.Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(13)
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32, attn_implementation="eager").train()
    save_file(adapt(model, generator), target / "adapters.safetensors")
    documents = json.loads((BASE / "documents.json").read_text())
    rows = train(model, documents, json.loads((BASE / "batches.json").read_text()))
    for _, parent, child in places(model):
        setattr(parent, child, getattr(parent, child).merged())
    with torch.no_grad():
        parts = [summed_loss(model, document) for document in documents]
    merged = (sum(part for part, _ in parts) / sum(targets for _, targets in parts)).item()
    made = dict(steps=rows, merged_loss=merged)
    (target / "settings.json").write_text(json.dumps(SETTINGS) + "\n")
    (target / "expected.json").write_text(json.dumps(made, indent=1) + "\n")
    print(f"lora: loss {rows[0]['loss']:.4f} to {rows[-1]['loss']:.4f}, merged {merged:.4f}")
    if "--compare" in sys.argv:
        kept = json.loads((HERE / "expected.json").read_text())
        pairs = zip(kept["steps"], rows, strict=True)
        worst = max([abs(old["loss"] - new["loss"]) for old, new in pairs] + [abs(kept["merged_loss"] - merged)])
        print(f"lora: largest difference to the committed losses {worst:.1e}")
        assert worst < 1e-5


main()
