// The map: nodes, the servers on them, and their actors as dots that keep their places until they move.
import { cores, element, keyed, bytes, percent } from "./panels.js";

const NS = "http://www.w3.org/2000/svg";
const GAP = 12, PAD = 10, HEAD = 44;  // around nodes; within them; a node's lines of text
const NARROWEST = 150;                // a server, in pixels
const TOP = 46, FOOT = 20;            // a server's lines above and below its dots
const LARGEST = 26, SMALLEST = 10;    // the place of a dot
const TALLEST = 150;                  // what dots take of a server, where smaller ones help
const SMALL = 3;                      // the radius of a dot that does nothing
const HOT = 0.9;
const TRAIL = 6000;                   // milliseconds for which a move that ended is shown
const MAX_WAYS = 30;
export const MAX_DOTS = 2000;

const svg = (name, cls) => {
  const e = document.createElementNS(NS, name);
  if (cls) e.setAttribute("class", cls);
  return e;
};
const set = (e, attributes) => {
  for (const name in attributes) {
    const value = String(attributes[name]);
    if (e.getAttribute(name) !== value) e.setAttribute(name, value);
  }
};
const text = (e, value) => { if (e.textContent !== value) e.textContent = value; };
const share = (part, whole) => whole > 0 ? part / whole : 0;

// long gives how long a text is, in pixels, as style.css has it. A canvas is asked, because asking
// the map would have it laid out each time.
const pen = document.createElement("canvas").getContext("2d");
const lengths = new Map();
function long(value, style) {
  const key = style + value;
  let n = lengths.get(key);
  if (n === undefined) {
    if (lengths.size > 10000) lengths.clear();
    pen.font = `${style} ${getComputedStyle(document.body).fontFamily}`;
    n = Math.ceil(pen.measureText(value).width) + 1;
    lengths.set(key, n);
  }
  return n;
}
const NODE = "600 14px", NAME = "600 12px", DIM = "11px"; // of texts

// fit gives the first of some texts that is short enough, or none.
const fit = (texts, width, style) => texts.find((t) => long(t, style) <= width) ?? "";

// Slots are the places of a server's dots: one that leaves frees its place, and no other moves.
class Slots {
  list = [];
  update(ids) {
    const here = new Set(ids);
    if (this.list.length > 2 * ids.length + 8) this.list = [];
    this.list = this.list.map((id) => here.has(id) ? id : null);
    const placed = new Set(this.list);
    let free = 0;
    for (const id of ids) {
      if (placed.has(id)) continue;
      while (free < this.list.length && this.list[free] !== null) free++;
      this.list[free] = id;
    }
    while (this.list.length && this.list.at(-1) === null) this.list.pop();
  }
}

export class Map2D {
  constructor(parent, choose) {
    this.parent = parent;
    this.choose = choose;
    this.slots = new Map();
    this.colors = new Map();
    this.svg = svg("svg");
    this.svg.setAttribute("role", "img");
    this.layers = {};
    for (const name of ["nodes", "servers", "ways", "actors"]) {
      this.layers[name] = svg("g", name);
      this.svg.append(this.layers[name]);
    }
    parent.append(this.svg);
    this.svg.addEventListener("click", (e) => this.picked(e));
    this.svg.addEventListener("keydown", (e) => {
      if (e.key !== "Enter" && e.key !== " ") return;
      e.preventDefault();
      this.picked(e);
    });
    this.width = 0;
    new ResizeObserver(() => {
      if (!this.last || parent.clientWidth === this.width) return;
      this.svg.classList.add("still");
      this.draw(...this.last);
      requestAnimationFrame(() => requestAnimationFrame(() => this.svg.classList.remove("still")));
    }).observe(parent);
  }

  picked(e) {
    const of = e.target.closest("[data-key]");
    this.choose(of ? of.dataset.key : "");
  }

  // color is of a type of actors: the same as long as the page is open.
  color(type) {
    if (!this.colors.has(type)) this.colors.set(type, "c" + this.colors.size % 10);
    return this.colors.get(type);
  }

  // draw shows a view of the status: see view in script.js.
  draw(view, chosen, wanted) {
    this.last = [view, chosen, wanted];
    this.width = this.parent.clientWidth;
    for (const type of view.types) this.color(type);
    this.arrange(view);
    this.drawNodes(view);
    this.drawServers(chosen);
    this.drawActors(view, chosen, wanted);
    this.drawWays(view);
    set(this.svg, {
      width: this.width, height: this.height, "aria-label":
        `${view.nodes.length} nodes with ${view.servers.length} servers and ${view.actors.length} actors`,
    });
  }

  // arrange gives each node, server and dot its place.
  arrange(view) {
    const on = Map.groupBy(view.actors, (a) => a.at);
    for (const s of view.servers) {
      if (!this.slots.has(s.key)) this.slots.set(s.key, new Slots());
      this.slots.get(s.key).update((on.get(s.key) ?? []).map((a) => a.key));
    }
    for (const key of this.slots.keys()) if (!view.byServer.has(key)) this.slots.delete(key);
    const columns = Math.max(1, Math.min(view.nodes.length, Math.floor((this.width + GAP) / (NARROWEST + 2 * PAD + GAP + 60))));
    const wide = (this.width - GAP * (columns - 1)) / columns;
    const inner = wide - 2 * PAD;
    const most = Math.max(1, Math.floor((inner + PAD) / (NARROWEST + PAD)));
    const longest = Math.max(0, ...view.servers.map((s) => this.slots.get(s.key).list.length));
    const widths = view.nodes.map((n) => {
      const k = Math.max(1, Math.min(most, n.servers.length));
      return [k, (inner - PAD * (k - 1)) / k];
    });
    const narrowest = Math.min(...widths.map((w) => w[1])) - 2 * PAD;
    let cell = LARGEST;
    while (cell > SMALLEST && Math.ceil(longest / Math.max(1, Math.floor(narrowest / cell))) * cell > TALLEST) cell -= 2;
    this.cell = cell;
    this.boxes = [];
    this.places = new Map();
    this.dots = new Map();
    let y = 1;
    for (let first = 0; first < view.nodes.length; first += columns) {
      const row = view.nodes.slice(first, first + columns);
      const boxes = row.map((node, i) => this.arrangeNode(node, 1 + i * (wide + GAP), y, wide - 2, ...widths[first + i]));
      const high = Math.max(...boxes.map((b) => b.height));
      for (const b of boxes) b.height = high;
      this.boxes.push(...boxes);
      y += high + GAP;
    }
    this.height = Math.max(1, y - GAP + 1);
  }

  arrangeNode(node, x, y, width, columns, wide) {
    let down = y + HEAD;
    for (let first = 0; first < node.servers.length; first += columns) {
      const row = node.servers.slice(first, first + columns);
      const across = Math.max(1, Math.floor((wide - 2 * PAD + 2) / this.cell));
      const lines = Math.max(1, ...row.map((s) => Math.ceil(this.slots.get(s.key).list.length / across)));
      const height = TOP + lines * this.cell + FOOT;
      row.forEach((server, i) => {
        const left = x + PAD + i * (wide + PAD);
        this.places.set(server.key, { server, x: left, y: down, width: wide - 2, height });
        this.slots.get(server.key).list.forEach((key, slot) => {
          if (key === null) return;
          this.dots.set(key, {
            x: left + PAD + (slot % across + 0.5) * this.cell,
            y: down + TOP + (Math.floor(slot / across) + 0.5) * this.cell,
          });
        });
      });
      down += height + PAD;
    }
    return { node, x, y, width, height: Math.max(down - y, HEAD + PAD) };
  }

  drawNodes() {
    keyed(this.layers.nodes, this.boxes, (b) => b.node.name, () => {
      const g = svg("g", "node");
      g.append(svg("rect", "box"), svg("text", "name"), svg("text", "dim state"), svg("text", "dim end"), svg("rect", "track"), svg("rect", "cpu"));
      return g;
    }, (g, { node, x, y, width, height }) => {
      g.dataset.node = node.name;
      g.setAttribute("class", "node" + (node.up ? "" : " down"));
      const [box, name, state, right, track, bar] = g.children;
      set(box, { x, y, width, height, rx: 8 });
      set(name, { x: x + PAD, y: y + 20 });
      const inner = width - 2 * PAD;
      const title = fit([node.name, node.name.slice(0, 20) + "…"], inner - 40, NODE);
      text(name, title);
      const used = share(node.usage.cpu, node.capacity.cpu);
      const loads = node.capacity.cpu > 0 ? [`${percent(used)} of ${cores(node.capacity.cpu)}, ${bytes(node.usage.mem)} of ${bytes(node.capacity.mem)}`,
        `${percent(used)} of ${cores(node.capacity.cpu)}`, percent(used)] : [];
      const room = inner - long(title, NODE) - 8;
      const about = [node.up ? node.zone : "down", node.late].filter(Boolean).join(", ");
      const beside = fit(loads, room - long(about, NAME) - 8, DIM);
      text(state, beside || loads.length === 0 ? about : "");
      text(right, beside || fit(loads, room, DIM));
      set(state, { x: x + PAD + long(title, NODE) + 8, y: y + 20 });
      set(right, { x: x + width - PAD, y: y + 20 });
      set(track, { x: x + PAD, y: y + 28, width: width - 2 * PAD, height: 5, rx: 2.5 });
      set(bar, { x: x + PAD, y: y + 28, width: (width - 2 * PAD) * Math.min(1, used), height: 5, rx: 2.5, class: "cpu" + (used > HOT ? " hot" : "") });
    });
  }

  drawServers(chosen) {
    keyed(this.layers.servers, [...this.places.values()], (p) => p.server.key, () => {
      const g = svg("g", "server");
      g.setAttribute("tabindex", "0");
      g.setAttribute("role", "button");
      g.append(svg("title"), svg("rect", "box"), svg("text", "name"), svg("text", "load end"), svg("rect", "track"), svg("rect", "cpu"),
        svg("rect", "track"), svg("rect", "mem"), svg("text", "dim state"), svg("text", "dim end"));
      return g;
    }, (g, { server: s, x, y, width, height }) => {
      g.dataset.server = s.id;
      g.dataset.key = s.key;
      g.setAttribute("class", `server ${s.state}` + (s.key === chosen ? " chosen" : ""));
      const [title, box, name, load, cpuTrack, cpu, memTrack, mem, state, foot] = g.children;
      const used = share(s.usage.cpu, s.limit.cpu), held = share(s.usage.mem, s.limit.mem);
      text(title, `${s.id}, ${s.state}: ${cores(s.usage.cpu)} of ${cores(s.limit.cpu)}, ${bytes(s.usage.mem)} of ${bytes(s.limit.mem)}` + (s.why ? `. ${s.why}` : ""));
      set(box, { x, y, width, height, rx: 5 });
      set(name, { x: x + PAD, y: y + 18 });
      set(load, { x: x + width - PAD, y: y + 18, class: "load end" + (used > HOT ? " hot" : "") });
      text(load, s.limit.cpu > 0 ? percent(used) : cores(s.usage.cpu));
      const inner = width - 2 * PAD;
      text(name, fit([s.id, s.id.slice(0, 12) + "…", s.id.slice(0, 6) + "…"], inner - long(load.textContent, NAME) - 8, NAME));
      set(cpuTrack, { x: x + PAD, y: y + 25, width: inner, height: 7, rx: 3 });
      set(cpu, { x: x + PAD, y: y + 25, width: inner * Math.min(1, used), height: 7, rx: 3, class: "cpu" + (used > HOT ? " hot" : "") });
      set(memTrack, { x: x + PAD, y: y + 35, width: inner, height: 3, rx: 1.5 });
      set(mem, { x: x + PAD, y: y + 35, width: inner * Math.min(1, held), height: 3, rx: 1.5, class: "mem" + (held > HOT ? " hot" : "") });
      const more = s.actors - this.slots.get(s.key).list.filter(Boolean).length;
      set(state, { x: x + PAD, y: y + height - 8 });
      const count = `${s.actors} actor${s.actors === 1 ? "" : "s"}`;
      const about = fit(s.state !== "up" ? [s.state] : s.reserved ? [`for ${s.reserved}`, "reserved"] : more > 0 ? [`${count}, ${more} not shown`, count] : [count], inner, NAME);
      text(state, about);
      set(foot, { x: x + width - PAD, y: y + height - 8 });
      text(foot, s.latency.p99 > 0 ? fit([`p99 ${s.latency.p99.toPrecision(2)} ms`], inner - long(about, NAME) - 8, DIM) : "");
    });
  }

  drawActors(view, chosen, wanted) {
    const most = Math.max(1e-3, ...view.actors.map((a) => a.usage.cpu));
    this.full = 2 ** Math.ceil(Math.log2(most)); // changes seldom, so that dots don't all change with one
    const largest = this.cell / 2 - 1;
    keyed(this.layers.actors, view.actors.filter((a) => this.dots.has(a.key)), (a) => a.key, () => {
      const c = svg("circle");
      c.append(svg("title"));
      return c;
    }, (c, a) => {
      const { x, y } = this.dots.get(a.key);
      // Most of them are as they were, and there may be many.
      const classes = ["actor", this.color(a.type), a.key === chosen && "chosen", view.leaving.has(a.key) && "leaving",
        view.arrived.has(a.key) && "arrived", wanted && !a.id.toLowerCase().includes(wanted) && "faded"].filter(Boolean).join(" ");
      const drawn = [x, y, largest, a.server, a.usage.cpu, this.full, classes].join();
      if (c.drawn === drawn) return;
      c.drawn = drawn;
      c.dataset.actor = a.id;
      c.dataset.key = a.key;
      c.dataset.on = a.server;
      set(c, {
        r: (SMALL + (largest - SMALL) * Math.sqrt(Math.min(1, a.usage.cpu / this.full))).toFixed(2),
        class: classes,
      });
      c.style.transform = `translate(${x.toFixed(1)}px, ${y.toFixed(1)}px)`;
      text(c.firstChild, `${a.id} on ${a.server}: ${cores(a.usage.cpu)}`);
    });
  }

  // drawWays draws what moves as a dotted way, and what has just moved as one that fades.
  drawWays(view) {
    const known = view.moves.filter((m) => (m.going || m.age < TRAIL) && this.places.has(m.fromKey) && this.places.has(m.toKey));
    keyed(this.layers.ways, known.slice(0, MAX_WAYS), (m) => m.key + (m.going ? "+" : "-"), () => {
      const p = svg("path");
      p.append(svg("title"));
      return p;
    }, (p, m) => {
      const from = m.going && this.dots.get(m.actorKey) || centre(this.places.get(m.fromKey));
      const to = !m.going && !m.refused && this.dots.get(m.actorKey) || centre(this.places.get(m.toKey));
      const bend = from.x < to.x ? 0.2 : -0.2;
      const middle = [(from.x + to.x) / 2 + bend * (to.y - from.y), (from.y + to.y) / 2 - bend * (to.x - from.x)];
      const d = [`M${from.x},${from.y} Q`, middle.join(","), `${to.x},${to.y}`].join(" ");
      p.dataset.move = m.id;
      p.dataset.key = m.key;
      set(p, { d, class: `way ${m.going ? "going" : "gone"} ${this.color(m.type)}` });
      text(p.firstChild, `${m.actor} from ${m.from} to ${m.to}: ${m.reason}`);
    });
  }

  // legend says what colors and sizes are.
  legend(parent, view) {
    const items = view.types.map((type) => {
      const i = element("i");
      i.className = this.color(type);
      return element("span", i, `${type} `, element("small", String(view.counts.get(type))));
    });
    const largest = this.cell / 2 - 1;
    const dot = element("i");
    dot.className = "size";
    dot.style.width = dot.style.height = `${2 * largest}px`;
    if (view.actors.length) items.push(element("span", dot, element("small", `uses ${cores(this.full)}`)));
    if (view.hidden > 0) items.push(element("small", `${view.hidden} less busy actors are not shown`));
    parent.replaceChildren(...items);
  }
}

const centre = (b) => ({ x: b.x + b.width / 2, y: b.y + TOP + 10 });
