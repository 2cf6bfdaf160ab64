// The dials: the pad, its two sliders, traits, filter, sampling. One place that knows them all; `changed` hears of moves.

import { $, h } from "./dom.js";

const SNAP = 0.04;
const FILTERS = {
  tuned_top_p: ["knowledge only among tuned's likeliest", 0.05, 1, 0.05, 0.95],
  base_top_p: ["only among base's likeliest", 0.05, 1, 0.05, 0.95],
  base_min_p: ["at least so likely to base", 0, 0.5, 0.01, 0.05],
  untuned_floor: ["floor under untuned", -20, 0, 0.5, -7],
};
const SAMPLING = { temperature: [0, 0.1], top_p: [0.05, 0.05], top_k: [0, 1], min_p: [0, 0.01], max_tokens: [1, 1], seed: [0, 1] };

export class Dials {
  constructor(changed) {
    this.changed = changed;
    this.knowledge = 1;
    this.behaviour = 1;
    this.traits = {};
    this.filter = {};
    for (const name of ["knowledge", "behaviour"]) $(name).addEventListener("input", () => this.set({ [name]: Number($(name).value) }));
    this.#watchPad();
    for (const corner of document.querySelectorAll(".corner")) {
      corner.addEventListener("click", () => this.set({ knowledge: Number(corner.dataset.k), behaviour: Number(corner.dataset.b) }));
    }
    $("reset").addEventListener("click", () => this.start(this.defaults));
    const saved = localStorage.getItem("eft-dials");
    this.saved = saved ? JSON.parse(saved) : null;
  }

  // What the server starts from; what was set here before goes on top, as far as it fits these models.
  start(about, restore = false) {
    this.defaults = about;
    const { dials, sampling } = about;
    this.traits = { ...dials.traits };
    this.filter = { ...dials.filter };
    Object.assign(this, { knowledge: dials.knowledge, behaviour: dials.behaviour });
    if (restore && this.saved) {
      Object.assign(this, { knowledge: this.saved.knowledge, behaviour: this.saved.behaviour });
      for (const name of Object.keys(this.traits)) if (name in this.saved.traits) this.traits[name] = this.saved.traits[name];
    }
    $("traits").replaceChildren(...Object.keys(this.traits).map((name) => this.#slider(name, `trait-${name}`, 0, 2, 0.05, this.traits[name], (value) => {
      this.traits[name] = value;
      this.#moved();
    })));
    $("filter").replaceChildren(...Object.entries(FILTERS).map(([name, spec]) => this.#filterRow(name, spec)));
    $("sampling").replaceChildren(h("div", { className: "numbers" }, ...Object.entries(SAMPLING).map(([name, [min, step]]) =>
      h("label", { className: "field" }, name, h("input", { type: "number", id: `s-${name}`, min, step, value: sampling[name] ?? "", placeholder: name === "seed" ? "drawn" : "none" })))));
    this.#moved();
  }

  set(values) {
    Object.assign(this, values);
    this.#moved();
  }

  // As a request has them.
  eft() {
    return { knowledge: this.knowledge, behaviour: this.behaviour, traits: { ...this.traits }, filter: { tuned_top_p: null, base_top_p: null, base_min_p: null, untuned_floor: null, ...this.filter } };
  }

  sampling() {
    const given = {};
    for (const name of Object.keys(SAMPLING)) {
      const value = $(`s-${name}`)?.value;
      if (value !== undefined && value !== "") given[name] = Number(value);
    }
    return given;
  }

  // The name of the model that these dials are, where they are one.
  static corner(knowledge, behaviour) {
    return { "0,0": "untuned", "1,0": "base", "0,1": "tuned", "1,1": "blend" }[`${knowledge},${behaviour}`];
  }

  #moved() {
    const handle = $("handle");
    const inside = (value) => Math.min(1, Math.max(0, value));
    handle.style.left = `${100 * inside(this.knowledge)}%`;
    handle.style.top = `${100 * (1 - inside(this.behaviour))}%`;
    handle.classList.toggle("beyond", this.knowledge > 1 || this.behaviour > 1);
    const corner = Dials.corner(this.knowledge, this.behaviour);
    handle.setAttribute("aria-valuenow", inside(this.knowledge).toFixed(2));
    handle.setAttribute("aria-valuetext", `knowledge ${this.knowledge.toFixed(2)}, behaviour ${this.behaviour.toFixed(2)}${corner ? `: ${corner}` : ""}`);
    for (const name of ["knowledge", "behaviour"]) {
      $(name).value = this[name];
      $(name).parentElement.querySelector("output").value = this[name].toFixed(2);
    }
    $("toggle-dials").textContent = `dials ${this.knowledge.toFixed(1)} · ${this.behaviour.toFixed(1)}`;
    localStorage.setItem("eft-dials", JSON.stringify({ knowledge: this.knowledge, behaviour: this.behaviour, traits: this.traits }));
    this.changed(this.eft());
  }

  #watchPad() {
    const pad = $("pad");
    const handle = $("handle");
    const snapped = (value) => {
      const inside = Math.min(1, Math.max(0, value));
      return Math.round(100 * (inside < SNAP ? 0 : inside > 1 - SNAP ? 1 : inside)) / 100;
    };
    const follow = (event) => {
      const box = pad.getBoundingClientRect();
      this.set({ knowledge: snapped((event.clientX - box.left) / box.width), behaviour: snapped(1 - (event.clientY - box.top) / box.height) });
    };
    pad.addEventListener("pointerdown", (event) => {
      pad.setPointerCapture(event.pointerId);
      handle.focus({ preventScroll: true });
      follow(event);
      event.preventDefault();
    });
    pad.addEventListener("pointermove", (event) => {
      if (pad.hasPointerCapture(event.pointerId)) follow(event);
    });
    handle.addEventListener("keydown", (event) => {
      const step = event.shiftKey ? 0.25 : 0.05;
      const moves = { ArrowLeft: ["knowledge", -step], ArrowRight: ["knowledge", step], ArrowDown: ["behaviour", -step], ArrowUp: ["behaviour", step] };
      const move = moves[event.key];
      if (!move) return;
      event.preventDefault();
      this.set({ [move[0]]: Math.round(100 * Math.min(2, Math.max(0, this[move[0]] + move[1]))) / 100 });
    });
  }

  #slider(label, id, min, max, step, value, took) {
    const output = h("output", { value: value.toFixed(2) });
    const input = h("input", { type: "range", id, min, max, step });
    input.value = value;
    input.addEventListener("input", () => {
      output.value = Number(input.value).toFixed(2);
      took(Number(input.value));
    });
    return h("div", { className: "dial" }, h("label", { htmlFor: id }, label), input, output);
  }

  #filterRow(name, [text, min, max, step, usual]) {
    const on = h("input", { type: "checkbox", id: `f-${name}`, checked: name in this.filter });
    const slider = this.#slider(name, `fv-${name}`, min, max, step, this.filter[name] ?? usual, (value) => {
      on.checked = true;
      this.filter[name] = value;
      this.#moved();
    });
    on.addEventListener("change", () => {
      if (on.checked) this.filter[name] = Number($(`fv-${name}`).value);
      else delete this.filter[name];
      this.#moved();
    });
    return h("div", {}, h("label", { className: "switch" }, on, text), slider);
  }
}
