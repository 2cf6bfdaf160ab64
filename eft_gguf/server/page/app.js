// The page: what is said, what is asked of the server, and what comes back.

import { ApiError, get, steer, stream, useKey } from "./api.js";
import { $, h } from "./dom.js";
import { Dials } from "./pad.js";
import { Store } from "./store.js";
import { MEANINGS, show, watch } from "./tokens.js";

const store = new Store();
let about = null;
let running = []; // replies under way: { id, abort }
let moving = null;

const dials = new Dials((eft) => {
  // Moved in the middle of a reply, they count from its next token; many moves at once are one.
  clearTimeout(moving);
  moving = setTimeout(() => {
    for (const reply of running) {
      if (reply.id && reply.steered) {
        reply.moves += 1;
        steer(reply.id, eft).catch(() => {});
      }
    }
  }, 40);
});

// ---- messages on the page

function draw() {
  const { messages } = store.current;
  $("messages").replaceChildren(...messages.map((message, number) => row(message, number)));
  $("system").value = store.current.system || "";
  $("conversations").replaceChildren(...store.list.map((one) => h("li", one === store.current ? { "aria-current": "true" } : {},
    h("button", { className: "quiet", onclick: () => { stopAll(); store.open(one.id); draw(); } }, one.title || "…"),
    h("button", { className: "quiet icon", "aria-label": `Delete ${one.title}`, onclick: () => { store.remove(one.id); draw(); } }, "×"))));
  $("messages").scrollTop = $("messages").scrollHeight;
}

function row(message, number) {
  if (message.role === "user") {
    return h("li", { className: "user", "aria-label": "You" }, h("div", { className: "body" }, message.content),
      h("div", { className: "meta" }, h("button", { className: "quiet", onclick: () => edit(number) }, "Edit")));
  }
  const element = h("li", { className: "assistant", "aria-label": message.cards ? "Replies side by side" : "Reply" });
  if (message.cards) {
    element.append(h("div", { className: "grid" }, ...message.cards.map((card) => cardOf(card, number))));
    element.append(h("div", { className: "meta" }, "Go on with one of them: ", ...message.cards.map((card) =>
      h("button", { onclick: () => choose(number, card) }, card.name))));
    return element;
  }
  element.append(bodyOf(message), metaOf(message, number));
  return element;
}

function bodyOf(message) {
  const body = h("div", { className: "body", tabIndex: 0, role: "group", "aria-label": "Reply; arrow keys tell who decided each token" });
  show(body, message.content, message.tokens);
  watch(body, () => message.tokens || [], () => Object.keys(about?.dials.traits || {}));
  return body;
}

function metaOf(message, number) {
  const { figures, dials: used, error } = message;
  const parts = [];
  if (error) parts.push(h("span", { className: "error" }, error));
  if (used) parts.push(h("span", {}, worded(used)));
  if (message.moves) parts.push(h("span", {}, "dials moved on the way"));
  if (figures) parts.push(h("span", {}, speed(figures)));
  if (number === store.current.messages.length - 1) parts.push(h("button", { className: "quiet", onclick: regenerate }, "Regenerate"));
  parts.push(h("button", { className: "quiet", onclick: () => navigator.clipboard?.writeText(message.content) }, "Copy"));
  return h("div", { className: "meta" }, ...parts);
}

function cardOf(card) {
  return h("section", { className: `card ${card.kind}` }, h("h3", {}, card.name, " ", h("small", {}, worded(card.eft))), bodyOf(card),
    h("div", { className: "meta" }, ...(card.error ? [h("span", { className: "error" }, card.error)] : []), ...(card.figures ? [h("span", {}, speed(card.figures))] : [])));
}

const worded = (eft) => `knowledge ${eft.knowledge.toFixed(2)} · behaviour ${eft.behaviour.toFixed(2)}`;
const speed = (t) => `${t.generated_tokens} tokens, ${t.tokens_per_second.toFixed(0)}/s`;

// Shows what came of a reply, at most once a frame, and keeps the newest line in sight unless the reader went up.
function painter(element, message) {
  let waiting = false;
  const list = $("messages");
  return () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      const below = list.scrollHeight - list.scrollTop - list.clientHeight;
      show(element.querySelector(".body"), message.content, message.tokens);
      if (below < 80) list.scrollTop = list.scrollHeight;
    });
  };
}

// ---- asking

// Models alone read the conversation alone: examples belong to the blend.
const shown = () => about.examples.length > 0 && $("examples").checked;

const history = (until) => {
  const said = store.current.messages.slice(0, until).filter((message) => !message.cards && message.content !== "");
  const system = store.current.system ? [{ role: "system", content: store.current.system }] : [];
  return [...system, ...said.map(({ role, content }) => ({ role, content }))];
};

// What is kept of a token. Where neither base nor a tuned model had a say, nobody but untuned decided.
const compact = ({ text, decided_by, probabilities, alternatives }) => ({
  text, decided_by: Object.keys(probabilities).every((name) => name === "blend" || name.startsWith("untuned")) ? "untuned" : decided_by, probabilities, alternatives,
});

// One streamed reply into `message`, shown in `element`.
async function reply(messages, message, element, eft, steered, examples) {
  const abort = new AbortController();
  const under = { id: null, abort, steered, moves: 0 };
  // It begins with the dials as they are: a move that waits to be told to it has nothing new, and might find it ended.
  clearTimeout(moving);
  running.push(under);
  busy();
  const paint = painter(element, message);
  element.querySelector(".body").classList.add("waiting");
  try {
    await stream({ model: about.model, messages, ...dials.sampling(), eft: { ...eft, inspect: true, examples } }, abort.signal, (chunk) => {
      under.id = chunk.id;
      const choice = chunk.choices[0];
      if (chunk.eft?.prompt) $("figures").textContent = `reading the prompt: ${chunk.eft.prompt.done} of ${chunk.eft.prompt.total} tokens`;
      if (choice?.delta.content) message.content += choice.delta.content;
      if (chunk.eft?.tokens) message.tokens.push(...chunk.eft.tokens.map(compact));
      if (chunk.eft?.timings) {
        message.figures = chunk.eft.timings[0];
        message.dials = chunk.eft.dials;
        if (choice.finish_reason === "length") message.error = "cut off: max_tokens or the context's end";
      }
      paint();
    });
  } catch (error) {
    if (error.name === "AbortError") message.error = "stopped";
    else {
      message.error = error.message;
      if (error instanceof ApiError && error.status === 401) askKey();
    }
  } finally {
    message.moves = under.moves;
    running = running.filter((other) => other !== under);
    element.querySelector(".body").classList.remove("waiting");
    busy();
  }
}

async function answer() {
  const message = { role: "assistant", content: "", tokens: [] };
  const messages = history();
  store.current.messages.push(message);
  const conversation = store.current;
  const element = row(message, store.current.messages.length - 1);
  $("messages").append(element);
  $("messages").scrollTop = $("messages").scrollHeight;
  await reply(messages, message, element, dials.eft(), true, shown());
  finish(conversation);
}

async function compare() {
  if (!say()) return;
  const messages = history();
  const { knowledge, behaviour } = dials;
  const corners = [["tuned", 0, 1], ["blend", 1, 1], ["untuned", 0, 0], ["base", 1, 0]];
  const cards = corners.map(([name, k, b]) => ({ name, kind: name, eft: { ...dials.eft(), knowledge: k, behaviour: b }, content: "", tokens: [] }));
  if (!Dials.corner(knowledge, behaviour)) cards.push({ name: "your dials", kind: "yours", eft: dials.eft(), content: "", tokens: [] });
  const message = { role: "assistant", cards, content: "" };
  const conversation = store.current;
  conversation.messages.push(message);
  const element = row(message, conversation.messages.length - 1);
  $("messages").append(element);
  $("messages").scrollTop = $("messages").scrollHeight;
  const places = [...element.querySelectorAll(".card")];
  await Promise.all(cards.map((card, number) => reply(messages, card, places[number], card.eft, false, shown() && ["blend", "yours"].includes(card.kind))));
  finish(conversation);
}

function finish(conversation) {
  if (conversation === store.current) {
    store.save();
    draw();
  }
  const last = conversation.messages.at(-1);
  $("spoken").textContent = last.cards ? "All replies are there." : last.content;
  figures();
}

function say() {
  const text = $("prompt").value.trim();
  if (!text || !about || running.length) return false;
  store.current.messages.push({ role: "user", content: text });
  $("prompt").value = "";
  draw();
  return true;
}

function edit(number) {
  stopAll();
  $("prompt").value = store.current.messages[number].content;
  store.current.messages.length = number;
  draw();
  $("prompt").focus();
}

function regenerate() {
  if (running.length) return;
  store.current.messages.pop();
  draw();
  answer();
}

function choose(number, card) {
  store.current.messages[number] = { role: "assistant", content: card.content, tokens: card.tokens, figures: card.figures, dials: card.dials };
  dials.set({ knowledge: card.eft.knowledge, behaviour: card.eft.behaviour });
  store.save();
  draw();
}

const stopAll = () => running.forEach((one) => one.abort.abort());

function busy() {
  const on = running.length > 0;
  $("stop").hidden = !on;
  $("send").disabled = $("compare").disabled = on || !about;
  if (on) $("figures").textContent = "";
}

// ---- the server

async function figures() {
  try {
    const now = await get("/v1/eft");
    const size = Object.entries(now.memory).map(([name, bytes]) => `${name} ${(bytes / 1e6).toFixed(0)} MB`).join(", ");
    $("memory").textContent = `Memory: ${size}. ${now.running} running, ${now.waiting} waiting, ${now.parallel} at a time.`;
  } catch { /* shown where something is asked for */ }
}

async function connect() {
  for (;;) {
    try {
      const health = await get("/health");
      if (health.status === "ok") break;
      $("state").textContent = `${health.status}: ${health.progress}`;
    } catch {
      $("state").textContent = "the server does not answer";
    }
    await new Promise((done) => setTimeout(done, 500));
  }
  try {
    about = await get("/v1/eft");
  } catch (error) {
    $("state").textContent = error.message;
    if (error.status === 401) askKey();
    return;
  }
  $("state").textContent = about.warnings.length ? about.warnings[0] : "";
  $("family").textContent = about.family;
  const one = Object.keys(about.dials.traits);
  document.querySelector(".corner.tuned").title = one.join(", ");
  $("examples-section").hidden = about.examples.length === 0;
  $("shown").replaceChildren(...about.examples.flatMap(({ role, content }) => [h("dt", {}, role), h("dd", {}, content)]));
  dials.start(about, true);
  busy();
  figures();
}

function askKey() {
  $("key-dialog").showModal();
}

$("key-dialog").addEventListener("close", () => {
  useKey($("key").value.trim());
  $("key").value = "";
  connect();
});

// ---- the rest of the page

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (say()) answer();
});
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("composer").requestSubmit();
  }
});
$("compare").addEventListener("click", compare);
$("stop").addEventListener("click", stopAll);
$("new").addEventListener("click", () => { stopAll(); store.fresh(); draw(); $("prompt").focus(); });
$("system").addEventListener("change", () => { store.current.system = $("system").value.trim(); store.save(); });
$("export-json").addEventListener("click", () => store.exportJson());
$("export-md").addEventListener("click", () => store.exportText());

const remember = (id, apply) => {
  const field = $(id);
  const saved = localStorage.getItem(`eft-${id}`);
  if (saved !== null) field[field.type === "checkbox" ? "checked" : "value"] = field.type === "checkbox" ? saved === "true" : saved;
  const use = () => apply(field.type === "checkbox" ? field.checked : field.value);
  field.addEventListener("change", () => {
    localStorage.setItem(`eft-${id}`, field.type === "checkbox" ? field.checked : field.value);
    use();
  });
  use();
};
remember("theme", (theme) => { document.documentElement.dataset.theme = theme; });
remember("examples", () => {});
remember("colours", (on) => document.body.classList.toggle("colours", on));

for (const [button, panel] of [["toggle-history", "history"], ["toggle-dials", "dials"]]) {
  $(button).addEventListener("click", () => {
    const open = $(panel).classList.toggle("open");
    $(button).setAttribute("aria-expanded", open);
    document.body.classList.toggle("sheet", $("dials").classList.contains("open"));
  });
}
$("legend").append(...["both", "base", "tuned", "blend", "chance"].map((name) => h("span", {}, h("span", { className: "t", data: { by: name } }, name), h("span", { className: "meaning" }, ` ${MEANINGS[name]}`))));

busy();
draw();
connect();
