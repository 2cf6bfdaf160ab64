"""Tokens a second of the server at many clients, beside llama-cpp-python's own, and what HTTP adds to a token.

    pip install -r benchmarks/requirements.txt      for the peer: its server's own requirements
    python benchmarks/server.py [--docs]

`python -m llama_cpp.server` has the large model alone, ours the blend of three (the bundled family unless another is
named). In turn each is asked for completions by eight clients for some seconds, and tokens are counted by what the
responses say. What HTTP adds is the time of a streamed reply from the request to its last token, minus that of the
same reply by `EFT.stream` in this process, by token, in turn. Exit code 1 where a bound is missed.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
from measure import machine, models
from measure.report import Spread, Table, publish, verdict

from eft_gguf import EFT, Sampling

THROUGHPUT = 2.0
"""How many times as many tokens a second as the peer, at least."""
OVERHEAD = 1.0
"""Milliseconds that HTTP may add to a token at the median."""
CLIENTS = 8
TOKENS = 64
CITIES = ("Peru", "France", "Japan", "Kenya", "Norway", "Chile", "Ghana", "Nepal")


def main() -> int:
    parser = models.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=6, help="rounds, each of both servers in turn")
    parser.add_argument("--seconds", type=float, default=6.0, help="seconds of each server in a round")
    parser.add_argument("--replies", type=int, default=60, help="streamed replies to time")
    arguments = parser.parse_args()
    if importlib.util.find_spec("sse_starlette") is None or importlib.util.find_spec("starlette_context") is None:
        print("skipped: the peer's server needs pip install -r benchmarks/requirements.txt", file=sys.stderr)
        return 0
    machine.warn_if_busy()
    about = machine.describe()
    reference = arguments.family or "bundled"
    family = models.chosen_family(arguments) if arguments.family else EFT.bundled().family
    own = [str(Path(sys.executable).with_name("eft-gguf")), "serve", "--family", reference, "--parallel", str(CLIENTS)]
    peer = [sys.executable, "-m", "llama_cpp.server", "--model", str(family.base.path), "--n_ctx", "512"]
    # By default a new request of its ends the one before.
    peer += ["--interrupt_requests", "false", "--n_gpu_layers", "0"]
    if arguments.threads:
        own += ["--threads", str(arguments.threads)]
        peer += ["--n_threads", str(arguments.threads)]
    rates: dict[str, list[float]] = {"ours": [], "peer": []}
    with serving(own, 8431) as ours, serving(peer, 8432) as theirs:
        for url in (ours, theirs):
            asyncio.run(load(url, 1.0))
        for _ in range(arguments.rounds):
            rates["ours"].append(asyncio.run(load(ours, arguments.seconds)))
            rates["peer"].append(asyncio.run(load(theirs, arguments.seconds)))
    with serving([*own, "--speculate", "off"], 8433) as ours:
        added, plain = overhead(ours, reference, arguments.threads, arguments.replies)
    spreads = {name: Spread.of(values) for name, values in rates.items()}
    ratio = Spread.of([a / b for a, b in zip(rates["ours"], rates["peer"], strict=True)])
    rows = [
        ("`python -m llama_cpp.server`, base alone, tokens a second", spreads["peer"].text(0)),
        ("`eft-gguf serve`, the blend, tokens a second", spreads["ours"].text(0)),
        ("times as many", ratio.text(2)),
        (f"bound {THROUGHPUT:g}", "kept" if ratio.median >= THROUGHPUT else "MISSED"),
        ("a token by `EFT.stream`, ms", plain.text(3)),
        ("what HTTP adds to it, ms", added.text(3)),
        (f"bound {OVERHEAD:g} ms", verdict(added.median, OVERHEAD)),
    ]
    note = f"{arguments.rounds} rounds of {arguments.seconds:g} s each, {arguments.replies} streamed replies."
    table = Table(f"{CLIENTS} clients, family {family.name}", ("", "median (quartiles)"), rows, note)
    data = {"tokens a second": spreads, "ratio": ratio, "added": added, "plain": plain}
    publish("server", about, [table], data, as_json=arguments.json, docs=arguments.docs)
    return 0 if ratio.median >= THROUGHPUT and added.median <= OVERHEAD else 1


@contextmanager
def serving(command: Sequence[str], port: int) -> Iterator[str]:
    """A server on a port, once it answers."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([*command, "--port", str(port)], **quiet)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            if process.poll() is not None:
                raise SystemExit(f"this ended at once: {' '.join(command)}")
            try:
                if httpx.get(f"{url}/v1/models").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(30)


async def load(url: str, seconds: float) -> float:
    """Tokens a second of all clients together, as the responses count them."""
    end = time.monotonic() + seconds
    tokens = 0

    async def client(number: int) -> None:
        nonlocal tokens
        async with httpx.AsyncClient(base_url=url, timeout=120) as session:
            seed = number * 1000
            while time.monotonic() < end:
                seed += 1
                body = {
                    "model": "x",
                    "prompt": f"The capital of {CITIES[number % len(CITIES)]} is",
                    "max_tokens": TOKENS,
                    "temperature": 0.8,
                    "seed": seed,
                }
                answer = await session.post("/v1/completions", json=body)
                answer.raise_for_status()
                tokens += answer.json()["usage"]["completion_tokens"]

    started = time.monotonic()
    await asyncio.gather(*(client(number) for number in range(CLIENTS)))
    return tokens / (time.monotonic() - started)


def overhead(url: str, family: str, threads: int | None, replies: int) -> tuple[Spread, Spread]:
    """Milliseconds a token: what HTTP adds, and what the library takes; by reply, in turn."""
    added, plain = [], []
    with (
        EFT.open(family, threads=threads, speculate="off") as eft,
        httpx.Client(base_url=url, timeout=120) as client,
    ):
        for number in range(replies + 3):
            sampling = Sampling(temperature=1.0, seed=number, max_tokens=TOKENS)
            prompt = f"The capital of {CITIES[number % len(CITIES)]} is"
            started = time.perf_counter()
            count = sum(chunk.token is not None for chunk in eft.stream(prompt, sampling=sampling))
            alone = time.perf_counter() - started
            body = {"prompt": prompt, "max_tokens": TOKENS, "temperature": 1.0, "seed": number, "stream": True}
            started = time.perf_counter()
            with client.stream("POST", "/v1/completions", json=body) as response:
                for line in response.iter_lines():
                    if line.startswith("data: {") and json.loads(line[6:])["choices"][0]["finish_reason"]:
                        break
            through = time.perf_counter() - started
            # The first ones warm both up; a short reply says little about its tokens.
            if number >= 3 and count >= 8:
                added.append(1000 * (through - alone) / count)
                plain.append(1000 * alone / count)
    return Spread.of(added), Spread.of(plain)


if __name__ == "__main__":
    sys.exit(main())
