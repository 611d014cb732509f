"""One hundred steps of supervised fine-tuning in a plain PyTorch loop, float32: what ours must agree with.

    python3 tests/reference/sft/make.py FOLDER [--compare]     # needs torch and transformers (made with 2.15 and 5.23)

Writes to FOLDER: config.json and model.safetensors as transformers saves them, documents.json (tokens, and how many of them are the prompt), settings.json,
expected.json (loss, gradient norm before clipping and learning rate of each step). Which documents make a step is read from batches.json beside this file: our
order is drawn by our own generator, and `DECOCT_BLESS=1 cargo test --release --workspace --test training_parity` writes it. With --compare the losses are held
against the committed ones. `stages/tests/training_parity.rs` compares ours.

Each document goes through the model alone: no packing, no mask across documents. Everything else is spelt out below, by nothing but torch.
"""

import json
import math
import pathlib
import sys

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

HERE = pathlib.Path(__file__).resolve().parent
SIZES = dict(vocab_size=61, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=56,
             rms_norm_eps=1e-6, rope_theta=1e4, tie_word_embeddings=True, max_position_embeddings=64, use_sliding_window=False)
SETTINGS = dict(steps=100, batch_tokens=160, length_max=36, peak=4e-3, warmup=0.1, floor=0.05, decay=0.1, beta1=0.9, beta2=0.95, epsilon=1e-8, norm_max=2.0)


def documents(generator, count=48):
    """Count up from a number in steps that the prompt shows; the last ones are too long and lose their head."""
    made = []
    for index in range(count):
        length = int(torch.randint(4, 34, (1,), generator=generator)) if index < count - 4 else 40 + 3 * (count - index)
        start, stride = (int(value) for value in torch.randint(1, 60, (2,), generator=generator))
        prompt = int(torch.randint(1, length - 1, (1,), generator=generator))
        noise = torch.randint(0, 61, (length,), generator=generator)
        is_noisy = torch.rand(length, generator=generator) < 0.1
        tokens = [int(noise[at]) if is_noisy[at] else (start + at * stride) % 60 + 1 for at in range(length)]
        made.append(dict(tokens=tokens, prompt=prompt))
    return made


def truncated(document, length_max):
    """The tail stays."""
    excess = max(0, len(document["tokens"]) - length_max)
    return document["tokens"][excess:], max(1, document["prompt"] - excess)


def rate(done):
    """Warm-up from a fiftieth of the peak, then half a cosine down to the floor."""
    warmup, floor = SETTINGS["warmup"], SETTINGS["floor"]
    warmed = 1.0 if done >= warmup else max(done / warmup, 0.02)
    after = min(max((done - warmup) / (1 - warmup), 0.0), 1.0)
    return SETTINGS["peak"] * min(warmed, max(floor, 0.5 + 0.5 * math.cos(math.pi * after)))


def optimizer(model):
    """Decoupled decay of matrices alone."""
    parameters = list(model.parameters())
    groups = [dict(params=[it for it in parameters if it.ndim == 2], weight_decay=SETTINGS["decay"]),
              dict(params=[it for it in parameters if it.ndim == 1], weight_decay=0.0)]
    return torch.optim.AdamW(groups, lr=0.0, betas=(SETTINGS["beta1"], SETTINGS["beta2"]), eps=SETTINGS["epsilon"], foreach=False)


def train(model, texts, batches):
    adamw, rows = optimizer(model), []
    for step in range(SETTINGS["steps"]):
        batch = [texts[index] for index in batches[step]]
        targets = sum(len(tokens) - prompt for tokens, prompt in batch)
        loss = 0.0
        for tokens, prompt in batch:
            tokens = torch.tensor(tokens)
            logits = model(tokens[None, :-1]).logits[0, prompt - 1:]
            part = torch.nn.functional.cross_entropy(logits, tokens[prompt:], reduction="sum") / targets
            part.backward()
            loss += part.item()
        grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), SETTINGS["norm_max"]).item()
        learning_rate = rate(step / SETTINGS["steps"])
        for group in adamw.param_groups:
            group["lr"] = learning_rate
        adamw.step()
        adamw.zero_grad()
        rows.append(dict(loss=loss, grad_norm=grad_norm, learning_rate=learning_rate))
    return rows


def main():
    torch.set_num_threads(1)
    target = pathlib.Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(11)
    torch.manual_seed(11)
    model = Qwen2ForCausalLM(Qwen2Config(**SIZES, attn_implementation="eager")).float()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
        elif parameter.ndim == 2:
            parameter.data = torch.randn(parameter.shape, generator=generator) / parameter.shape[1] ** 0.5
    model.tie_weights()
    model.save_pretrained(target)
    (target / "generation_config.json").unlink(missing_ok=True)
    made = documents(generator)
    (target / "documents.json").write_text(json.dumps(made) + "\n")
    (target / "settings.json").write_text(json.dumps(SETTINGS) + "\n")
    if not (HERE / "batches.json").exists():
        return print("there is no batches.json yet: write it as the head of this file says, then run this again")
    batches = json.loads((HERE / "batches.json").read_text())
    texts = [truncated(document, SETTINGS["length_max"]) for document in made]
    rows = train(model.train(), texts, batches)
    (target / "expected.json").write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    clipped = sum(row["grad_norm"] > SETTINGS["norm_max"] for row in rows)
    print(f"sft: loss {rows[0]['loss']:.4f} to {rows[-1]['loss']:.4f}, {clipped} of {len(rows)} steps clipped")
    if "--compare" in sys.argv:
        kept = json.loads((HERE / "expected.json").read_text())
        worst = max(abs(old["loss"] - new["loss"]) for old, new in zip(kept, rows, strict=True))
        print(f"sft: largest difference to the committed losses {worst:.1e}")
        assert worst < 1e-5


main()
