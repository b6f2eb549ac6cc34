// Text of the model or of the user reaches the page as textContent only, so none of it is ever read as HTML.
"use strict";

const at = (id) => document.getElementById(id);
const state = { about: null, looked: null, text: null, masked: [], chosen: null, asked: 0, maskKey: 0 };

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

async function answered(url, question) {
  const options = question === undefined ? {} : {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(question),
  };
  let response;
  try {
    response = await fetch(url, options);
  } catch {
    throw new Error("The program does not answer; see its terminal, and start it again.");
  }
  let content = {};
  try {
    content = await response.json();
  } catch {
    content = { error: `The program failed with status ${response.status}; its terminal shows why.` };
  }
  if (content.error !== undefined) throw new Error(content.error);
  return content;
}

function key() {
  const found = Number(at("key").value);
  return Number.isSafeInteger(found) ? found : 0;
}

// Of several questions on the way, only the last one's answer is shown.
async function look(change) {
  const text = at("text").value;
  const question = { text, key: key(), masked: text === state.text ? state.masked : [], ...change };
  const number = ++state.asked;
  at("status").textContent = "Looking…";
  at("error").hidden = true;
  try {
    const looked = await answered("api/look", question);
    if (number !== state.asked) return;
    state.looked = looked;
    state.text = text;
    state.masked = looked.positions.map((position) => position.index);
    if (!state.masked.includes(state.chosen)) state.chosen = state.masked[0] ?? null;
    show();
    compare();
    at("status").textContent = summary(question.mask_key);
  } catch (error) {
    if (number !== state.asked) return;
    at("status").textContent = "";
    at("error").textContent = error.message;
    at("error").hidden = false;
    compare();
  }
}

function summary(maskKey) {
  const count = state.masked.length;
  if (!state.about.generates) return "";
  const replaced = state.looked.tokens.filter((token) => token.replaced).length;
  const chosen = maskKey === undefined ? "" : ` Masks of key ${maskKey}.`;
  return count === 0 ? "No token is masked." : `${count} masked, ${replaced} replaced by another token.${chosen}`;
}

function show() {
  at("result").hidden = false;
  const focused = document.activeElement?.dataset?.index;
  at("tokens").replaceChildren(...state.looked.tokens.map(chip));
  if (focused !== undefined) at("tokens").querySelector(`[data-index="${focused}"]`)?.focus();
  at("notes").replaceChildren(...state.looked.notes.map((note) => element("li", "", note)));
  showCandidates();
}

function chip(token, index) {
  const can = token.maskable && state.about.generates;
  const made = element(can ? "button" : "div", "token");
  made.classList.toggle("masked", token.masked);
  made.classList.toggle("replaced", token.replaced);
  made.classList.toggle("special", !token.maskable);
  made.append(element("span", "word", spelled(token)));
  if (token.drawn !== null) made.append(element("span", "drawn", token.drawn));
  if (token.score !== null) {
    made.append(element("span", "score", token.score.toFixed(2)));
    made.style.setProperty("--score", `${(100 * token.score).toFixed(1)}%`);
  }
  if (can) {
    made.type = "button";
    made.dataset.index = index;
    made.setAttribute("aria-pressed", token.masked);
    made.setAttribute("aria-label", spoken(token));
    made.addEventListener("click", () => toggle(index, token.masked));
  }
  return made;
}

function spelled(token) {
  const unknown = ["[UNK]", "<unk>"].includes(token.token) && token.source !== "";
  return unknown ? `${token.source} ${token.token}` : token.token;
}

function spoken(token) {
  const drawn = token.drawn === null ? "" : `, drawn ${token.drawn}`;
  const score = token.score === null ? "" : `, score ${token.score.toFixed(2)}`;
  return `${spelled(token)}${drawn}${score}`;
}

function toggle(index, masked) {
  if (!masked) state.chosen = index;
  look({ masked: masked ? state.masked.filter((one) => one !== index) : [...state.masked, index] });
}

function showCandidates() {
  const positions = state.looked.positions;
  at("candidates").hidden = positions.length === 0;
  if (positions.length === 0) return;
  const focused = document.activeElement?.dataset?.position;
  at("positions").replaceChildren(...positions.map((position) => {
    const made = element("button", "", `${position.index}: ${position.original.token}`);
    made.type = "button";
    made.dataset.position = position.index;
    made.setAttribute("aria-pressed", position.index === state.chosen);
    made.addEventListener("click", () => {
      state.chosen = position.index;
      showCandidates();
    });
    return made;
  }));
  if (focused !== undefined) at("positions").querySelector(`[data-position="${focused}"]`)?.focus();
  const position = positions.find((one) => one.index === state.chosen);
  showTable(position);
}

function showTable(position) {
  const { original, drawn, others, candidates } = position;
  const none = drawn.q === null;
  const hasP = drawn.p !== null;
  const hasQ = !hasP || candidates.some((one) => one.hardness !== null);
  const parts = [`Position ${position.index}: “${original.token}” in the text, “${drawn.token}” drawn`];
  at("table").hidden = none;
  if (hasQ && hasP) parts.push(`weight ${position.weight.toFixed(3)}`);
  if (!hasQ) parts.push("q is p");
  if (none) parts.push("no probabilities to show");
  else if (!hasP) parts.push("every token is as likely");
  at("drawn").textContent = `${parts.join(", ")}.`;
  for (const [name, visible] of [["p", hasP], ["q", hasQ], ["hardness", hasP && hasQ]]) {
    document.querySelector(`th.${name}`).hidden = !visible;
  }
  const most = Math.max(...candidates.map((one) => Math.max(one.p ?? 0, one.q)));
  const row = (name, p, q, hardness) => {
    const made = element("tr");
    made.append(name);
    if (hasP) made.append(share("p", p, most));
    if (hasQ) made.append(share("q", q, most));
    if (hasP && hasQ) made.append(element("td", "number hardness", hardness === null ? "" : hardness.toFixed(2)));
    return made;
  };
  const rows = candidates.map((one) => {
    const name = element("th", "", one.token);
    name.scope = "row";
    if (one.id === original.id) name.append(" ", element("span", "tag is-original", "text"));
    if (one.id === drawn.id) name.append(" ", element("span", "tag is-drawn", "drawn"));
    return row(name, one.p, one.q, one.hardness);
  });
  if (others.count > 0) {
    const name = element("th", "", `${others.count.toLocaleString("en")} others`);
    name.scope = "row";
    const last = row(name, others.p, others.q, null);
    last.className = "others";
    last.querySelectorAll(".bar").forEach((bar) => bar.remove());
    rows.push(last);
  }
  at("rows").replaceChildren(...rows);
}

function share(name, value, most) {
  const made = element("td", `number ${name}`);
  made.append(element("span", "", value >= 0.0005 || value === 0 ? value.toFixed(3) : value.toExponential(0)));
  const bar = element("span", "bar");
  bar.style.setProperty("--share", `${(100 * value) / most}%`);
  made.append(bar);
  return made;
}

// What is shown belongs to the text that was looked at: a token of it is not one of a text that has been changed since.
function compare() {
  const changed = at("text").value !== state.text;
  at("result").inert = changed;
  at("result").classList.toggle("stale", changed);
}

async function start() {
  at("form").addEventListener("submit", (event) => {
    event.preventDefault();
    look({});
  });
  at("text").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      look({});
    }
  });
  at("text").addEventListener("input", compare);
  at("random").addEventListener("click", () => look({ mask_key: state.maskKey++ }));
  at("clear").addEventListener("click", () => look({ masked: [] }));
  at("again").addEventListener("click", () => {
    at("key").value = key() + 1;
    look({});
  });
  at("key").addEventListener("change", () => look({}));
  try {
    state.about = await answered("api/about");
  } catch (error) {
    at("error").textContent = error.message;
    at("error").hidden = false;
    return;
  }
  const { name, step, draws, notes, generates, detects, longest, mask_share } = state.about;
  at("model").textContent = step === null ? name : `${name}, step ${step.toLocaleString("en")}`;
  document.title = `Look inside ${name}`;
  const limit = `Texts have at most ${longest} tokens with [CLS] and [SEP].`;
  at("about").replaceChildren(...[draws, ...notes, limit].filter(Boolean).map((line) => element("li", "", line)));
  document.querySelectorAll(".generates").forEach((part) => { part.hidden = !generates; });
  at("legend").hidden = !detects;
  at("random").textContent = `Random masks, ${Math.round(100 * mask_share)} %`;
  look({});
}

start();
