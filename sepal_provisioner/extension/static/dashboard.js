// Keeps the table up to date from one stream of events, and does what the buttons say. The server renders every row.
"use strict";

const { base, xsrf } = document.body.dataset;
const words = JSON.parse(document.body.dataset.words);
const language = document.documentElement.lang;
const $ = (selector, root = document) => root.querySelector(selector);
const rows = $("#rows");

const say = (key, values = {}) => words[key].replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
const rowOf = (name) => [...rows.children].find((row) => row.dataset.name === name);

// ---------------------------------------------------------------------------------------- figures, in their language

const ago = new Intl.RelativeTimeFormat(language, { numeric: "auto" });
const full = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" });

function size(bytes) {
  const units = ["byte", "kilobyte", "megabyte", "gigabyte", "terabyte"];
  let step = 0;
  while (bytes >= 1000 && step < units.length - 1) { bytes /= 1000; step += 1; }
  const digits = step && bytes < 100 ? 1 : 0;
  return new Intl.NumberFormat(language, { style: "unit", unit: units[step], maximumFractionDigits: digits }).format(bytes);
}

function relative(date) {
  const seconds = (date - Date.now()) / 1000;
  for (const [unit, length] of [["year", 31536000], ["month", 2592000], ["day", 86400], ["hour", 3600], ["minute", 60]]) {
    if (Math.abs(seconds) >= length) return ago.format(Math.round(seconds / length), unit);
  }
  return ago.format(0, "minute");
}

function localise(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const date = new Date(time.dateTime);
    if (Number.isNaN(date.getTime())) continue;
    time.textContent = relative(date);
    time.title = full.format(date);
  }
  for (const data of root.querySelectorAll("data.bytes")) data.textContent = size(Number(data.value));
}

// -------------------------------------------------------------------------------------------------------- the server

async function call(method, path, body) {
  const headers = { "X-XSRFToken": xsrf };
  if (body) headers["Content-Type"] = "application/json";
  const response = await fetch(`${base}/api/${path}`, { method, headers, body: body && JSON.stringify(body) });
  const document = await response.json();
  if (!response.ok) throw new Error(document.error.message);
  return document;
}

function fail(error) {
  $("#error span").textContent = say("failed", { message: error.message });
  $("#error").hidden = false;
}

async function refresh(names) {
  const one = names && names.size === 1 ? [...names][0] : "";
  const query = new URLSearchParams({ lang: language, ...(one && rowOf(one) ? { name: one } : {}) });
  const response = await fetch(`${base}/rows?${query}`);
  if (!response.ok) return;
  const template = document.createElement("template");
  template.innerHTML = await response.text();
  localise(template.content);
  const fresh = [...template.content.querySelectorAll("tr")];
  if (query.has("name")) fresh.forEach((row) => replace(rowOf(row.dataset.name), row));
  else {
    const old = new Map([...rows.children].map((row) => [row.dataset.name, row]));
    fresh.forEach((row) => tell(old.get(row.dataset.name), row));
    const focus = focused();
    rows.replaceChildren(...fresh);
    restore(focus);
  }
  show();
}

function replace(old, row) {
  if (!old) return;
  tell(old, row);
  const focus = focused();
  old.replaceWith(row);
  restore(focus);
}

function tell(old, row) {
  if (old && old.dataset.state !== row.dataset.state) {
    $("#said").textContent = `${row.dataset.label}: ${words[`state.${row.dataset.state}`]}`;
  }
  const open = old && $("details[open]", old);
  if (open && $("details", row)) $("details", row).open = true;
}

// Whoever stands on a button still stands there when its row is a new one.
function focused() {
  const row = document.activeElement?.closest("#rows tr");
  return row && { name: row.dataset.name, action: document.activeElement.dataset.action };
}

function restore(focus) {
  if (!focus || document.activeElement?.closest("#rows tr")) return;
  const row = rowOf(focus.name);
  if (row) ($(`[data-action="${focus.action}"]`, row) ?? $("button", row))?.focus();
}

// ------------------------------------------------------------------------------------------------------------ events

const waiting = new Set();
let timer = 0;

function later(name) {
  waiting.add(name);
  timer ||= setTimeout(() => {
    const names = new Set(waiting);
    waiting.clear();
    timer = 0;
    refresh(names).catch(fail);
  }, 250);
}

function listen() {
  let lost = false;
  const events = new EventSource(`${base}/api/events`);
  events.addEventListener("open", () => {
    if (lost) { $("#error").hidden = true; refresh().catch(fail); }
    lost = false;
  });
  events.addEventListener("error", () => {
    lost = true;
    $("#error span").textContent = say("lost");
    $("#error").hidden = false;
  });
  events.addEventListener("kernel", (event) => later(JSON.parse(event.data).name));
  events.addEventListener("removed", (event) => { rowOf(JSON.parse(event.data).name)?.remove(); show(); });
  events.addEventListener("sync", async () => {
    const { sync } = await call("GET", "kernels").catch(() => ({ sync: { running: false } }));
    const button = $('[data-action="sync"]');
    if (button) busy(button, sync.running);
    const time = $("header time");
    if (time && sync.synced) { time.dateTime = new Date(sync.synced * 1000).toISOString(); localise($("header")); }
  });
  events.addEventListener("progress", (event) => {
    const { name, progress } = JSON.parse(event.data);
    const row = rowOf(name);
    const bar = row && $("progress", row);
    if (!bar) { later(name); return; }
    bar.value = progress.fraction;
    const steps = progress.total ? ` ${progress.done}/${progress.total}` : "";
    $(".phase", row).textContent = `${words[`phase.${progress.phase}`]}${steps} · ${Math.floor(progress.fraction * 100)} %`;
  });
  addEventListener("pagehide", () => events.close());
}

// ------------------------------------------------------------------------------------------------- search and filter

function show() {
  const text = $("#search").value.trim().toLowerCase();
  const state = $("#filter").value;
  let shown = 0;
  for (const row of rows.children) {
    const fits = row.dataset.search.includes(text) && (!state || row.dataset.state === state);
    row.hidden = !fits;
    shown += fits;
  }
  const total = rows.children.length;
  $("#count").textContent = total ? say("shown", { shown, total }) : "";
  $("#none").hidden = total > 0;
  $("#no-match").hidden = !total || shown > 0;
}

// ----------------------------------------------------------------------------------------------------------- dialogs

function choice(dialog) {
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }));
}

function ask(text, yes) {
  $("#ask-text").textContent = text;
  $("#ask .main").textContent = yes;
  return choice($("#ask"));
}

async function showLog(name) {
  const dialog = $("#log");
  const text = $("pre", dialog);
  $("h2 code", dialog).textContent = name;
  text.textContent = "";
  dialog.showModal();
  let query = "";
  while (dialog.open) {
    try {
      const piece = await call("GET", `kernels/${encodeURIComponent(name)}/log${query}`);
      query = `?offset=${piece.next}`;
      const follows = text.scrollHeight - text.scrollTop - text.clientHeight < 40;
      if (piece.text) text.textContent = (text.textContent + piece.text).slice(-500_000);
      if (piece.text && follows) text.scrollTop = text.scrollHeight;
    } catch (error) {
      text.textContent ||= say("no_log");
    }
    await new Promise((resolve) => setTimeout(resolve, 2000));
    if (!dialog.open || $("h2 code", dialog).textContent !== name) return;
  }
}

async function prune() {
  const dialog = $("#prune");
  const [status, table, yes] = [$("p", dialog), $("table", dialog), $(".main", dialog)];
  status.textContent = say("measuring");
  table.hidden = yes.disabled = true;
  const chosen = choice(dialog);
  let paths = [];
  try {
    const plan = await call("GET", "prune");
    const going = plan.items.filter((item) => item.remove);
    paths = going.map((item) => item.path);
    const stays = say("stays", { count: plan.items.length - going.length });
    status.textContent = `${going.length ? say("frees", { size: size(plan.freed) }) : say("nothing")} ${stays}`;
    $("tbody", table).replaceChildren(...going.map((item) => {
      const row = document.createElement("tr");
      const name = item.path.startsWith(plan.store) ? item.path.slice(plan.store.length + 1) : item.path;
      for (const [value, kind] of [[`${words[`kind.${item.kind}`]}: ${name}`, ""], [size(item.size), "number"], [item.reason, ""]]) {
        const cell = row.insertCell();
        cell.textContent = value;
        cell.className = kind;
      }
      return row;
    }));
    table.hidden = yes.disabled = !going.length;
  } catch (error) {
    status.textContent = say("failed", { message: error.message });
  }
  if (await chosen) {
    const done = await call("POST", "prune", { paths });
    $("#said").textContent = say("freed", { size: size(done.freed) });
  }
}

// ----------------------------------------------------------------------------------------------------------- buttons

function busy(button, is) {
  button.dataset.text ??= button.textContent;
  button.disabled = is;
  button.textContent = is && button.dataset.busy ? button.dataset.busy : button.dataset.text;
}

async function act(button) {
  const { action } = button.dataset;
  const row = button.closest("tr");
  const { name, label } = row?.dataset ?? {};
  const post = (verb, body) => call("POST", `kernels/${encodeURIComponent(name)}/${verb}`, body);
  if (action === "dismiss") $("#error").hidden = true;
  else if (action === "log") await showLog(name);
  else if (action === "prune") await prune();
  else if (action === "sync") { busy(button, true); await call("POST", "sync").catch((error) => { busy(button, false); throw error; }); }
  else if (action === "build") await post("build");
  else if (action === "undo") await post("rollback", { undo: true });
  else if (await ask(say(`ask_${action}`, { label }), button.textContent)) {
    await (action === "rebuild" ? post("build", { force: true }) : post(action));
  }
  if (row && action !== "log") later(name);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-action]");
  if (button) act(button).catch(fail);
});

localise(document);
if (rows) {
  $("#search").addEventListener("input", show);
  $("#filter").addEventListener("change", show);
  show();
  listen();
  setInterval(() => localise(document), 60_000);
}
