// Conversations, kept in this browser alone.

import { download } from "./dom.js";

const KEY = "eft-conversations";
const KEPT = 60;

export class Store {
  constructor() {
    this.list = [];
    try {
      this.list = JSON.parse(localStorage.getItem(KEY)) || [];
    } catch { /* damaged or forbidden: begin with nothing */ }
    this.current = this.list[0] || this.fresh();
  }

  fresh() {
    const conversation = { id: crypto.randomUUID?.() || String(Date.now()), title: "", system: "", messages: [] };
    this.current = conversation;
    return conversation;
  }

  open(id) {
    this.current = this.list.find((one) => one.id === id) || this.current;
  }

  remove(id) {
    this.list = this.list.filter((one) => one.id !== id);
    if (this.current.id === id) this.current = this.list[0] || this.fresh();
    this.#write();
  }

  save() {
    const conversation = this.current;
    const first = conversation.messages.find((message) => message.role === "user");
    if (!first) return;
    conversation.title = first.content.slice(0, 60);
    this.list = [conversation, ...this.list.filter((one) => one !== conversation)].slice(0, KEPT);
    this.#write();
  }

  #write() {
    try {
      localStorage.setItem(KEY, JSON.stringify(this.list));
    } catch {
      // Full: what each model would have said is most of it, and the least of a loss.
      for (const one of this.list.slice(1)) for (const message of one.messages) delete message.tokens;
      try {
        localStorage.setItem(KEY, JSON.stringify(this.list));
      } catch { /* kept until the page is left */ }
    }
  }

  exportJson() {
    download("conversation.json", JSON.stringify(this.current, null, 1), "application/json");
  }

  exportText() {
    const parts = this.current.messages.map((message) => message.cards
      ? message.cards.map((card) => `**${card.name}:**\n\n${card.content}\n`).join("\n")
      : `**${message.role}:**\n\n${message.content}\n`);
    download("conversation.md", parts.join("\n"), "text/markdown");
  }
}
