"""Train a LoRA adapter on a small model, in an evening, at home.

    pip install torch transformers peft
    python train_lora.py MODEL chats.jsonl my-adapter

MODEL is a checkpoint folder, or a name on the Hugging Face hub such as Qwen/Qwen2.5-0.5B-Instruct. chats.jsonl holds
one conversation a line, of which the last message is the reply to be learnt:

    {"messages": [{"role": "user", "content": "What is the capital of Peru?"},
                  {"role": "assistant", "content": "Answer: Lima\\nConfidence: high"}]}

Some 200 lines are enough for a manner, such as a form of reply. The tutorial goes on from here: docs/tutorial-lora.md.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

IGNORED = -100  # PyTorch's cross entropy passes over this label


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a checkpoint folder, or a name on the hub")
    parser.add_argument("chats", type=Path, help="conversations, one JSON object a line")
    parser.add_argument("output", type=Path, help="the folder for the adapter")
    parser.add_argument("--rank", type=int, default=8, help="of each layer's change; more holds more (default: 8)")
    parser.add_argument("--epochs", type=int, default=3, help="how often each chat is seen (default: 3)")
    parser.add_argument("--batch", type=int, default=8, help="chats a step (default: 8)")
    parser.add_argument("--rate", type=float, default=2e-4, help="the highest learning rate (default: 2e-4)")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="to compute in (default: bfloat16 on a GPU)")
    parser.add_argument("--held-out", type=float, default=0.1, help="the share of chats to watch only (default: 0.1)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed trains the same adapter (default: 0)")
    options = parser.parse_args()
    if options.output.exists():
        sys.exit(f"error: {options.output} exists already; name another folder")
    torch.manual_seed(options.seed)
    shuffled = random.Random(options.seed)

    # A GPU if there is one. On the processor float32, unless told otherwise: bfloat16 is slow on most, and faster only
    # on those that compute with it (avx512_bf16 or amx_bf16 in /proc/cpuinfo). The adapter is float32 in any case.
    device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    dtype = getattr(torch, options.dtype or ("float32" if device == "cpu" else "bfloat16"))
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype).to(device)

    # All linear layers of the blocks. Embedding and output layer stay as they are: llama.cpp could not apply an adapter
    # of theirs, and a manner needs neither. lora_alpha / rank is what the change is multiplied by.
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=options.rank,
        lora_alpha=2 * options.rank,
        lora_dropout=0.05,
        target_modules="all-linear",
    )
    model = get_peft_model(model, lora)
    trained, count = model.get_nb_trainable_parameters()
    print(f"training {trained:,} of {count:,} numbers on {device}")

    examples = [example(tokenizer, chat) for chat in read_chats(options.chats)]
    shuffled.shuffle(examples)
    watched = examples[: int(len(examples) * options.held_out)]
    examples = examples[len(watched) :]
    if not examples:
        sys.exit("error: no chat is left to train on; give more, or --held-out 0")

    steps = options.epochs * math.ceil(len(examples) / options.batch)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=options.rate)
    # Up within the first tenth of the steps, then down along a cosine.
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / max(1, steps // 10)) * 0.5 * (1 + math.cos(math.pi * step / steps)),
    )
    started, step = time.monotonic(), 0
    for epoch in range(options.epochs):
        shuffled.shuffle(examples)
        model.train()
        for start in range(0, len(examples), options.batch):
            loss = batch_loss(model, examples[start : start + options.batch], device)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            step += 1
            left = (time.monotonic() - started) / step * (steps - step)
            print(f"\rstep {step} of {steps}, loss {loss.item():.3f}, {left:.0f} s left ", end="", file=sys.stderr)
        print(file=sys.stderr)
        if watched:
            # Training has gone too far when this rises again: take fewer epochs then, or more chats.
            model.eval()
            with torch.no_grad():
                losses = [batch_loss(model, [chat], device).item() for chat in watched]
            print(f"epoch {epoch + 1}: loss on {len(watched)} chats held out: {sum(losses) / len(losses):.3f}")
        model.save_pretrained(options.output)  # after each epoch, so that an evening cut short leaves an adapter
    print(f"written: {options.output}, after {time.monotonic() - started:.0f} s of training")


def read_chats(path: Path) -> list[list[dict[str, str]]]:
    """The conversations of a file. Ends the program where a line is none that ends with a reply."""
    chats = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            messages = json.loads(line)["messages"]
            if messages[-1]["role"] != "assistant":
                raise ValueError("the last message is not the assistant's")
        except (ValueError, KeyError, IndexError, TypeError) as error:
            sys.exit(f"error: {path}, line {number}: {error}")
        chats.append(messages)
    return chats


def example(tokenizer, messages: list[dict[str, str]]) -> tuple[list[int], list[int]]:
    """Token ids of a conversation by the model's own template, and their labels: only the last reply is learnt.

    What ends the reply is learnt too. Without it a tuned model goes on talking.
    """
    before = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    if not whole.startswith(before):
        sys.exit("error: the chat template writes a question otherwise once it is answered")
    context = tokenizer(before, add_special_tokens=False).input_ids
    reply = tokenizer(whole[len(before) :], add_special_tokens=False).input_ids
    return context + reply, [IGNORED] * len(context) + reply


def batch_loss(model, batch: list[tuple[list[int], list[int]]], device: str) -> torch.Tensor:
    """The mean loss over the batch's reply tokens; shorter conversations are filled up at their ends."""
    longest = max(len(ids) for ids, _ in batch)
    ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in batch], device=device)
    mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in batch], device=device)
    labels = torch.tensor([labels + [IGNORED] * (longest - len(labels)) for _, labels in batch], device=device)
    # Logits from the token before the first reply on: those of a prompt are not needed, and a vocabulary is large.
    first = min(next(at for at, label in enumerate(labels) if label != IGNORED) for _, labels in batch)
    logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=longest - first + 1).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels[:, first:].flatten())


if __name__ == "__main__":
    main()
