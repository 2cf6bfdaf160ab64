"""Many clients of one server, of which a third leave at random: no wrong answer, no leak, no hang.

    python benchmarks/server_soak.py                                  32 clients for 2 minutes, the bundled family
    python benchmarks/server_soak.py --clients 8 --seconds 10

Every reply that a client takes to its end is compared with what the library gives for its question and dials, and must
be that; where clients have left, their replies must be gone, and memory must stay as it was after the first quarter.
Exit code 1 where one of these does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import httpx
import psutil

QUESTIONS = [f"What is the capital of {name}?" for name in ("Peru", "France", "Japan", "Kenya", "Norway", "Chile")]
DIALS = [(1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (0.5, 0.5)]
GROWTH = 1.10
"""How much more memory than after a quarter of the time is let pass: allocators keep some."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    command = [str(Path(sys.executable).with_name("eft-gguf")), "serve", "--port", "0", "--parallel", "8"]
    command += ["--threads", "1", "--queue", str(arguments.clients)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        found = re.search(r"http://\S+:\d+", process.stderr.readline())
        assert found, "the server did not start"
        return asyncio.run(soak(found[0], process.pid, arguments))
    finally:
        process.terminate()
        process.wait(30)


async def soak(url: str, pid: int, arguments: argparse.Namespace) -> int:
    wanted = expected()
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=httpx.Limits(max_connections=None)) as client:
        while (await client.get("/health")).status_code != 200:
            await asyncio.sleep(0.1)
        counts: Counter[str] = Counter()
        end = time.monotonic() + arguments.seconds
        tasks = [
            asyncio.create_task(visits(client, random.Random(arguments.seed + number), end, wanted, counts))
            for number in range(arguments.clients)
        ]
        await asyncio.sleep(arguments.seconds / 4)
        before = memory(pid)
        # A minute beyond the end: whoever is not done by then hangs.
        done, hanging = await asyncio.wait(tasks, timeout=arguments.seconds + 60)
        for task in done:
            task.result()
        await asyncio.sleep(0.5)
        left = re.search(r"^eft_orders (\S+)", (await client.get("/metrics")).text, re.MULTILINE)
        after = memory(pid)
        restarts = (await client.get("/health")).json()["restarts"]
    report = {
        **counts,
        "hanging": len(hanging),
        "orders left": float(left[1]) if left else -1,
        "restarts": restarts,
        "memory after a quarter, MB": round(before / 1e6, 1),
        "memory at the end, MB": round(after / 1e6, 1),
    }
    print(json.dumps(report, indent=1))
    good = not hanging and not report["orders left"] and not restarts and after < GROWTH * before
    return 0 if good and not counts["wrong"] and not counts["failed"] and counts["right"] else 1


async def visits(
    client: httpx.AsyncClient,
    rng: random.Random,
    end: float,
    wanted: dict[tuple[str, float, float], str],
    counts: Counter[str],
) -> None:
    """One client, request after request; every third is left at some point of the reply, or before it."""
    while time.monotonic() < end:
        question, (knowledge, behaviour) = rng.choice(QUESTIONS), rng.choice(DIALS)
        body = {
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "max_tokens": 40,
            "stream": True,
            "eft": {"knowledge": knowledge, "behaviour": behaviour},
        }
        patience = rng.uniform(0, 0.3) if rng.random() < 1 / 3 else 60
        try:
            text = await asyncio.wait_for(reply(client, body), patience)
        except asyncio.TimeoutError:
            counts["left" if patience < 60 else "failed"] += 1
            continue
        except (httpx.HTTPError, RuntimeError) as error:
            print(f"failed: {error!r}", file=sys.stderr)
            counts["failed"] += 1
            continue
        right = text == wanted[question, knowledge, behaviour]
        counts["right" if right else "wrong"] += 1
        if not right:
            print(f"wrong at {question} {knowledge} {behaviour}: {text!r}", file=sys.stderr)


async def reply(client: httpx.AsyncClient, body: object) -> str:
    """The whole text of a streamed reply."""
    text = ""
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                chunk = json.loads(line[6:])
                if "error" in chunk:
                    raise RuntimeError(chunk["error"]["message"])
                text += chunk["choices"][0]["delta"].get("content") or ""
    return text


def expected() -> dict[tuple[str, float, float], str]:
    """What the library replies to each question under each setting of the dials."""
    from eft_gguf import EFT, Blend, Sampling

    sampling = Sampling(temperature=0, max_tokens=40)
    with EFT.bundled(threads=1) as eft:
        return {
            (question, *dials): eft.complete(
                [{"role": "user", "content": question}], blend=Blend(*dials), sampling=sampling
            ).text
            for question in QUESTIONS
            for dials in DIALS
        }


def memory(pid: int) -> int:
    """Resident bytes of the server's processes."""
    parent = psutil.Process(pid)
    return sum(process.memory_info().rss for process in (parent, *parent.children()))


if __name__ == "__main__":
    sys.exit(main())
