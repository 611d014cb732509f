"""Times PyTorch's counterparts of our kernels: peers.py OURS PEERS reads our lines of JSON and writes one a peer.

Products and attention run in bf16, as ours compute them; what is bound by memory runs in the f32 that ours are stored in.
"""

import json
import statistics
import sys

WARM_UPS = 5
RUNS = 21
DEVICE = "cuda"


def time_milliseconds(torch, work):
    """The median of several runs, by CUDA events."""
    for _ in range(WARM_UPS):
        work()
    times = []
    for _ in range(RUNS):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        work()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


class Peers:
    """One method an operation: yields (what the peer is, what to time) for a case's sizes."""

    def __init__(self, torch):
        self.torch = torch
        self.functional = torch.nn.functional

    def random(self, *shape, dtype=None, grad=False):
        values = self.torch.rand(*shape, device=DEVICE) - 0.5
        return values.to(dtype or self.torch.float32).requires_grad_(grad)

    def backward(self, output, inputs):
        """What computes the gradients of the inputs once more."""
        gradient = self.torch.rand_like(output)
        return lambda: self.torch.autograd.grad(output, inputs, gradient, retain_graph=True)

    def norm(self, way, rows, width):
        x, weight = self.random(rows, width, grad=True), self.random(width, grad=True)

        def plain(x, weight):
            return self.functional.rms_norm(x, (width,), weight, 1e-6)

        yield from self.eager_and_compiled("F.rms_norm", plain, way, (x, weight))

    def head_norm(self, way, rows, query_heads, key_value_heads, head_width):
        heads = query_heads + 2 * key_value_heads
        x = self.random(rows, heads, head_width, grad=True)
        weights = [self.random(head_width, grad=True) for _ in range(2)]

        def plain(x, *weights):
            queries, keys, values = x.split([query_heads, key_value_heads, key_value_heads], dim=1)
            normed = [self.functional.rms_norm(part, (head_width,), weight, 1e-6) for part, weight in zip((queries, keys), weights)]
            return self.torch.cat([*normed, values], dim=1)

        yield from self.eager_and_compiled("F.rms_norm of heads", plain, way, (x, *weights))

    def swiglu(self, way, rows, width):
        gate_up = self.random(rows, 2 * width, grad=True)

        def plain(gate_up):
            gate, up = gate_up.chunk(2, dim=-1)
            return self.functional.silu(gate) * up

        yield from self.eager_and_compiled("silu(gate) * up", plain, way, (gate_up,))

    def eager_and_compiled(self, name, plain, way, inputs):
        for peer, function in [(name, plain), (f"compiled {name}", self.torch.compile(plain))]:
            if way == "forward":
                with self.torch.no_grad():
                    function(*inputs)

                def work(function=function):
                    with self.torch.no_grad():
                        function(*inputs)

                yield peer, work
            else:
                yield peer, self.backward(function(*inputs), inputs)

    def embedding(self, way, rows, width, vocabulary):
        table = self.random(vocabulary, width, grad=True)
        rows = self.torch.arange(rows, device=DEVICE)
        tokens = self.torch.where(rows % 2 == 0, 1, rows * 7919 % vocabulary)
        yield from self.eager_and_compiled("F.embedding", lambda table: self.functional.embedding(tokens, table), way, (table,))

    def adamw(self, parameters):
        parameter = self.random(parameters, grad=True)
        parameter.grad = self.random(parameters)
        optimizer = self.torch.optim.AdamW([parameter], lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
        yield "fused AdamW", optimizer.step

    def advantages(self, episodes, steps):
        rewards, values = self.random(episodes, steps), self.random(episodes, steps)

        def loop():
            following, advantage = self.torch.zeros(episodes, device=DEVICE), self.torch.zeros(episodes, device=DEVICE)
            advantages = []
            for step in range(steps - 1, -1, -1):
                advantage = rewards[:, step] + 0.99 * following - values[:, step] + 0.99 * 0.95 * advantage
                following = values[:, step]
                advantages.append(advantage)
            advantages = self.torch.stack(advantages[::-1], dim=1)
            return advantages, advantages + values

        yield "a loop over steps", loop

    def attention(self, way, documents, tokens, query_heads, key_value_heads, head_width):
        from torch.nn.attention import SDPBackend, sdpa_kernel

        half = self.torch.bfloat16
        is_decode = way == "decode"
        queries = 1 if is_decode else tokens
        query = self.random(documents, query_heads, queries, head_width, dtype=half, grad=not is_decode)
        key, value = (
            self.random(documents, key_value_heads, tokens, head_width, dtype=half, grad=not is_decode) for _ in range(2)
        )

        def attend():
            return self.functional.scaled_dot_product_attention(
                query, key, value, is_causal=not is_decode, enable_gqa=True
            )

        for name, backend in [("flash", SDPBackend.FLASH_ATTENTION), ("cuDNN", SDPBackend.CUDNN_ATTENTION)]:

            def forward(backend=backend):
                with sdpa_kernel(backend), self.torch.no_grad():
                    attend()

            if way == "backward":
                with sdpa_kernel(backend):
                    yield f"SDPA {name}", self.backward(attend(), (query, key, value))
            else:
                yield f"SDPA {name}", forward

    attention_half = attention

    def rope(self, documents, tokens, query_heads, key_value_heads, head_width):
        x = self.random(documents, query_heads + key_value_heads, tokens, head_width)
        angles = self.torch.rand(tokens, head_width // 2, device=DEVICE)
        cosines, sines = angles.cos(), angles.sin()

        def rotate(x):
            left, right = x.chunk(2, dim=-1)
            return self.torch.cat([left * cosines - right * sines, right * cosines + left * sines], dim=-1)

        yield from self.eager_and_compiled("rotate halves", rotate, "forward", (x,))

    def product(self, way, m, n, k):
        half = self.torch.bfloat16
        a = self.random(k, m, dtype=half).T if way == "tn" else self.random(m, k, dtype=half)
        b = self.random(n, k, dtype=half).T if way == "nt" else self.random(k, n, dtype=half)
        yield "torch.matmul in bf16", lambda: self.torch.matmul(a, b)

    def logprob(self, way, rows, vocabulary, width):
        half = self.torch.bfloat16
        hidden, weight = self.random(rows, width, dtype=half, grad=True), self.random(vocabulary, width, dtype=half, grad=True)
        targets = self.torch.arange(rows, device=DEVICE) * 7919 % vocabulary

        def gathered(hidden, weight):
            logits = (hidden @ weight.T).float()
            return self.torch.log_softmax(logits, dim=-1).gather(1, targets[:, None])

        yield from self.eager_and_compiled("log_softmax and gather", gathered, way, (hidden, weight))

    def loss_and_gradients(self, name, loss, inputs):
        for peer, function in [(name, loss), (f"compiled {name}", self.torch.compile(loss))]:
            yield peer, lambda function=function: self.torch.autograd.grad(function(*inputs), inputs)

    def cross_entropy(self, rows, vocabulary, width):
        half = self.torch.bfloat16
        inputs = [self.random(size, width, dtype=half, grad=True) for size in (rows, vocabulary)]
        targets = self.torch.arange(rows, device=DEVICE) * 7919 % vocabulary

        def loss(hidden, weight):
            return self.functional.cross_entropy((hidden @ weight.T).float(), targets)

        yield from self.loss_and_gradients("F.cross_entropy", loss, inputs)

    def ppo(self, answers, tokens):
        old, advantages, weights = (self.random(answers, tokens) for _ in range(3))

        def loss(logp):
            ratio = (logp - old).exp()
            return (weights * self.torch.maximum(-advantages * ratio, -advantages * ratio.clamp(0.8, 1.2))).sum()

        yield from self.loss_and_gradients("the clipped loss", loss, [self.random(answers, tokens, grad=True)])

    def dpo(self, answers, tokens):
        reference = self.random(answers, tokens)

        def loss(logp):
            sums = (logp - reference).sum(dim=1)
            return -self.functional.logsigmoid(0.1 * (sums[0::2] - sums[1::2])).mean()

        yield from self.loss_and_gradients("the pairs' loss", loss, [self.random(answers, tokens, grad=True)])

    def sample(self, way, rows, vocabulary):
        logits = self.random(rows, vocabulary)

        def draw():
            return self.torch.multinomial(self.torch.softmax(logits, dim=-1), 1)

        def draw_of_likeliest():
            shares, order = self.torch.softmax(logits, dim=-1).sort(dim=-1, descending=True)
            shares = shares.where(shares.cumsum(dim=-1) - shares < 0.95, 0.0)
            return order.gather(1, self.torch.multinomial(shares, 1))

        yield ("softmax and multinomial", draw) if way == "plain" else ("sort, cumsum and multinomial", draw_of_likeliest)


def method_and_way(name):
    """`norm forward, 7B` is timed by `norm` with the way `forward`; `adamw` has no way, `sample` a plain one."""
    words = name.split(",")[0].split()
    ways = words[1:] or (["plain"] if words[0] == "sample" else [None])
    return words[0], ways[0]


def peers_of(torch, case):
    """The case's peers, timed. One that this PyTorch or this GPU does not have is told, not hidden."""
    name, way = method_and_way(case["name"])
    arguments = ([way] if way else [])
    results = []
    try:
        for peer, work in getattr(Peers(torch), name)(*arguments, **case["sizes"]):
            results.append({"name": case["name"], "peer": peer, "milliseconds": time_milliseconds(torch, work)})
    except (RuntimeError, torch.OutOfMemoryError) as error:
        results.append({"name": case["name"], "peer": "failed", "reason": str(error).splitlines()[0]})
    torch.cuda.empty_cache()
    return results


def main():
    ours, target = sys.argv[1:]
    open(target, "w").close()
    try:
        import torch
    except ImportError:
        return print("PyTorch is not installed on this machine, so its kernels were not timed")
    if not torch.cuda.is_available():
        return print("PyTorch finds no GPU on this machine, so its kernels were not timed")
    with open(ours) as cases, open(target, "w") as lines:
        for case in map(json.loads, cases):
            for result in peers_of(torch, case):
                print(f"{result['name']:<44} {result['peer']:<28} {result.get('milliseconds', result.get('reason'))}")
                lines.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
