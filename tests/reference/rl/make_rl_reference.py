"""Writes what a plain PyTorch loop makes of given answers: the losses of PPO, GRPO, RLOO and DPO, update by update, in float32.

    python3 tests/reference/rl/make_rl_reference.py [FOLDER]       # needs torch and transformers (made with 2.15 and 5.23)

In FOLDER, or beside this file: model/ (a random Qwen2 as transformers saves it), rollouts.json (prompts, answers with rewards, pairs),
expected.json (the losses of each arm). order.json is read: which problem stands where and which answers make a minibatch, as our
draws have it (`UPDATE_RL_ORDER=1 cargo test --release --test reinforcement order` writes it; the test compares it). Nothing here
knows our code: the model is transformers', gradients are autograd's, AdamW is torch's. `stages/tests/reinforcement.rs` compares.
"""

import copy
import json
import math
import pathlib
import shutil
import sys

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

HERE = pathlib.Path(__file__).parent.resolve()
TARGET = pathlib.Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else HERE
VOCABULARY, END, LONGEST = 29, 1, 12
ITERATIONS, ANSWERS, GROUP, PAIRS = 13, 16, 4, 24
torch.set_num_threads(1)


# --- what is given ---------------------------------------------------------------------------------------------------

def fresh_model(generator):
    sizes = dict(vocab_size=VOCABULARY, hidden_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                 intermediate_size=40, rms_norm_eps=1e-6, rope_theta=1e4, tie_word_embeddings=True, eos_token_id=END, bos_token_id=None)
    model = Qwen2ForCausalLM(Qwen2Config(**sizes, attn_implementation="eager", max_position_embeddings=64, use_sliding_window=False))
    model = model.float().eval()
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("norm.weight"):
            parameter.data = 1 + 0.1 * noise
        else:
            parameter.data = 0.1 * noise if name.endswith("bias") else noise / parameter.shape[1] ** 0.5
    model.tie_weights()
    return model


@torch.no_grad()
def sampled(model, prompt, generator):
    """One answer at temperature 1, ended by END or by the limit, and what it earns: an arbitrary taste, a little noisy."""
    tokens = list(prompt)
    while len(tokens) - len(prompt) < LONGEST and tokens[-1] != END:
        shares = torch.softmax(model(torch.tensor([tokens])).logits[0, -1], -1)
        tokens.append(torch.multinomial(shares, 1, generator=generator).item())
    answer = tokens[len(prompt):]
    taste = sum(token % 3 == 0 for token in answer) / len(answer)
    return dict(tokens=answer, reward=round(taste + 0.1 * torch.rand(1, generator=generator).item(), 3))


def given(model, generator):
    token = lambda: torch.randint(2, VOCABULARY, (1,), generator=generator).item()
    prompts = [[token() for _ in range(1 + index % 4)] + [2 + index] for index in range(ANSWERS)]
    groups = ANSWERS // GROUP
    answer = lambda problem: sampled(model, prompts[problem], generator)
    pair = lambda index: [answer(index % ANSWERS)["tokens"] for _ in range(2)]
    return dict(
        prompts=prompts,
        single=[[[answer(problem)] for problem in range(ANSWERS)] for _ in range(ITERATIONS)],
        grouped=[[[answer(problem) for _ in range(GROUP)] for problem in range(groups)] for _ in range(ITERATIONS)],
        pairs=[dict(problem=index % ANSWERS, answers=pair(index)) for index in range(PAIRS)],
    )


# --- the model's two heads -------------------------------------------------------------------------------------------

class WithValue(torch.nn.Module):
    """A decoder whose last hidden states also give a value, which is 0.5 at first."""

    def __init__(self, model):
        super().__init__()
        self.model, self.value = copy.deepcopy(model), torch.nn.Linear(24, 1)
        torch.nn.init.zeros_(self.value.weight)
        torch.nn.init.constant_(self.value.bias, 0.5)

    def values(self, text):
        return self.value(self.model.model(torch.tensor([text["all"][:-1]])).last_hidden_state[0, text["prompt"] - 1:])[:, 0]


def log_shares(model, text):
    model = getattr(model, "model", model) if isinstance(model, WithValue) else model
    logits = model(torch.tensor([text["all"][:-1]])).logits[0, text["prompt"] - 1:]
    return torch.log_softmax(logits, -1)


def logp(shares, text):
    return shares.gather(1, torch.tensor(text["all"][text["prompt"]:])[:, None])[:, 0]


def texts_of(prompts, problem, tokens):
    return dict(all=prompts[problem] + tokens, prompt=len(prompts[problem]))


# --- the learning rate and a step ------------------------------------------------------------------------------------

def linear_rate(peak, done, warmup=0.1, floor=0.1):
    warmed = max(done / warmup, 0.02) if done < warmup else 1.0
    falling = 1 - min(max((done - warmup) / (1 - warmup), 0.0), 1.0)
    return peak * min(warmed, max(floor, falling))


def adamw(module):
    return torch.optim.AdamW(module.parameters(), lr=0.0, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)


def step(module, optimizer, loss, rate):
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimizer.param_groups[0]["lr"] = rate
    optimizer.step()


# --- learning from one's own answers ---------------------------------------------------------------------------------

def surrogate(new, old, advantage, arm):
    ratio = torch.exp(new - old)
    low, high = arm["clip"]
    return -torch.minimum(ratio * advantage, torch.clamp(ratio, 1 - low, 1 + high) * advantage)


def policy_losses(policy, batch, arm, beta):
    """The surrogate loss, and everything that is added to it."""
    counting = [text for text in batch if text["counts"]]
    tokens = sum(len(text["old"]) for text in counting)
    loss, more, value = 0.0, 0.0, 0.0
    for text in counting:
        shares = log_shares(policy, text)
        new = logp(shares, text)
        if arm["ratio"] == "answer":
            term = surrogate(new.sum(), text["old"].sum(), text["advantages"][0], arm)
            weight = 1 / len(counting)
        else:
            term = surrogate(new, text["old"], text["advantages"], arm).sum()
            weight = {"tokens": 1 / tokens, "answers": 1 / (len(counting) * len(new)), "budget": 1 / (len(counting) * LONGEST)}[arm["over"]]
        loss = loss + weight * term
        if arm["kl_as"] == "loss":
            away = text["reference"] - new
            more = more + beta * weight * (torch.exp(away) - away - 1).sum()
        if arm["entropy"]:
            more = more + arm["entropy"] * weight * (shares.exp() * shares).sum()
        if arm.get("critic") == "shared":
            value = value + value_loss(policy, text, arm).sum() / tokens
    return loss, more, value


def value_loss(critic, text, arm):
    values = critic.values(text)
    free = (values - text["returns"]) ** 2
    if arm["value_clip"] is None:
        return 0.5 * free
    near = text["values"] + torch.clamp(values - text["values"], -arm["value_clip"], arm["value_clip"])
    return 0.5 * torch.maximum(free, (near - text["returns"]) ** 2)


def gae(rewards, values, gamma, trace):
    advantages, following, advantage = [], 0.0, 0.0
    for reward, value in zip(reversed(rewards.tolist()), reversed(values.tolist())):
        advantage = reward + gamma * following - value + gamma * trace * advantage
        following = value
        advantages.append(advantage)
    return torch.tensor(advantages[::-1])


def estimate(texts, arm, beta):
    """Advantages, and for PPO returns."""
    in_reward = beta if arm["kl_as"] == "reward" else 0.0
    if arm["algorithm"] == "ppo":
        for text in texts:
            rewards = -in_reward * (text["old"] - text["reference"])
            rewards[-1] += text["reward"]
            text["advantages"] = gae(rewards, text["values"], 1.0, arm["trace"])
            targets = gae(rewards, text["values"], 1.0, arm["value_trace"]) if arm["value_trace"] else text["advantages"]
            text["returns"] = targets + text["values"]
        if arm["whiten"]:
            flat = torch.cat([text["advantages"] for text in texts if text["counts"]]).double()
            for text in texts:
                text["advantages"] = ((text["advantages"] - flat.mean()) / (flat.std(unbiased=False) + 1e-6)).float()
        return
    for first in range(0, len(texts), GROUP):
        group = texts[first:first + GROUP]
        earned = torch.tensor([text["reward"] - in_reward * (text["old"] - text["reference"]).sum().item() for text in group])
        if arm["algorithm"] == "grpo":
            advantages = earned - earned.mean()
            advantages = advantages / (earned.std() + 1e-4) if arm["deviation"] else advantages
        else:
            advantages = earned - (earned.sum() - earned) / (GROUP - 1)
        for text, advantage in zip(group, advantages):
            text["advantages"] = advantage.repeat(len(text["old"]))


def practise(model, answers, prompts, order, arm):
    """The losses of all updates, in the order in which they are made."""
    shared = arm.get("critic") == "shared"
    policy, reference = WithValue(model) if shared else copy.deepcopy(model), copy.deepcopy(model)
    critic = WithValue(model) if arm.get("critic") == "separate" else None
    optimizers = (adamw(policy), critic and adamw(critic))
    losses, beta = [], arm["kl"]
    for iteration in range(ITERATIONS):
        texts, left = [], copy.deepcopy(answers[iteration])
        for problem in order["places"][iteration]:
            answer = left[problem].pop(0)
            cut_short = answer["tokens"][-1] != END
            texts.append(texts_of(prompts, problem, answer["tokens"]) | dict(reward=answer["reward"], counts=not (arm["mask"] and cut_short)))
        with torch.no_grad():
            for text in texts:
                text["old"], text["reference"] = logp(log_shares(policy, text), text), logp(log_shares(reference, text), text)
                if shared or critic:
                    text["values"] = (critic or policy).values(text)
        estimate(texts, arm, beta)
        for minibatch in order["value"][iteration] if critic else []:
            batch = [texts[place] for place in minibatch]
            tokens = sum(len(text["old"]) for text in batch if text["counts"])
            loss = sum(value_loss(critic, text, arm).sum() for text in batch if text["counts"]) / tokens
            step(critic, optimizers[1], loss, arm["value_lr"])
            losses.append(["value", loss.item()])
        rate = linear_rate(arm["lr"], (iteration + 1) / (ITERATIONS + 1))
        for minibatch in order["policy"][iteration]:
            loss, more, value = policy_losses(policy, [texts[place] for place in minibatch], arm, beta)
            step(policy, optimizers[0], loss + more + arm.get("coefficient", 0.0) * value, rate)
            losses.append(["policy", loss.item()])
            if shared:
                losses.append(["value", value.item()])
        if arm["kl_target"]:
            kl = sum((text["old"] - text["reference"]).sum().item() for text in texts) / len(texts)
            error = min(max(kl / arm["kl_target"] - 1, -0.2), 0.2)
            beta *= 1 + error * len(texts) / arm["kl_horizon"]
    return losses


# --- learning from preferences ---------------------------------------------------------------------------------------

def prefer(model, pairs, prompts, order, arm):
    policy, optimizer = copy.deepcopy(model), None
    optimizer = adamw(policy)
    texts = [[texts_of(prompts, pair["problem"], tokens) for tokens in pair["answers"]] for pair in pairs]
    with torch.no_grad():
        held = [[logp(log_shares(policy, text), text).sum() for text in pair] for pair in texts]
    losses, steps = [], sum(len(epoch) for epoch in order["pairs"])
    for batch in [batch for epoch in order["pairs"] for batch in epoch]:
        loss = 0.0
        for index in batch:
            better, worse = [logp(log_shares(policy, text), text).sum() - base for text, base in zip(texts[index], held[index])]
            margin = arm["beta"] * (better - worse)
            good, bad = torch.nn.functional.logsigmoid(margin), torch.nn.functional.logsigmoid(-margin)
            loss = loss - ((1 - arm["smoothing"]) * good + arm["smoothing"] * bad) / len(batch)
        step(policy, optimizer, loss, linear_rate(arm["lr"], (len(losses) + 1) / (steps + 1)))
        losses.append(["policy", loss.item()])
    return losses


PRACTICE = dict(lr=1e-3, clip=(0.2, 0.2), ratio="token", over="tokens", kl=0.05, kl_as="reward", kl_target=None, kl_horizon=200.0,
                entropy=0.0, mask=False)
PPO = PRACTICE | dict(algorithm="ppo", answers="single", trace=0.95, value_trace=None, value_clip=0.2, whiten=True, value_lr=2e-3)
ARMS = {
    "ppo": PPO | dict(critic="separate", kl_target=0.3),
    "ppo_shared": PPO | dict(critic="shared", coefficient=0.5, kl_as="loss", clip=(0.2, 0.3), entropy=0.01, value_trace=1.0, value_clip=None, mask=True),
    "grpo": PRACTICE | dict(algorithm="grpo", answers="grouped", over="answers", kl_as="loss", deviation=True),
    "grpo_without_deviation": PRACTICE | dict(algorithm="grpo", answers="grouped", over="budget", kl_as="loss", deviation=False, clip=(0.2, 0.28)),
    "rloo": PRACTICE | dict(algorithm="rloo", answers="grouped", ratio="answer"),
    "dpo": dict(algorithm="dpo", lr=1e-3, beta=0.1, smoothing=0.0),
    "dpo_smoothed": dict(algorithm="dpo", lr=1e-3, beta=0.5, smoothing=0.1),
}


def main():
    generator = torch.Generator().manual_seed(7)
    model = fresh_model(generator)
    shutil.rmtree(TARGET / "model", ignore_errors=True)
    model.save_pretrained(TARGET / "model")
    (TARGET / "model" / "generation_config.json").unlink(missing_ok=True)
    rollouts = given(model, generator)
    (TARGET / "rollouts.json").write_text(json.dumps(rollouts, separators=(",", ":")) + "\n")
    order, expected = json.loads((HERE / "order.json").read_text()), {}
    for name, arm in ARMS.items():
        if arm["algorithm"] == "dpo":
            expected[name] = prefer(model, rollouts["pairs"], rollouts["prompts"], order, arm)
        else:
            expected[name] = practise(model, rollouts[arm["answers"]], rollouts["prompts"], order[arm["answers"]], arm)
        assert all(math.isfinite(loss) for _, loss in expected[name]), name
        print(name, len(expected[name]), "losses, the last", expected[name][-1], flush=True)
    (TARGET / "expected.json").write_text(json.dumps(expected, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
