"use strict";
const at = (id) => document.getElementById(id);
let token = null;

// Whatever others wrote becomes text, and characters that hide or turn text around are shown as escapes.
const UNSAFE = /[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u180e\u200b\u2060-\u2065\ufeff\u061c\u200e\u200f\u202a-\u202e\u2066-\u206f\u2028\u2029\ufff9-\ufffb\ud800-\udfff\u{e0000}-\u{e007f}]/gu;
const safe = (text) => String(text).replace(UNSAFE, (found) => {
  const code = found.codePointAt(0);
  return code < 0x10000 ? "\\u" + code.toString(16).padStart(4, "0") : "\\U" + code.toString(16).padStart(8, "0");
});
const put = (element, text) => { element.textContent = safe(text); };

function made(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) put(element, text);
  return element;
}

function button(text, act) {
  const element = made("button", "", text);
  element.type = "button";
  element.addEventListener("click", () => guarded(act));
  return element;
}

function complain(error) {
  at("problem").hidden = error === null;
  if (error !== null) put(at("problem"), error.message || error);
}

// Does something, and shows what is wrong with it.
async function guarded(act) {
  complain(null);
  try {
    await act();
  } catch (error) {
    if (error.name !== "AbortError") complain(error);
  }
}

async function ask(path, body, signal) {
  const headers = {};
  if (token !== null) headers.Authorization = "Bearer " + token;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const options = { method: body === undefined ? "GET" : "POST", headers, signal, body: JSON.stringify(body) };
  const response = await fetch(path, options);
  if (response.ok) return response;
  if (response.status === 401) {
    at("key").hidden = false;
    at("main").hidden = true;
  }
  throw new Error((await response.json()).error.message);
}

const told = async (path, body) => (await ask(path, body)).json();

// The pieces of an answer, as they come.
async function* pieces(body, signal) {
  const response = await ask("/v1/chat/completions", { ...body, stream: true }, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message);
      const text = chunk.choices[0]?.delta.content;
      if (text) yield text;
    }
  }
}

// The chat.

let turns = [];
let run = "";
let stopping = null;
const user = () => at("user").value.trim() || null;
const baseOf = (voice) => "base" + voice.slice(run.length);

async function chooseVoice() {
  restart();
  const preset = await told("/page/preset?model=" + encodeURIComponent(at("voice").value));
  put(at("origin"), preset.origin);
  at("told").replaceChildren(...preset.messages.map(
    (message) => made("p", "message", message.role + ": " + message.content)));
}

function restart() {
  turns = [];
  stopping?.abort();
  at("log").replaceChildren();
}

function answerCard(model, name, messages, seed) {
  const card = made("div", "answer");
  const text = made("p", "text");
  card.append(made("h2", "", name), text);
  const state = { card, text, answer: "", model, messages, seed };
  return state;
}

async function fill(state, signal) {
  const asked = { model: state.model, messages: state.messages, seed: state.seed };
  try {
    for await (const piece of pieces(asked, signal)) {
      state.answer += piece;
      put(state.text, state.answer);
    }
    if (!state.answer) put(state.text, "(nothing)");
  } finally {
    if (state.answer) state.card.append(ratings(state));
  }
}

function ratings(state) {
  const row = made("div");
  const said = made("span", "quiet");
  const keep = async (rating, edited) => {
    const { model, messages, answer, seed } = state;
    await told("/page/ratings", { model, messages, answer, seed, rating, edited, user: user() });
    put(said, "kept");
  };
  const pressed = (element) => [...row.querySelectorAll("button")].forEach(
    (each) => each.setAttribute("aria-pressed", each === element));
  const like = button("Like", async () => { await keep(1, null); pressed(like); });
  const dislike = button("Dislike", async () => { await keep(-1, null); pressed(dislike); });
  const edit = button("Edit", () => {
    const field = made("textarea");
    field.value = state.answer;
    field.rows = 3;
    field.setAttribute("aria-label", "The answer that you wanted");
    const save = button("Keep my version", async () => {
      await keep(null, field.value);
      field.remove();
      save.remove();
      edit.disabled = false;
    });
    edit.disabled = true;
    row.append(field, save);
    field.focus();
  });
  row.append(like, dislike, edit, said);
  return row;
}

async function send() {
  const question = at("question").value.trim();
  if (!question || stopping) return;
  const voice = at("voice").value;
  const messages = [...turns, { role: "user", content: question }];
  const seed = crypto.getRandomValues(new Uint32Array(1))[0];
  const states = [answerCard(voice, voice, messages, seed)];
  if (at("beside").checked && voice !== "base") states.push(answerCard(baseOf(voice), "base", messages, seed));
  const row = made("div", "beside");
  row.append(...states.map((state) => state.card));
  at("log").append(made("p", "message", question), row);
  at("question").value = "";
  const mine = stopping = new AbortController();
  busy(true);
  const log = turns;
  try {
    const found = await Promise.allSettled(states.map((state) => fill(state, mine.signal)));
    const failed = found.find((each) => each.status === "rejected");
    if (states[0].answer) log.push(messages.at(-1), { role: "assistant", content: states[0].answer });
    if (failed) throw failed.reason;
  } finally {
    stopping = null;
    busy(false);
    at("question").focus();
  }
}

function busy(is) {
  at("send").disabled = is;
  at("stop").hidden = !is;
}

// The blind taste test.

let tasting = null;
let number = null;
let waiting = false;

async function begin() {
  const voice = at("taste-voice").value;
  const group = voice === run ? null : voice.slice(run.length + 1);
  const asked = { user: at("taster").value.trim(), between: at("between").value, preference_group: group };
  at("verdict").replaceChildren();
  await step("/page/tastings", asked);
}

// One step of the test: nothing else is taken until its answer has come.
async function step(path, body) {
  if (waiting) return;
  waiting = true;
  marksEnabled(false);
  put(at("count"), "The models are answering…");
  let state = null;
  try {
    state = await told(path, body);
  } finally {
    waiting = false;
    marksEnabled(true);
    if (state === null) put(at("count"), "");
  }
  show(state);
}

function show(state) {
  tasting = state.id;
  put(at("count"), `${state.picked} picked, ${state.skipped} skipped. Every pick is kept in taste.jsonl.`);
  at("pair").hidden = state.pair === null;
  at("begin").hidden = state.pair !== null;
  if (state.pair) {
    number = state.pair.number;
    const turns = state.pair.turns.map((turn) => `${turn.role}: ${turn.content}`);
    put(at("asked"), [...turns, state.pair.question].join("\n\n"));
    put(at("first"), state.pair.answers[0] || "(nothing)");
    put(at("second"), state.pair.answers[1] || "(nothing)");
  }
  if (state.verdict) at("verdict").replaceChildren(...state.verdict.map((line) => made("p", "", line)));
}

function marksEnabled(are) {
  at("pair").querySelectorAll("button").forEach((each) => { each.disabled = !are; });
}

const mark = (sign) => step(`/page/tastings/${tasting}/picks`, { number, mark: sign });

function onKey(event) {
  if (at("taste").hidden || at("pair").hidden || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input, textarea, select")) return;
  if (["1", "2", "=", "s"].includes(event.key)) guarded(() => mark(event.key));
  if (event.key === "u") at("undo").click();
}

// The frame.

function open(name) {
  for (const each of ["chat", "taste"]) {
    at(each).hidden = each !== name;
    at("to-" + each).setAttribute("aria-pressed", each === name);
  }
}

async function start() {
  const models = (await told("/v1/models")).data.map((model) => model.id);
  run = models[1];
  document.title = safe(run) + " · pgrpo";
  put(at("title"), run);
  const options = (names) => names.map((name) => {
    const option = made("option", "", name);
    option.value = name;
    return option;
  });
  const groups = models.slice(2);
  at("voice").replaceChildren(...options([...groups, run, "base"]));
  at("taste-voice").replaceChildren(...options([run, ...groups]));
  at("key").hidden = true;
  at("main").hidden = false;
  await chooseVoice();
}

function on(id, kind, act) {
  at(id).addEventListener(kind, (event) => {
    event.preventDefault();
    guarded(act);
  });
}

on("key", "submit", () => { token = at("token").value; return start(); });
on("voice", "change", chooseVoice);
on("new", "click", restart);
on("ask", "submit", send);
on("stop", "click", () => stopping?.abort());
on("to-chat", "click", () => open("chat"));
on("to-taste", "click", () => open("taste"));
on("begin", "submit", begin);
on("undo", "click", () => step(`/page/tastings/${tasting}/undo`, {}));
on("end", "click", () => step(`/page/tastings/${tasting}/end`, {}));
at("pair").querySelectorAll("[data-mark]").forEach(
  (each) => each.addEventListener("click", () => guarded(() => mark(each.dataset.mark))));
document.addEventListener("keydown", onKey);
at("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    guarded(send);
  }
});
guarded(start);
