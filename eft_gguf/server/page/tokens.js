// A reply's text in the colours of who decided each token, and the details of one.

import { $, h } from "./dom.js";
import { render } from "./markdown.js";

export const MEANINGS = {
  base: "base would have said it, tuned would not",
  tuned: "tuned would have said it, base would not",
  blend: "neither alone, only both together",
  chance: "drawn by chance",
  both: "base and tuned agree",
  untuned: "untuned alone",
};

// Puts a reply's text into an element, Markdown and all.
export function show(element, text, tokens) {
  const starts = [];
  let at = 0;
  for (const token of tokens || []) {
    starts.push(at);
    at += token.text.length;
  }
  const leaf = (piece, offset) => {
    if (!starts.length) return document.createTextNode(piece);
    const parts = document.createDocumentFragment();
    let place = offset;
    const end = offset + piece.length;
    let number = lastBefore(starts, place);
    while (place < end) {
      while (number + 1 < starts.length && starts[number + 1] <= place) number++;
      const stop = Math.min(end, number + 1 < starts.length ? starts[number + 1] : end);
      parts.append(h("span", { className: "t", data: { n: number, by: tokens[number].decided_by } }, piece.slice(place - offset, stop - offset)));
      place = stop;
    }
    return parts;
  };
  element.replaceChildren(render(text, leaf));
}

function lastBefore(starts, place) {
  let low = 0;
  let high = starts.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (starts[middle] <= place) low = middle;
    else high = middle - 1;
  }
  return low;
}

export const visible = (text) => text.replace(/\n/g, "↵").replace(/ /g, "·") || "∅";

// The details of one token, beside its place on the page.
export function explain(span, token, traits) {
  const box = $("details");
  const names = Object.keys(token.probabilities).sort((a, b) => rank(a) - rank(b));
  const kind = (name) => (traits.includes(name) ? "tuned" : name.startsWith("untuned") ? "untuned" : name);
  const rows = names.map((name) => {
    const p = token.probabilities[name];
    const bar = h("span", { className: "bar" });
    bar.style.width = `${Math.max(2, 100 * p)}%`;
    const others = (token.alternatives[name] || []).slice(0, 3).map(([text, q]) => `${visible(text)}\u00a0${percent(q)}`).join(", ");
    return h("tr", {}, h("th", { scope: "row", className: `of-${kind(name)}` }, name, bar), h("td", { className: "p" }, percent(p)), h("td", { className: "alternatives" }, others));
  });
  box.replaceChildren(h("b", { className: "word" }, visible(token.text)), ` ${token.decided_by}: ${MEANINGS[token.decided_by]}`, h("table", {}, h("tbody", {}, ...rows)));
  box.hidden = false;
  const place = span.getBoundingClientRect();
  const size = box.getBoundingClientRect();
  box.style.left = `${Math.max(8, Math.min(place.left, innerWidth - size.width - 8))}px`;
  box.style.top = `${place.bottom + size.height + 12 < innerHeight ? place.bottom + 6 : Math.max(8, place.top - size.height - 6)}px`;
  $("spoken").textContent = `${visible(token.text)}: ${MEANINGS[token.decided_by]}. ${names.map((name) => `${name} ${percent(token.probabilities[name])}`).join(", ")}`;
}

export const hide = () => { $("details").hidden = true; };

const rank = (name) => (name === "blend" ? 0 : name === "base" ? 1 : name.startsWith("untuned") ? 9 : 5);
const percent = (p) => (p >= 0.0995 ? `${Math.round(100 * p)}\u00a0%` : p >= 0.001 ? `${(100 * p).toFixed(1)}\u00a0%` : "0\u00a0%");

// Pointer, touch and keyboard over the tokens of one reply.
export function watch(element, tokens, traits) {
  let current = -1;
  const spans = () => [...element.querySelectorAll(".t")];
  const pick = (span) => {
    element.querySelector(".t.current")?.classList.remove("current");
    const token = tokens()[Number(span.dataset.n)];
    if (token) explain(span, token, traits());
  };
  element.addEventListener("pointerover", (event) => {
    const span = event.target.closest(".t");
    if (span) pick(span);
  });
  element.addEventListener("pointerleave", hide);
  element.addEventListener("click", (event) => {
    const span = event.target.closest(".t");
    if (span) pick(span);
  });
  element.addEventListener("blur", () => {
    element.querySelector(".t.current")?.classList.remove("current");
    hide();
  });
  element.addEventListener("keydown", (event) => {
    const all = spans();
    const move = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
    if (event.key === "Escape") hide();
    if (!move || !all.length) return;
    event.preventDefault();
    current = Math.max(0, Math.min(all.length - 1, current + move));
    pick(all[current]);
    all[current].classList.add("current");
    all[current].scrollIntoView({ block: "nearest" });
  });
}
