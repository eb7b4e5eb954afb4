// The lists beside the map, the details of what was chosen, and how amounts are written.

export const collate = new Intl.Collator("en", { numeric: true }).compare;

// element makes an element with text and other elements in it. Text never becomes markup.
export function element(name, ...children) {
  const e = document.createElement(name);
  e.append(...children.filter((c) => c !== null && c !== undefined && c !== false));
  return e;
}

const classed = (e, name) => { e.className = name; return e; };

// keyed makes a parent's children those of a list: what was there stays the same element.
export function keyed(parent, items, key, create, update) {
  parent.elements ??= new Map();
  const before = parent.elements;
  const now = new Map();
  for (const item of items) {
    const k = key(item);
    let e = before.get(k);
    if (!e) {
      e = create(item);
      parent.append(e);
    }
    now.set(k, e);
    update(e, item);
  }
  for (const [k, e] of before) if (!now.has(k)) e.remove();
  parent.elements = now;
}

const digits = (v) => v >= 100 || v === Math.trunc(v) ? v.toFixed(0) : v >= 10 ? v.toFixed(1) : v >= 0.1 ? v.toFixed(2) : v.toPrecision(2);
export const cores = (v) => v === 1 ? "1 core" : `${digits(v)} cores`;
export const percent = (v) => `${Math.round(100 * v)} %`;
export function bytes(v) {
  let i = 0;
  for (; v >= 1024 && i < 5; i++) v /= 1024;
  return `${digits(v)} ${["B", "KiB", "MiB", "GiB", "TiB", "PiB"][i]}`;
}
export const clock = (at) => new Date(at).toLocaleTimeString("en-GB");
const ms = (v) => v >= 1000 ? `${digits(v / 1000)} s` : `${digits(v)} ms`;
const when = (at) => Date.parse(at) > 0 ? clock(at) : "-";

// once draws a list only when what it shows has changed, so that it can be read and scrolled.
function once(parent, shown, make) {
  const text = JSON.stringify(shown);
  if (parent.shown === text) return;
  parent.shown = text;
  const focus = parent.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  parent.replaceChildren(...make());
  if (focus !== undefined) [...parent.querySelectorAll("[data-key]")].find((e) => e.dataset.key === focus)?.focus();
}

function choosable(e, key, choose) {
  e.tabIndex = 0;
  e.dataset.key = key;
  e.addEventListener("click", () => choose(key));
  e.addEventListener("keydown", (k) => { if (k.key === "Enter") choose(key); });
  return e;
}

const dot = (color) => classed(element("i"), color);

function moveItem(m, color, choose) {
  const mark = m.going ? classed(element("span", "moving"), "mark") : element("time", m.refused ? "refused " : "", when(m.began));
  if (m.refused) mark.className = "mark";
  const li = element("li",
    classed(element("div", element("span", dot(color), element("b", m.actor), ` ${m.from} → ${m.to}`), mark), "top"),
    m.refused ? element("p", element("em", m.refused)) : null,
    element("p", m.reason, " ", element("small", m.rule)));
  li.className = m.going ? "going" : m.refused ? "refused" : "";
  return choosable(li, m.key, choose);
}

export function drawMoves(parent, count, view, map, chosen, choose) {
  const going = view.moves.filter((m) => m.going).length;
  count.textContent = going ? `${going} under way` : "";
  const shown = view.moves.map((m) => [m.key, m.going, m.refused, m.reason]);
  once(parent, [shown, chosen], () => view.moves.length ? view.moves.map((m) => {
    const li = moveItem(m, map.color(m.type), choose);
    li.classList.toggle("chosen", m.key === chosen);
    return li;
  }) : [classed(element("li", "Nothing has moved yet."), "none")]);
}

const MAX_DECISIONS = 200;

export function drawDecisions(parent, plan, view, which) {
  plan.textContent = view.services.map((s) => {
    const name = view.services.length > 1 ? `${s.name}: ` : "";
    if (!(Date.parse(s.planned) > 0)) return `${name}no plan yet`;
    const n = (s.actions ?? []).length;
    return `${name}plan of ${clock(s.planned)} in ${ms(s.took ?? 0)}, ${n} action${n === 1 ? "" : "s"}${s.shadow ? " (mode shadow: not carried out)" : ""}`;
  }).join("; ");
  const all = view.decisions.filter((d) => which === "all" || (which === "yes") === d.done);
  once(parent, [which, all], () => {
    const items = all.slice(0, MAX_DECISIONS).map((d) => classed(element("li",
      classed(element("div", element("span", element("b", d.rule), " ", d.behavior ? element("code", d.behavior) : null),
        classed(element("span", d.done ? "done" : "not done"), "mark")), "top"),
      element("p", d.reason)), d.done ? "yes" : "no"));
    if (all.length > MAX_DECISIONS) items.push(classed(element("li", `and ${all.length - MAX_DECISIONS} more`), "none"));
    return items.length ? items : [classed(element("li", which === "all" ? "No rule has anything to say." : "None."), "none")];
  });
}

export function drawPolicies(parent, view) {
  once(parent, view.services.map((s) => [s.name, s.policy, s.version, s.image]), () => view.services.filter((s) => s.policy).map((s) =>
    element("details", element("summary", `Policy of ${s.name}, version ${s.version}`), element("pre", s.policy))));
}

const MAX_TROUBLES = 5;

export function drawTrouble(parent, view) {
  const all = view.services.flatMap((s) => (s.trouble ?? []).map((t) => [s.name, t]));
  for (const n of view.nodes) if (!n.up && n.name) all.push([n.name, "the node is down: its plasmad is not heard"]);
  for (const s of view.servers) if (s.why) all.push([s.id, s.why]);
  parent.hidden = all.length === 0;
  once(parent, all, () => [element("div", element("ul", ...all.slice(0, MAX_TROUBLES).map(([who, what]) => element("li", element("b", who), ` ${what}`)),
    all.length > MAX_TROUBLES ? element("li", `and ${all.length - MAX_TROUBLES} more`) : null))]);
}

export function drawServices(parent, all, only, choose) {
  const names = all.length > 1 ? ["", ...all.map((s) => s.name)] : all.map((s) => s.name);
  once(parent, [all.map((s) => [s.name, s.paused, (s.trouble ?? []).length]), only], () => names.map((name) => {
    const s = all.find((s) => s.name === name);
    const bad = s && (s.trouble ?? []).length > 0;
    const b = element("button", name || "all services", s?.paused ? " (paused)" : "", bad ? classed(element("span", " !"), "bad") : null);
    b.type = "button";
    b.dataset.key = name;
    b.setAttribute("aria-pressed", String(only === name || all.length === 1));
    b.addEventListener("click", () => choose(name));
    return b;
  }));
}

const facts = (pairs) => element("dl", ...pairs.filter((p) => p && p[1] !== "" && p[1] !== undefined)
  .map(([name, value]) => element("div", element("dt", name), element("dd", value))));

function related(title, items) {
  return items.length ? [element("h3", title), classed(element("ol", ...items), "list")] : [];
}

// mentions tells whether a decision's text names something, and not only something that begins so.
function mentions(d, name) {
  for (const text of [d.behavior, d.reason]) {
    for (let i = text.indexOf(name); i >= 0; i = text.indexOf(name, i + 1)) {
      if (!/[\w/-]/.test(text[i - 1] ?? " ") && !/[\w/-]/.test(text[i + name.length] ?? " ")) return true;
    }
  }
  return false;
}

const SOME = 8;

export function drawDetails(parent, view, map, chosen, choose) {
  const actor = view.byActor.get(chosen), server = view.byServer.get(chosen), move = view.byMove.get(chosen);
  parent.hidden = !chosen;
  if (!chosen) return;
  const one = actor ?? server ?? move;
  const name = one ? (move ? move.actor : one.id) : chosen.split("\n").at(-1);
  const moves = view.moves.filter((m) => actor && m.actorKey === chosen || server && (m.fromKey === chosen || m.toKey === chosen)).slice(0, SOME);
  const why = one && !move ? view.decisions.filter((d) => d.service === one.service && mentions(d, name)).slice(0, SOME) : [];
  once(parent, [chosen, one, moves, why], () => {
    const close = element("button", "×");
    close.type = "button";
    close.setAttribute("aria-label", "close");
    close.addEventListener("click", () => choose(""));
    const head = element("header", element("h2", name), close);
    if (!one) return [head, element("p", "It is not there any more, or is not among the busiest.")];
    return [head, ...(actor ? ofActor(actor) : server ? ofServer(server) : ofMove(move)),
      ...related("Moves", moves.map((m) => moveItem(m, map.color(m.type), choose))),
      ...related("Decisions", why.map((d) => element("li", element("b", d.rule), " ", element("code", d.behavior), element("p", `${d.done ? "Done" : "Not done"}: ${d.reason}`))))];
  });
}

const ofActor = (a) => [facts([
  ["type", a.type], ["service", a.service], ["server", a.server], ["processor", cores(a.usage.cpu)], ["memory", bytes(a.usage.mem)],
  ["network", `${bytes(a.usage.net)}/s`], ["state", bytes(a.state)], ["waiting", `${digits(a.queue)} messages`],
])];

const ofServer = (s) => [facts([
  ["is", s.state + (s.why ? `: ${s.why}` : "")], ["service", `${s.service}, version ${s.version}`], ["node", s.node],
  ["processor", `${cores(s.usage.cpu)} of ${cores(s.limit.cpu)}`], ["memory", `${bytes(s.usage.mem)} of ${bytes(s.limit.mem)}`],
  ["network", `${bytes(s.usage.net)}/s`],
  ["latency", s.latency.p99 > 0 ? `p50 ${ms(s.latency.p50)}, p95 ${ms(s.latency.p95)}, p99 ${ms(s.latency.p99)}` : ""],
  ["waiting", `${digits(s.queue)} messages`], ["actors", String(s.actors)], ["shards", `${s.shards} of 4096`], ["kept for", s.reserved ?? ""],
])];

const ofMove = (m) => [facts([
  ["from", m.from], ["to", m.to], ["service", m.service], ["rule", m.rule], ["why", m.reason], ["began", when(m.began)],
  ["took", m.took > 0 ? ms(m.took) : m.going ? "under way" : ""], ["refused", m.refused ?? ""],
])];

// drawNow says what moves at the moment, with the reason.
export function drawNow(parent, view, map) {
  const now = view.moves.filter((m) => m.going || m.age < 6000);
  const shown = now.slice(0, now.length > 3 ? 2 : 3);
  once(parent, [shown.map((m) => [m.key, m.going, m.refused]), now.length], () => {
    const items = shown.map((m) => classed(element("li", dot(map.color(m.type)), element("b", `${m.actor}: ${m.from} → ${m.to}`),
      ` ${m.refused ? `refused, ${m.refused}` : m.reason}`), m.going ? "going" : ""));
    if (now.length > 3) items.push(element("li", `and ${now.length - 2} more`));
    if (!items.length) items.push(classed(element("li", "Nothing moves at the moment."), "still"));
    return items;
  });
}
