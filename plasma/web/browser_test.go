package web

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/peregrine-dev/peregrine/plasma/status"
)

// look takes a picture if PLASMA_WEB_PICTURES names a directory for them.
func look(b *page, name string) {
	b.t.Helper()
	if dir := os.Getenv("PLASMA_WEB_PICTURES"); dir != "" {
		b.wait(`document.getAnimations().every((a) => a.effect.getTiming().iterations === Infinity || a.playState !== "running" || a.effect.target.matches(".way"))`)
		b.picture(filepath.Join(dir, name+".png"))
	}
}

func TestPage(t *testing.T) {
	b := browse(t)
	t.Run("follows", func(t *testing.T) { follows(t, b) })
	t.Run("is used", func(t *testing.T) { used(t, b) })
	t.Run("fits", func(t *testing.T) { fits(t, b) })
}

// What plasmad tells is on the page, and what it tells later too.
func follows(t *testing.T, chromium *browser) {
	from := newSource(files())
	b := chromium.open(t, serve(t, from.Watch).URL, 1440, 900)
	b.wait(`document.querySelectorAll("circle.actor").length === 201`)
	for what, want := range map[string]int{
		"g.node": 3, "g.server": 8, "g.server.draining": 1, "g.server.starting": 1,
		`circle[data-on="files-8"]`: 0, `circle.leaving[data-actor="Folder/home7"]`: 1,
		`path.going[data-move="m9"]`: 1, "path.gone": 2, "#moves li": 7, "#moves .refused": 1,
		"#decisions li": 5, "#legend i:not(.size)": 4,
	} {
		var n int
		if b.eval(`document.querySelectorAll(`+quote(what)+`).length`, &n); n != want {
			t.Errorf("there are %d of %s, want %d", n, what, want)
		}
	}
	for _, want := range []string{
		"plasma", "led by node-b", "node-a", "rack 2", "files-1", "96 %", "Folder/home7", reason, idle, "its memory is at 97 %",
		"waits for Index/home19", "1079 less busy actors", "live, ", "plan of ",
	} {
		var page string
		if b.eval("document.body.innerText + document.querySelector('svg').textContent", &page); !strings.Contains(page, want) {
			t.Errorf("the page doesn't say %q", want)
		}
	}
	inside(t, b)
	look(b, "before")

	// An update brings the dot to its new server, by way of places between.
	var before float64
	b.eval(home7+`.getBoundingClientRect().x`, &before)
	from.set(moved())
	b.wait(home7 + `.dataset.on === "files-8"`)
	b.wait(`document.querySelector('g[data-server="files-8"]').textContent.includes("for Folder/home7")`)
	look(b, "moving")
	settle(b)
	inside(t, b)
	var there bool
	if b.eval(`(() => { const a = `+home7+`.getBoundingClientRect(), s = document.querySelector('g[data-server="files-8"]').getBoundingClientRect();
		return a.left >= s.left && a.right <= s.right && a.top >= s.top && a.bottom <= s.bottom && a.x !== `+number(before)+`; })()`, &there); !there {
		t.Error("the actor is not in its server's box")
	}
	if e := b.console(); len(e) > 0 {
		t.Errorf("the console has errors: %s", strings.Join(e, "\n"))
	}
}

func quote(s string) string { return strconv.Quote(s) }

func number(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }

const home7 = `document.querySelector('circle[data-actor="Folder/home7"]')`

// settle waits for the end of what goes from place to place.
func settle(b *page) {
	b.t.Helper()
	b.wait(`document.getAnimations().every((a) => !(a instanceof CSSTransition))`)
}

// inside checks that all dots are in their servers' boxes, those in their nodes', and that no dots
// cover each other.
func inside(t *testing.T, b *page) {
	t.Helper()
	settle(b)
	var wrong []string
	b.eval(`(() => {
		const wrong = [], box = (e) => e.getBoundingClientRect();
		const within = (a, b) => a.left >= b.left - 1 && a.right <= b.right + 1 && a.top >= b.top - 1 && a.bottom <= b.bottom + 1;
		const servers = new Map([...document.querySelectorAll("g.server")].map((g) => [g.dataset.server, box(g.querySelector(".box"))]));
		const nodes = [...document.querySelectorAll("g.node > .box")].map(box);
		for (const [id, s] of servers) if (!nodes.some((n) => within(s, n))) wrong.push(id + " is in no node");
		const dots = [...document.querySelectorAll("circle.actor")];
		for (const d of dots) if (!within(box(d), servers.get(d.dataset.on))) wrong.push(d.dataset.actor + " is not in " + d.dataset.on);
		const centres = new Set(dots.map((d) => d.style.transform));
		if (centres.size !== dots.length) wrong.push("dots cover each other");
		for (const e of document.querySelectorAll("svg text")) if (getComputedStyle(e).visibility !== "hidden" && !within(box(e), box(document.querySelector("svg")))) wrong.push("text leaves the map: " + e.textContent);
		for (const g of document.querySelectorAll("g.node, g.server")) {
			const texts = [...g.querySelectorAll(":scope > text")].filter((e) => e.textContent && getComputedStyle(e).visibility !== "hidden");
			for (const a of texts) for (const b of texts) {
				if (a !== b && box(a).left <= box(b).left && box(a).right > box(b).left && box(a).bottom > box(b).top && box(a).top < box(b).bottom) wrong.push(a.textContent + " covers " + b.textContent);
				if (!within(box(a), box(g.querySelector(".box")))) wrong.push(a.textContent + " leaves its box");
			}
		}
		if (document.documentElement.scrollWidth > innerWidth) wrong.push("the page is " + document.documentElement.scrollWidth + " wide, of " + innerWidth);
		return wrong;
	})()`, &wrong)
	if len(wrong) > 0 {
		t.Errorf("%s", strings.Join(wrong, "\n"))
	}
}

// What is chosen shows its details, what is looked for stands out, and one may ask for less.
func used(t *testing.T, chromium *browser) {
	from := newSource(moved())
	b := chromium.open(t, serve(t, from.Watch).URL, 1440, 900)
	b.wait(`document.querySelectorAll("circle.actor").length === 201`)
	settle(b)
	click := func(selector string) {
		t.Helper()
		var p struct{ X, Y float64 }
		b.eval(`(() => { const e = document.querySelector(`+quote(selector)+`); e.scrollIntoView({block: "nearest"}); const r = e.getBoundingClientRect(); return {x: r.x + r.width / 2, y: r.y + r.height / 2}; })()`, &p)
		for _, kind := range []string{"mousePressed", "mouseReleased"} {
			b.ask("Input.dispatchMouseEvent", map[string]any{"type": kind, "x": p.X, "y": p.Y, "button": "left", "clickCount": 1}, nil)
		}
	}
	details := func(want ...string) {
		t.Helper()
		for _, w := range want {
			b.wait(`!document.getElementById("details").hidden && document.getElementById("details").innerText.includes(` + quote(w) + `)`)
		}
	}
	click(`circle[data-actor="Folder/home7"]`)
	details("Folder/home7", "3 MiB", "0.58 cores", "12 messages", "files-1 → files-8", "reserve(Folder/home7, cpu)")
	look(b, "actor")
	click(`g[data-server="files-6"] .name`)
	details("files-6", "draining: waits for Index/home19", "512 of 4096")
	click(`#moves .refused`)
	details("refused", "files-2 has no room", "14.2 ms")
	click(`input[value="no"]`)
	b.wait(`document.querySelectorAll("#decisions li").length === 3`)
	b.eval(`(() => { const f = document.getElementById("find"); f.focus(); f.value = "HOME7"; f.dispatchEvent(new Event("input", {bubbles: true})); return true; })()`, new(bool))
	b.wait(`document.querySelectorAll("circle.actor.faded").length > 150 && !` + home7 + `.classList.contains("faded")`)
	for _, kind := range []string{"keyDown", "keyUp"} {
		b.ask("Input.dispatchKeyEvent", map[string]any{"type": kind, "key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}, nil)
	}
	b.wait(`document.querySelector(".chosen.actor")?.dataset.actor.includes("home7")`)
	b.ask("Input.dispatchKeyEvent", map[string]any{"type": "keyDown", "key": "Escape"}, nil)
	b.wait(`document.getElementById("details").hidden`)

	// Another service, whose names would be markup, and a node that is gone.
	c := moved()
	other := status.Service{Name: "chat", Trouble: []string{"no node has room for <img src=x onerror=alert(1)>"}}
	c.Services = append(c.Services, other)
	c.Nodes[2].Up = false
	from.set(c)
	b.wait(`document.querySelectorAll("#services button").length === 3`)
	b.wait(`document.querySelectorAll("g.node.down").length === 1`)
	b.wait(`document.getElementById("trouble").innerText.includes("<img src=x")`)
	look(b, "trouble")
	click(`#services button:last-child`)
	b.wait(`document.querySelectorAll("g.server").length === 0`)
	from.set(&status.Cluster{Cluster: "plasma"})
	b.wait(`!document.getElementById("empty").hidden`)
	if e := b.console(); len(e) > 0 {
		t.Errorf("the console has errors: %s", strings.Join(e, "\n"))
	}
}

// The page fits windows of all sizes, light and dark.
func fits(t *testing.T, chromium *browser) {
	b := chromium.open(t, serve(t, newSource(moved()).Watch).URL, 2200, 1200)
	b.wait(`document.querySelectorAll("circle.actor").length === 201`)
	for _, w := range []struct {
		name          string
		width, height int
		scheme        string
	}{{"wide", 2200, 1200, "light"}, {"dark", 1280, 800, "dark"}, {"narrow", 390, 1600, "light"}, {"narrowest", 320, 900, "dark"}} {
		b.ask("Emulation.setEmulatedMedia", map[string]any{"features": []any{map[string]any{"name": "prefers-color-scheme", "value": w.scheme}}}, nil)
		b.resize(w.width, w.height)
		b.wait(`innerWidth === ` + number(float64(w.width)) + ` && Math.abs(document.querySelector("svg").getBoundingClientRect().width - document.getElementById("map").clientWidth) < 1`)
		inside(t, b)
		look(b, w.name)
	}
}
