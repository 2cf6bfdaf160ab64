// Markdown to elements. Text is only ever put in as text, so what a model says can be no markup of its own.
//
// Each piece of text is handed to `leaf(text, offset)` with the place that it has in the source, so that tokens, whose
// places are known as well, can be coloured whatever the markup between them.

import { h } from "./dom.js";

export function render(source, leaf) {
  const root = document.createDocumentFragment();
  const lines = [];
  for (let at = 0; at <= source.length;) {
    const end = source.indexOf("\n", at);
    const stop = end < 0 ? source.length : end;
    lines.push({ text: source.slice(at, stop), at });
    at = stop + 1;
  }
  blocks(lines, root, leaf);
  return root;
}

const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+/;
const cut = (line, count) => ({ text: line.text.slice(count), at: line.at + count });

function blocks(lines, parent, leaf) {
  let i = 0;
  while (i < lines.length) {
    const line = lines[i];
    const text = line.text;
    let found;
    if (!text.trim()) {
      i++;
    } else if ((found = /^\s*(```+|~~~+)/.exec(text))) {
      const code = h("code");
      const fence = found[1];
      const body = [];
      for (i++; i < lines.length && !lines[i].text.trim().startsWith(fence); i++) body.push(lines[i]);
      i++;
      body.forEach((inner, n) => code.append(leaf(inner.text + (n < body.length - 1 ? "\n" : ""), inner.at)));
      parent.append(h("pre", { tabIndex: 0 }, code));
    } else if ((found = /^(#{1,6})\s+/.exec(text))) {
      const heading = h(`h${Math.min(6, found[1].length + 2)}`);
      inline(cut(line, found[0].length), heading, leaf);
      parent.append(heading);
      i++;
    } else if (/^\s*([-*_])(\s*\1){2,}\s*$/.test(text)) {
      parent.append(h("hr"));
      i++;
    } else if (/^\s*>/.test(text)) {
      const inner = [];
      for (; i < lines.length && /^\s*>/.test(lines[i].text); i++) inner.push(cut(lines[i], /^\s*> ?/.exec(lines[i].text)[0].length));
      const quote = h("blockquote");
      blocks(inner, quote, leaf);
      parent.append(quote);
    } else if (ITEM.test(text)) {
      i = list(lines, i, parent, leaf);
    } else if (text.includes("|") && i + 1 < lines.length && /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/.test(lines[i + 1].text)) {
      i = table(lines, i, parent, leaf);
    } else {
      const paragraph = h("p");
      for (let first = true; i < lines.length && lines[i].text.trim() && (first || !starts(lines[i].text)); i++, first = false) {
        if (!first) paragraph.append(h("br"));
        inline(lines[i], paragraph, leaf);
      }
      parent.append(paragraph);
    }
  }
}

const starts = (text) => /^\s*(```|~~~|>)|^#{1,6}\s/.test(text) || ITEM.test(text);

function list(lines, i, parent, leaf) {
  const [, indent, mark] = ITEM.exec(lines[i].text);
  const ordered = /\d/.test(mark);
  const element = h(ordered ? "ol" : "ul", ordered ? { start: parseInt(mark, 10) } : {});
  while (i < lines.length) {
    const found = ITEM.exec(lines[i].text);
    if (!found || found[1].length !== indent.length || /\d/.test(found[2]) !== ordered) break;
    const inner = [cut(lines[i], found[0].length)];
    for (i++; i < lines.length && lines[i].text.trim() && /^\s+/.exec(lines[i].text)?.[0].length > indent.length; i++) {
      inner.push(cut(lines[i], Math.min(found[0].length, /^\s*/.exec(lines[i].text)[0].length)));
    }
    const item = h("li");
    blocks(inner, item, leaf);
    // A single paragraph in an item needs no margins of its own.
    if (item.children.length === 1 && item.firstChild.tagName === "P") item.replaceChildren(...item.firstChild.childNodes);
    element.append(item);
    while (i + 1 < lines.length && !lines[i].text.trim() && ITEM.test(lines[i + 1].text)) i++;
  }
  parent.append(element);
  return i;
}

function table(lines, i, parent, leaf) {
  const row = (line, tag) => {
    const element = h("tr");
    for (const cell of line.text.matchAll(/[^|]+/g)) {
      const trimmed = cell[0].trim();
      if (!trimmed) continue;
      const place = h(tag);
      inline({ text: trimmed, at: line.at + cell.index + cell[0].indexOf(trimmed) }, place, leaf);
      element.append(place);
    }
    return element;
  };
  const body = h("tbody");
  const element = h("table", {}, h("thead", {}, row(lines[i], "th")), body);
  for (i += 2; i < lines.length && lines[i].text.includes("|"); i++) body.append(row(lines[i], "td"));
  parent.append(element);
  return i;
}

const MARKS = /(`+)([^`]|[^`].*?[^`])\1(?!`)|(\*\*|__)(?=\S)(.+?\S|\S)\3|(\*|_)(?=\S)(.+?\S|\S)\5(?!\w)|\[([^\]]+)\]\(([^)\s]+)\)/;

function inline(line, parent, leaf) {
  let { text, at } = line;
  while (text) {
    const found = MARKS.exec(text);
    if (!found) {
      parent.append(leaf(text, at));
      return;
    }
    if (found.index) parent.append(leaf(text.slice(0, found.index), at));
    const start = at + found.index;
    if (found[1]) {
      parent.append(h("code", {}, leaf(found[2], start + found[1].length)));
    } else if (found[3] || found[5]) {
      const mark = found[3] || found[5];
      const element = h(found[3] ? "strong" : "em");
      inline({ text: found[4] ?? found[6], at: start + mark.length }, element, leaf);
      parent.append(element);
    } else {
      const safe = /^(https?:|mailto:)/i.test(found[8]);
      const element = safe ? h("a", { href: found[8], target: "_blank", rel: "noopener noreferrer" }) : h("span");
      inline({ text: found[7], at: start + 1 }, element, leaf);
      parent.append(element);
    }
    text = text.slice(found.index + found[0].length);
    at = start + found[0].length;
  }
}
