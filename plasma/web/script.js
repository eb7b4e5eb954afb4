// The page's state: what plasmad told last, what was chosen, and the stream.
import { Map2D, MAX_DOTS } from "./map.js";
import {
  clock, collate, drawDecisions, drawDetails, drawMoves, drawNow, drawPolicies, drawServices, drawTrouble,
} from "./panels.js";

const at = (id) => document.getElementById(id);
const LATE = 10000; // milliseconds without a profile after which it is said

let last = null;   // the status that came last
let lost = "";     // why there is no stream
let only = "";     // the service that is shown; empty is all
let chosen = "";   // the key of an actor, server or move
let which = "all"; // of the decisions

const map = new Map2D(at("map"), choose);

// view makes of a status what is drawn: lists of what the chosen service has, with keys.
function view(cluster) {
  const services = (cluster.services ?? []).filter((s) => !only || s.name === only);
  const now = Date.parse(cluster.at);
  const nodes = new Map((cluster.nodes ?? []).map((n) => [n.name, {
    ...n, servers: [], usage: { cpu: 0, mem: 0, net: 0 },
    late: now - Date.parse(n.heard) > LATE && Date.parse(n.heard) > 0 ? `heard ${Math.round((now - Date.parse(n.heard)) / 1000)} s ago` : "",
  }]));
  const v = { services, servers: [], actors: [], moves: [], decisions: [], leaving: new Set(), arrived: new Set(), counts: new Map(), total: 0 };
  for (const s of services) {
    const key = (kind, id) => `${kind}\n${s.name}\n${id}`;
    for (const one of s.servers ?? []) {
      const server = { ...one, service: s.name, key: key("server", one.id) };
      v.servers.push(server);
      if (!nodes.has(one.node)) nodes.set(one.node, { name: one.node || "no node yet", up: true, servers: [], capacity: { cpu: 0, mem: 0 }, usage: { cpu: 0, mem: 0, net: 0 } });
      nodes.get(one.node).servers.push(server);
    }
    for (const one of s.actors ?? []) v.actors.push({ ...one, service: s.name, key: key("actor", one.id), at: key("server", one.server) });
    const types = new Map((s.actors ?? []).map((a) => [a.id, a.type]));
    const move = (m, going) => v.moves.push({
      ...m, going, service: s.name, key: key("move", m.id), actorKey: key("actor", m.actor), fromKey: key("server", m.from), toKey: key("server", m.to),
      type: types.get(m.actor) ?? m.actor.split("/")[0], age: now - Date.parse(m.began) - (m.took ?? 0),
    });
    for (const m of s.moves ?? []) move(m, true);
    for (const m of s.recent ?? []) move(m, false);
    for (const d of s.decisions ?? []) v.decisions.push({ ...d, service: s.name });
    v.total += s.total;
  }
  // Usage of nodes is of all services, whichever is shown.
  for (const s of cluster.services ?? []) {
    for (const one of s.servers ?? []) {
      const n = nodes.get(one.node);
      if (n) for (const what of ["cpu", "mem", "net"]) n.usage[what] += one.usage[what];
    }
  }
  v.actors.sort((a, b) => b.usage.cpu - a.usage.cpu);
  v.actors.length = Math.min(v.actors.length, MAX_DOTS);
  v.hidden = v.total - v.actors.length;
  v.actors.sort((a, b) => collate(a.type, b.type) || collate(a.id, b.id));
  for (const a of v.actors) v.counts.set(a.type, (v.counts.get(a.type) ?? 0) + 1);
  v.types = [...v.counts.keys()];
  v.moves.sort((a, b) => Number(b.going) - Number(a.going) || Date.parse(b.began) - Date.parse(a.began));
  for (const m of v.moves) {
    if (m.going) v.leaving.add(m.actorKey);
    else if (m.age < 6000 && !m.refused) v.arrived.add(m.actorKey);
  }
  v.nodes = [...nodes.values()].sort((a, b) => collate(a.name, b.name));
  for (const n of v.nodes) n.servers.sort((a, b) => collate(a.service, b.service) || collate(a.id, b.id));
  v.byServer = new Map(v.servers.map((s) => [s.key, s]));
  v.byActor = new Map(v.actors.map((a) => [a.key, a]));
  v.byMove = new Map(v.moves.map((m) => [m.key, m]));
  return v;
}

const many = (n, what) => `${n} ${what}${n === 1 ? "" : "s"}`;

function draw() {
  if (!last) return;
  const all = last.services ?? [];
  if (!all.some((s) => s.name === only)) only = "";
  const v = view(last);
  const wanted = at("find").value.trim().toLowerCase();
  document.title = `${last.cluster} - PLASMA`;
  at("cluster").textContent = last.cluster;
  at("summary").textContent = [last.leader ? `led by ${last.leader}` : "without a leader", many(v.nodes.length, "node"),
    many(v.servers.length, "server"), many(v.total, "actor")].join(" · ");
  at("empty").hidden = all.length > 0;
  drawServices(at("services"), all, only, (name) => { only = name; draw(); });
  drawTrouble(at("trouble"), v);
  map.draw(v, chosen, wanted);
  map.legend(at("legend"), v);
  drawNow(at("now"), v, map);
  drawMoves(at("moves"), at("movecount"), v, map, chosen, choose);
  drawDecisions(at("decisions"), at("plan"), v, which);
  drawPolicies(at("policies"), v);
  drawDetails(at("details"), v, map, chosen, choose);
}

function choose(key) {
  chosen = key;
  draw();
}

function fresh() {
  const e = at("fresh");
  e.className = lost ? "lost" : last ? "live" : "";
  e.textContent = lost ? `${lost}${last ? `; this is of ${clock(last.at)}` : ""}; it is tried again` : last ? `live, ${clock(last.at)}` : "";
}

at("find").addEventListener("input", draw);
at("find").addEventListener("keydown", (e) => {
  const wanted = e.target.value.trim().toLowerCase();
  if (e.key !== "Enter" || !wanted || !last) return;
  const v = view(last);
  const found = [...v.servers, ...v.actors].filter((x) => x.id.toLowerCase().includes(wanted)).sort((a, b) => a.id.length - b.id.length);
  choose(found[0]?.key ?? "");
});
for (const e of document.getElementsByName("which")) e.addEventListener("change", () => { which = e.value; draw(); });
document.addEventListener("keydown", (e) => { if (e.key === "Escape") choose(""); });

function listen() {
  const stream = new EventSource("events");
  stream.addEventListener("status", (e) => {
    last = JSON.parse(e.data);
    lost = "";
    draw();
    fresh();
  });
  stream.addEventListener("trouble", (e) => {
    lost = JSON.parse(e.data);
    fresh();
  });
  stream.onerror = () => {
    lost ||= "plasmad does not answer";
    fresh();
    if (stream.readyState === EventSource.CLOSED) setTimeout(listen, 5000); // it was refused: a browser does not ask again then
  };
}
listen();
