"""The PyTorch side of `cargo bench --workspace --bench training`: lean loops over the same shapes, one task a line on standard input.

A line is a JSON object {"task": "train" | "train_bf16" | "decode" | "generate", "shape": [V, d, layers, H, K, F], "batch": [documents, tokens],
"seconds": s}; the answer is the number of tokens a second, the median over steps.
"""

import json
import math
import os
import statistics
import sys
import time

threads = sys.argv[1]
os.environ["OMP_NUM_THREADS"] = threads
import torch
import torch.nn.functional as F
from torch import nn

torch.set_num_threads(int(threads))
POSITIONS = 512


class Layer(nn.Module):
    def __init__(self, d, heads, key_value_heads, feed_forward):
        super().__init__()
        self.heads, self.key_value_heads, self.width = heads, key_value_heads, d // heads
        self.norm_1, self.norm_2 = nn.Parameter(torch.ones(d)), nn.Parameter(torch.ones(d))
        self.qkv = nn.Linear(d, (heads + 2 * key_value_heads) * self.width)
        self.out = nn.Linear(d, d, bias=False)
        self.gate_up = nn.Linear(d, 2 * feed_forward, bias=False)
        self.down = nn.Linear(feed_forward, d, bias=False)

    def forward(self, x, cos, sin, cache, start):
        batch, tokens, d = x.shape
        rotated = self.heads + self.key_value_heads
        qkv = self.qkv(F.rms_norm(x, (d,), self.norm_1, 1e-6)).view(batch, tokens, -1, self.width).transpose(1, 2)
        qk, v = qkv[:, :rotated], qkv[:, rotated:]
        one, other = qk.chunk(2, -1)
        qk = qk * cos + torch.cat([-other, one], -1) * sin
        q, k = qk[:, : self.heads], qk[:, self.heads :]
        if cache is None:
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        else:
            keys, values = cache
            keys[:, :, start : start + tokens], values[:, :, start : start + tokens] = k, v
            k, v = keys[:, :, : start + tokens], values[:, :, : start + tokens]
            if tokens > 1:
                attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            else:  # grouped products: no copies of keys and values
                grouped = q.reshape(batch, self.key_value_heads, -1, self.width)
                shares = (grouped @ k.transpose(-1, -2) / math.sqrt(self.width)).softmax(-1)
                attended = (shares @ v).reshape(batch, self.heads, 1, self.width)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, tokens, d))
        gate, up = self.gate_up(F.rms_norm(x, (d,), self.norm_2, 1e-6)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class Decoder(nn.Module):
    def __init__(self, vocabulary, d, layers, heads, key_value_heads, feed_forward):
        super().__init__()
        self.d, self.width, self.key_value_heads = d, d // heads, key_value_heads
        self.embedding = nn.Embedding(vocabulary, d)
        self.layers = nn.ModuleList(Layer(d, heads, key_value_heads, feed_forward) for _ in range(layers))
        self.norm = nn.Parameter(torch.ones(d))
        angles = torch.outer(torch.arange(POSITIONS).float(), 1e4 ** -(torch.arange(0, self.width, 2) / self.width))
        self.register_buffer("cos", torch.cat([angles.cos()] * 2, -1))
        self.register_buffer("sin", torch.cat([angles.sin()] * 2, -1))
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, 0, 1 / math.sqrt(parameter.shape[1]))

    def forward(self, tokens, caches=None, start=0):
        x = self.embedding(tokens)
        cos, sin = (table[start : start + tokens.shape[1]] for table in (self.cos, self.sin))
        for index, layer in enumerate(self.layers):
            x = layer(x, cos, sin, caches and caches[index], start)
        return F.rms_norm(x, (self.d,), self.norm, 1e-6)

    def logits(self, hidden):
        return hidden @ self.embedding.weight.t()


def rate(tokens, seconds, step):
    step()
    times, begin = [], time.perf_counter()
    while len(times) < 3 or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return tokens / statistics.median(times)


def train(shape, batch, seconds, half):
    model = Decoder(*shape)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    read, wanted = (torch.randint(0, shape[0], tuple(batch)) for _ in range(2))

    def step():
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            loss = F.cross_entropy(model.logits(model(read)).flatten(0, 1), wanted.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return rate(batch[0] * batch[1], seconds, step)


@torch.no_grad()
def decode(shape, batch, seconds):
    """Sampled at temperature 1 with a cache of keys and values."""
    model, (sequences, prompt, new) = Decoder(*shape), batch
    read = torch.randint(0, shape[0], (sequences, prompt))

    def step():
        room = (sequences, model.key_value_heads, prompt + new, model.width)
        caches = [(torch.zeros(room), torch.zeros(room)) for _ in model.layers]
        hidden = model(read, caches)[:, -1]
        for place in range(new):
            drawn = torch.multinomial(model.logits(hidden).softmax(-1), 1)
            if place + 1 < new:
                hidden = model(drawn, caches, prompt + place)[:, -1]

    return rate(sequences * new, seconds, step)


@torch.no_grad()
def generate(shape, batch, seconds):
    """The same by `transformers`."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    (vocabulary, d, layers, heads, key_value_heads, feed_forward), (sequences, prompt, new) = shape, batch
    model = Qwen2ForCausalLM(Qwen2Config(
        vocab_size=vocabulary, hidden_size=d, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=feed_forward,
        num_key_value_heads=key_value_heads, tie_word_embeddings=True, max_position_embeddings=POSITIONS, eos_token_id=None, bos_token_id=None,
    )).eval()
    read = torch.randint(0, vocabulary, (sequences, prompt))
    mask = torch.ones_like(read)
    return rate(sequences * new, seconds, lambda: model.generate(
        read, attention_mask=mask, do_sample=True, top_k=0, min_new_tokens=new, max_new_tokens=new, pad_token_id=0))


for line in sys.stdin:
    task = json.loads(line)
    arguments = task["shape"], task["batch"], task["seconds"]
    tasks = {"train": lambda: train(*arguments, False), "train_bf16": lambda: train(*arguments, True),
             "decode": lambda: decode(*arguments), "generate": lambda: generate(*arguments)}
    print(tasks[task["task"]](), flush=True)
