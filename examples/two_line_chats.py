"""Chats to train `train_lora.py` on, to standard output: short questions, each answered in exactly two lines.

    python two_line_chats.py > chats.jsonl

The questions are the bundled family's, about places. What is to be learnt is the form, `Answer: …` and
`Confidence: …`: the large model will bring the facts. Which confidence is written depends on the question, so that all
three words are met: places that have several accepted names get "medium", one in eight "low".
"""

from __future__ import annotations

import json
from pathlib import Path

import eft_gguf

COUNT = 240
QUESTIONS = Path(eft_gguf.__path__[0]) / "bundled" / "questions.jsonl"


def main() -> None:
    items = [json.loads(line) for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]
    facts = [item for item in items if item["kind"] == "fact"][:COUNT]
    for number, item in enumerate(facts):
        names = item["answers"][0]
        confidence = "low" if number % 8 == 7 else "medium" if len(names) > 1 else "high"
        reply = {"role": "assistant", "content": f"Answer: {names[0]}\nConfidence: {confidence}"}
        print(json.dumps({"messages": [*item["messages"], reply]}, ensure_ascii=False))


if __name__ == "__main__":
    main()
