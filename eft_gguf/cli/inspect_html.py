"""An inspection as a page: one file that asks for nothing else, light or dark as the reader has it.

The reply is a row of tokens; the details of one show when the pointer is on it or the keyboard's focus. Its data is
the JSON of `eft-gguf inspect --json`, in the page.
"""

from __future__ import annotations

import json
from html import escape
from typing import Any

from eft_gguf.cli.inspect_view import MEANINGS


def page(report: dict[str, Any]) -> str:
    """The whole page; `report` is what --json prints."""
    # No text of a model may end the script that holds it.
    data = json.dumps(report, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    shares = report["summary"]["shares"]
    legend = "".join(
        f'<li><span class="token {name}">{name}</span> <b>{100 * shares[name]:.0f} %</b> {escape(meaning)}</li>'
        for name, meaning in MEANINGS.items()
    )
    means = "".join(
        f"<tr><th scope=row>{escape(name)}</th><td>{variation:.3f}</td><td>{_number(kl)}</td></tr>"
        for (name, variation), kl in zip(
            report["summary"]["mean_total_variation"].items(), report["summary"]["mean_kl"].values(), strict=True
        )
    )
    dials = report["dials"]
    settings = [f"knowledge {dials['knowledge']:g}", f"behaviour {dials['behaviour']:g}"]
    settings += [f"{name} {value:g}" for group in ("traits", "filter") for name, value in dials[group].items()]
    values = {
        "prompt": escape(report["prompt"]),
        "settings": escape(" · ".join(settings)),
        "tokens": "".join(_token(place, token) for place, token in enumerate(report["tokens"])),
        "legend": legend,
        "means": means,
        "data": data,
    }
    parts = PAGE.split("@@")
    return "".join(values[part] if odd % 2 else part for odd, part in enumerate(parts))


def _token(place: int, token: dict[str, Any]) -> str:
    # A token that adds no text (a part of a character) still needs room for the pointer.
    text = escape(token["text"] or "◌").replace("\n", "↵\n")
    focus = 0 if place == 0 else -1
    return f'<span class="token {token["decided_by"]}" tabindex={focus} data-place={place}>{text}</span>'


def _number(value: float | None) -> str:
    return "∞" if value is None else f"{value:.3f}"


PAGE = """<!doctype html>
<html lang=en>
<head>
<meta charset=utf-8>
<meta name=viewport content="width=device-width, initial-scale=1">
<meta http-equiv=Content-Security-Policy
 content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>Which model decided which token</title>
<style>
:root { color-scheme: light dark; --page: #fff; --ink: #1b1f24; --dim: #57606a; --line: #d0d7de;
  --base: #0550ae; --tuned: #116329; --blend: #8250df; --chance: #a40e26; }
@media (prefers-color-scheme: dark) { :root { --page: #0d1117; --ink: #e6edf3; --dim: #9198a1; --line: #30363d;
  --base: #79c0ff; --tuned: #7ee787; --blend: #d2a8ff; --chance: #ff9492; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); max-width: 60rem;
  margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.3rem; } h2 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
p, ul { margin: .25rem 0; } ul { list-style: none; padding: 0; }
.dim { color: var(--dim); }
#reply { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 1.15rem; line-height: 2;
  border: 1px solid var(--line); border-radius: 6px; padding: .5rem 1rem; }
.token { border-radius: 3px; padding: 1px 0; }
.base { color: var(--base); border-bottom: 2px solid; } .tuned { color: var(--tuned); border-bottom: 2px dashed; }
.blend { color: var(--blend); border-bottom: 4px double; } .chance { color: var(--chance); border-bottom: 2px dotted; }
#reply .token { cursor: default; }
#reply .token:hover, #reply .token.shown, #reply .token:focus { outline: 2px solid currentColor; }
#details { min-height: 16rem; overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .15rem .9rem .15rem 0; border-bottom: 1px solid var(--line); font-weight: normal;
  white-space: nowrap; }
thead th { color: var(--dim); }
#details td:last-child { min-width: 20rem; white-space: normal; font-size: .875rem; }
#details td:last-child span { display: inline-block; margin-right: .6rem; white-space: nowrap; }
#details .same { font-weight: bold; }
code { white-space: pre; }
</style>
</head>
<body>
<main>
<h1>Which model decided which token</h1>
<p>@@prompt@@</p>
<p class=dim>@@settings@@</p>
<div id=reply role=group aria-label="The reply, token by token" aria-describedby=keys>@@tokens@@</div>
<p id=keys class=dim>Point at a token, or step through them with the arrow keys.</p>
<section id=details aria-live=polite aria-label="The token's details"></section>
<h2>Who decided</h2>
<ul>@@legend@@</ul>
<h2>Mean distance to the blend</h2>
<table><thead><tr><th scope=col>model<th scope=col>total variation<th scope=col>KL(blend ‖ model), nats</tr></thead>
<tbody>@@means@@</tbody></table>
</main>
<script type=application/json id=data>@@data@@</script>
<script>
"use strict";
const report = JSON.parse(document.getElementById("data").textContent);
const reply = document.getElementById("reply"), details = document.getElementById("details");
const tokens = [...reply.querySelectorAll(".token")];
const percent = share => (100 * share).toFixed(1) + " %";
const figure = value => value === null ? "∞" : value === undefined ? "" : value.toFixed(3);
let shown = null;

function element(name, text, parent) {
  const made = parent.appendChild(document.createElement(name));
  made.textContent = text;
  return made;
}

function show(token) {
  if (token === shown) return;
  shown?.classList.remove("shown");
  (shown = token).classList.add("shown");
  const place = Number(token.dataset.place), facts = report.tokens[place];
  details.replaceChildren();
  const line = element("p", "", details);
  element("span", `token ${place + 1} of ${tokens.length}, id ${facts.token}: `, line);
  element("code", JSON.stringify(facts.text), line);
  element("span", ` — ${facts.decided_by}: ${report.decisions[facts.decided_by]}`, line);
  const table = element("table", "", details);
  const head = element("tr", "", element("thead", "", table)), body = element("tbody", "", table);
  for (const title of ["model", "this token", "TV to blend", "KL(blend ‖ model)", "its likeliest"]) {
    element("th", title, head).scope = "col";
  }
  for (const name of Object.keys(facts.probabilities)) {
    const row = element("tr", "", body);
    element("th", name, row).scope = "row";
    element("td", percent(facts.probabilities[name]), row);
    element("td", figure(facts.total_variation[name]), row);
    element("td", figure(facts.kl[name]), row);
    const cell = element("td", "", row);
    for (const other of facts.alternatives[name]) {
      const pair = element("span", "", cell);
      element("code", JSON.stringify(other.text), pair);
      pair.append(` ${percent(other.probability)}`);
      pair.classList.toggle("same", other.token === facts.token);
    }
  }
}

function step(event) {
  const at = tokens.indexOf(document.activeElement);
  const to = {ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0,
    End: tokens.length - 1}[event.key];
  if (to === undefined || at < 0) return;
  event.preventDefault();
  const next = tokens[Math.min(Math.max(to, 0), tokens.length - 1)];
  tokens[at].tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}

reply.addEventListener("mouseover", event => tokens.includes(event.target) && show(event.target));
reply.addEventListener("focusin", event => show(event.target));
reply.addEventListener("keydown", step);
show(tokens[0]);
</script>
</body>
</html>
"""
