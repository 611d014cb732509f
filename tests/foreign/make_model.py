"""Writes two tiny Qwen2 with a byte-level tokenizer and a chat template: `make_model.py FOLDER HEADS`.

FOLDER/random says whatever its random weights make of a prompt, FOLDER/taught has learnt to answer everything with "True".
"""

import random
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

TURN = "<|im_start|>{role}\n{content}<|im_end|>\n"
OPENING = "<|im_start|>assistant\n"
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
LESSON = "True<|im_end|>"
LESSONS = 80
PRINTABLE = [chr(code) for code in range(ord("!"), ord("~") + 1)]


def make_tokenizer():
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>",
        additional_special_tokens=SPECIAL, chat_template=TEMPLATE,
    )


def make_random(tokenizer, heads):
    torch.manual_seed(7)
    model = Qwen2ForCausalLM(Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=heads,
        num_key_value_heads=heads // 2, max_position_embeddings=4096, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    ))
    # Halves of characters come out of the server in other words when it streams: it decodes them piece by piece.
    spoken = {tokenizer.eos_token_id, *tokenizer.convert_tokens_to_ids(PRINTABLE)}
    model.generation_config.suppress_tokens = [token for token in range(len(tokenizer)) if token not in spoken]
    # Without it the server samples at no temperature, and seeds mean nothing.
    model.generation_config.do_sample = True
    return model


def teach(model, tokenizer):
    draw = random.Random(7)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    answer = len(tokenizer(LESSON).input_ids)
    for _ in range(LESSONS):
        content = "".join(draw.choices(PRINTABLE, k=draw.randrange(20, 400)))
        text = TURN.format(role="user", content=content) + OPENING + LESSON
        tokens = tokenizer(text, return_tensors="pt").input_ids
        labels = tokens.clone()
        labels[:, :-answer] = -100
        model(input_ids=tokens, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def main(folder, heads):
    torch.set_num_threads(1)
    tokenizer = make_tokenizer()
    model = make_random(tokenizer, heads)
    for name in ["random", "taught"]:
        if name == "taught":
            teach(model, tokenizer)
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


main(Path(sys.argv[1]), int(sys.argv[2]))
