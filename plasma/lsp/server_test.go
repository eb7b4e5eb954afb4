package lsp

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/peregrine-dev/peregrine/plasma/epl"
)

const application = `
name = "files"
[type.Folder]
doc = "a directory"
functions = ["open", "list"]
properties = { files = "File" }
metrics = ["entries"]
state = "4KiB"
[type.File]
functions = ["read", "write"]
[server]
metrics = ["inflight"]
`

// editor talks to a server over pipes.
type editor struct {
	t    *testing.T
	to   *io.PipeWriter
	from *bufio.Reader
	last int
	// notes are notifications that came while an answer was waited for.
	notes []message
	done  chan error
}

type message struct {
	ID     *int            `json:"id"`
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
	Result json.RawMessage `json:"result"`
	Error  *problem        `json:"error"`
}

func start(t *testing.T, mode epl.Mode) *editor {
	t.Helper()
	inRead, inWrite := io.Pipe()
	outRead, outWrite := io.Pipe()
	e := &editor{t: t, to: inWrite, from: bufio.NewReader(outRead), done: make(chan error, 1)}
	go func() {
		err := Serve(inRead, outWrite, mode)
		inRead.Close()
		outWrite.Close()
		e.done <- err
	}()
	t.Cleanup(func() {
		inWrite.Close()
		outRead.Close()
	})
	return e
}

// initialized is an editor that has said hello.
func initialized(t *testing.T, mode epl.Mode) *editor {
	t.Helper()
	e := start(t, mode)
	if m := e.ask("initialize", map[string]any{"capabilities": map[string]any{}}); m.Error != nil {
		t.Fatal(m.Error)
	}
	e.tell("initialized", map[string]any{})
	return e
}

func (e *editor) write(v any) {
	e.t.Helper()
	body, err := json.Marshal(v)
	if err != nil {
		e.t.Fatal(err)
	}
	if err := writeFrame(e.to, body); err != nil {
		e.t.Fatal(err)
	}
}

func (e *editor) read() message {
	e.t.Helper()
	body, err := readFrame(e.from)
	if err != nil {
		e.t.Fatal(err)
	}
	var m message
	if err := json.Unmarshal(body, &m); err != nil {
		e.t.Fatal(err)
	}
	return m
}

func (e *editor) tell(method string, params any) {
	e.t.Helper()
	e.write(map[string]any{"jsonrpc": "2.0", "method": method, "params": params})
}

func (e *editor) ask(method string, params any) message {
	e.t.Helper()
	e.last++
	e.write(map[string]any{"jsonrpc": "2.0", "id": e.last, "method": method, "params": params})
	for {
		m := e.read()
		if m.ID != nil && *m.ID == e.last {
			return m
		}
		e.notes = append(e.notes, m)
	}
}

func (e *editor) open(uri, text string) []diagnostic {
	e.t.Helper()
	e.tell("textDocument/didOpen", map[string]any{"textDocument": map[string]any{"uri": uri, "languageId": "epl", "version": 1, "text": text}})
	return e.diagnostics()
}

func (e *editor) change(uri, text string) []diagnostic {
	e.t.Helper()
	e.tell("textDocument/didChange", map[string]any{"textDocument": map[string]any{"uri": uri, "version": 2}, "contentChanges": []any{map[string]any{"text": text}}})
	return e.diagnostics()
}

func (e *editor) diagnostics() []diagnostic {
	e.t.Helper()
	for {
		m := e.read()
		if m.Method != "textDocument/publishDiagnostics" {
			e.notes = append(e.notes, m)
			continue
		}
		var p struct{ Diagnostics []diagnostic }
		if err := json.Unmarshal(m.Params, &p); err != nil {
			e.t.Fatal(err)
		}
		return p.Diagnostics
	}
}

// at gives the place of the sign | in a text, and the text without it.
func at(text string) (string, position) {
	before, after, _ := strings.Cut(text, "|")
	d := document{text: []byte(before + after)}
	return before + after, d.position(len(before))
}

func place(uri string, p position) map[string]any {
	return map[string]any{"textDocument": map[string]any{"uri": uri}, "position": p}
}

// folder has a manifest, and gives the URI of a policy beside it.
func folder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "plasma.toml"), []byte(application), 0o644); err != nil {
		t.Fatal(err)
	}
	return "file://" + filepath.Join(dir, "policy.epl")
}

func codes(all []diagnostic) string {
	var s []string
	for _, d := range all {
		s = append(s, fmt.Sprintf("%d:%d-%d:%d %d %s", d.Range.Start.Line, d.Range.Start.Character, d.Range.End.Line, d.Range.End.Character, d.Severity, d.Code))
	}
	return strings.Join(s, "\n")
}

func TestSession(t *testing.T) {
	e := start(t, epl.Full)
	if m := e.ask("textDocument/hover", place("file:///x", position{})); m.Error == nil || m.Error.Code != notInitialized {
		t.Errorf("before initialize: %+v", m.Error)
	}
	m := e.ask("initialize", map[string]any{})
	if !strings.Contains(string(m.Result), `"documentFormattingProvider":true`) {
		t.Errorf("abilities: %s", m.Result)
	}
	if m := e.ask("textDocument/rename", map[string]any{}); m.Error == nil || m.Error.Code != noMethod {
		t.Errorf("a method that isn't there: %+v", m.Error)
	}
	if m := e.ask("textDocument/hover", "text"); m.Error == nil || m.Error.Code != invalidParams {
		t.Errorf("bad parameters: %+v", m.Error)
	}
	if err := writeFrame(e.to, []byte("{")); err != nil {
		t.Fatal(err)
	}
	if m := e.read(); m.Error == nil || m.Error.Code != parseError {
		t.Errorf("no JSON: %+v", m.Error)
	}
	if m := e.ask("shutdown", nil); m.Error != nil || string(m.Result) != "null" {
		t.Errorf("shutdown: %+v", m)
	}
	if m := e.ask("textDocument/hover", place("file:///x", position{})); m.Error == nil || m.Error.Code != invalidRequest {
		t.Errorf("after shutdown: %+v", m.Error)
	}
	e.tell("exit", nil)
	if err := <-e.done; err != nil {
		t.Error(err)
	}
}

func TestEnds(t *testing.T) {
	e := initialized(t, epl.Full)
	e.tell("exit", nil)
	if err := <-e.done; err == nil {
		t.Error("exit without shutdown is no error")
	}
	e = initialized(t, epl.Full)
	e.to.Close()
	if err := <-e.done; err != nil {
		t.Errorf("an editor that ends: %v", err)
	}
	e = initialized(t, epl.Full)
	if _, err := io.WriteString(e.to, "Content-Length: 99999999\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if err := <-e.done; err == nil || !strings.Contains(err.Error(), "length") {
		t.Errorf("a long message: %v", err)
	}
}

func TestDiagnostics(t *testing.T) {
	e := initialized(t, epl.Full)
	uri := folder(t)
	// Columns are in units of UTF-16.
	if got := codes(e.open(uri, "/* 😀 */ tru => ;\nserver.cpu.prec > 80 => balance({Folder}, cpu);\n")); got != "0:13-0:15 1 syntax\n1:11-1:15 1 syntax" {
		t.Errorf("mistakes: %s", got)
	}
	if len(e.notes) != 1 || !strings.Contains(string(e.notes[0].Params), "plasma.toml") {
		t.Errorf("doesn't say where names come from: %+v", e.notes)
	}
	found := e.change(uri, "Foldr(fo).cpu.perc > 3 => colocate(fo, File);\ntrue => separate(Folder, File); colocate(Folder, File);")
	if got := codes(found); !strings.Contains(got, "0:0-0:5 1 unknown-type") || !strings.Contains(got, "1 contradiction") || !strings.Contains(got, "2 all-pairs") {
		t.Errorf("findings: %s", got)
	}
	for _, d := range found {
		if d.Code == "contradiction" && (len(d.Related) != 2 || d.Related[1].Location.URI != uri) {
			t.Errorf("related: %+v", d.Related)
		}
	}
	if got := e.change(uri, "client.call(Folder(fo).open).perc > 3 => pin(fo);\n"); len(got) != 0 {
		t.Errorf("findings of a good policy: %s", codes(got))
	}
	e.change(uri, "x")
	e.tell("textDocument/didClose", map[string]any{"textDocument": map[string]any{"uri": uri}})
	if got := e.diagnostics(); len(got) != 0 {
		t.Errorf("after closing: %s", codes(got))
	}
}

func TestManifestThatIsWrong(t *testing.T) {
	e := initialized(t, epl.Full)
	uri := folder(t)
	file := strings.TrimPrefix(uri, "file://")
	if err := os.WriteFile(filepath.Join(filepath.Dir(file), "policy.manifest.toml"), []byte("nam = 3"), 0o644); err != nil {
		t.Fatal(err)
	}
	text := "Zebra(z).cpu.perc > 3 => pin(z);"
	got := e.open(uri, text)
	if codes(got) != "0:0-0:0 2 manifest" || !strings.Contains(got[0].Message, "policy.manifest.toml:1:1") {
		t.Errorf("a wrong manifest: %+v", got)
	}
	if err := os.Remove(filepath.Join(filepath.Dir(file), "policy.manifest.toml")); err != nil {
		t.Fatal(err)
	}
	e.tell("textDocument/didSave", map[string]any{"textDocument": map[string]any{"uri": uri}})
	if got := codes(e.diagnostics()); got != "0:0-0:5 1 unknown-type" {
		t.Errorf("after it is gone: %s", got)
	}
}

func TestPaper(t *testing.T) {
	e := initialized(t, epl.Full)
	if got := codes(e.open("file:///x/policy.paper.epl", "not true => ;")); got != "0:0-0:3 1 syntax" {
		t.Errorf("an extension in the paper's language: %s", got)
	}
}

func TestComplete(t *testing.T) {
	e := initialized(t, epl.Full)
	uri := folder(t)
	for _, tt := range []struct{ text, want, not string }{
		{"|", "server client true not Folder File rule limits", "and cpu"},
		{"ser|", "server", ""},
		{"server.|", "cpu mem net latency queue metric", "call"},
		{"server.c|", "cpu", "call"},
		{"server.cpu.|", "perc size", "count"},
		{"server.latency.|", "mean p99", "perc"},
		{"server.queue.|", "len", "perc"},
		{"server.cpu.perc > 80 |", "over for and or", "server"},
		{"server.cpu.perc > 80 and |", "server client Folder", "and"},
		{"client.|", "call", "cpu"},
		{"client.call(|", "Folder File any", "open"},
		{"client.call(Folder.|", "open list", "read"},
		{"client.call(Folder(fo).|", "open list", "read"},
		{"client.call(any.|", "open list read write", ""},
		{"client.call(Folder(fo).open).|", "count size perc", "cpu"},
		{"client.call(Folder(fo).open).perc > 40 and fo.|", "cpu call metric", ""},
		{"client.call(Folder(fo).open).perc > 40 and File(fi) |", "in and", "cpu"},
		{"client.call(Folder(fo).open).perc > 40 and File(fi) in |", "ref", "cpu"},
		{"client.call(Folder(fo).open).perc > 40 and File(fi) in ref(|", "fo Folder", ""},
		{"client.call(Folder(fo).open).perc > 40 and File(fi) in ref(fo.|", "files", "open"},
		{"server.metric(\"|", "inflight", "entries"},
		{"Folder(fo).cpu.perc > 3 and fo.metric(\"e|\") > 3 => ;", "entries", "inflight"},
		{"true => |", "balance reserve colocate separate pin", "server"},
		{"Folder(fo).cpu.perc > 3 => reserve(|", "fo Folder File", "cpu"},
		{"Folder(fo).cpu.perc > 3 => reserve(fo, |", "cpu mem net", "fo"},
		{"Folder(fo).cpu.perc > 3 => pin(fo); colocate(fo, |", "fo File", ""},
		{"true => balance({|", "Folder File any", "cpu"},
		{"true => balance({Folder, |", "Folder File any", "cpu"},
		{"true => balance({Folder, File}, |", "cpu mem net", "Folder"},
		{"true => colocate(Folder, File) |", "at", ""},
		{"true => colocate(Folder, File) at |", "node zone server", "cpu"},
		{"true => pin(Folder); |", "balance colocate server rule", ""},
		{"limits { |", "servers moves cooldown period", "server"},
		{"limits { servers 2..20; |", "moves cooldown period", "server"},
		{"// a comment |", "", "server"},
		{"/* a | comment */", "", "server"},
	} {
		text, p := at(tt.text)
		e.open(uri, text)
		m := e.ask("textDocument/completion", place(uri, p))
		var items []item
		if err := json.Unmarshal(m.Result, &items); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, i := range items {
			got = append(got, i.Label)
		}
		for _, w := range strings.Fields(tt.want) {
			if !slices.Contains(got, w) {
				t.Errorf("%q has no %s: %v", tt.text, w, got)
			}
		}
		for _, w := range strings.Fields(tt.not) {
			if slices.Contains(got, w) {
				t.Errorf("%q has %s: %v", tt.text, w, got)
			}
		}
		if tt.want == "" && len(got) > 0 {
			t.Errorf("%q has %v", tt.text, got)
		}
	}
}

func TestHover(t *testing.T) {
	e := initialized(t, epl.Full)
	uri := folder(t)
	for text, want := range map[string]string{
		"ser|ver.cpu.perc > 3 => ;":                               "a container that hosts actors",
		"server.cpu.per|c > 3 => ;":                               "percentage",
		"true => bal|ance({Folder}, cpu);":                        "spread actors",
		"true => balance({Fol|der}, cpu);":                        "a directory\n- functions: open, list",
		"Folder(fo).cpu.perc > 3 => pin(f|o);":                    "a variable. **Folder**: a directory",
		"client.call(Folder.op|en).count > 3 => ;":                "a function of Folder",
		"File(fi) in ref(Folder(fo).fil|es) => colocate(fo, fi);": "a property of Folder, with references to File",
		"limits { serv|ers 2..20; }":                              "how many there may be",
		"true => pin(Zeb|ra);":                                    "hasn't got",
		"// ser|ver":                                              "",
		"true |=> ;":                                              "",
		"unknow|n":                                                "",
		"/* 😀 */ server.cpu.perc > 3 and fo|o.cpu.perc > 3 => pin(Foo(foo));": "a variable",
	} {
		text, p := at(text)
		e.open(uri, text)
		m := e.ask("textDocument/hover", place(uri, p))
		var h *hover
		if err := json.Unmarshal(m.Result, &h); err != nil {
			t.Fatal(err)
		}
		if want == "" {
			if h != nil {
				t.Errorf("%q: %+v", text, h)
			}
		} else if h == nil || !strings.Contains(h.Contents.Value, want) {
			t.Errorf("%q: %+v, want %q", text, h, want)
		}
	}
}

func TestFormat(t *testing.T) {
	e := initialized(t, epl.Full)
	for text, want := range map[string]string{
		"true=>;":             `[{"range":{"start":{"line":0,"character":0},"end":{"line":0,"character":7}},"newText":"true =\u003e ;\n"}]`,
		"true => ;\n":         "[]",
		"// 😀\ntrue=>;//😀":    `[{"range":{"start":{"line":0,"character":0},"end":{"line":1,"character":11}},"newText":"// 😀\ntrue =\u003e ; //😀\n"}]`,
		"a policy with error": "[]",
	} {
		e.open("file:///x.epl", text)
		if m := e.ask("textDocument/formatting", map[string]any{"textDocument": map[string]any{"uri": "file:///x.epl"}, "options": map[string]any{}}); string(m.Result) != want {
			t.Errorf("%q: %s, want %s", text, m.Result, want)
		}
	}
}

func TestManyDocuments(t *testing.T) {
	e := initialized(t, epl.Full)
	for i := range maxDocuments {
		e.open(fmt.Sprintf("file:///%d.epl", i), "")
	}
	e.tell("textDocument/didOpen", map[string]any{"textDocument": map[string]any{"uri": "file:///more.epl", "text": "x"}})
	if m := e.read(); m.Method != "window/logMessage" {
		t.Errorf("one too many: %+v", m)
	}
	if m := e.ask("textDocument/completion", place("file:///more.epl", position{})); string(m.Result) != "[]" {
		t.Errorf("completion of what isn't open: %s", m.Result)
	}
}

func TestNearest(t *testing.T) {
	dir := t.TempDir()
	write := func(name string) {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	policy := filepath.Join(dir, "a[b]", "c", "policy.epl")
	write("a[b]/c/policy.epl")
	// Each is preferred to those before.
	for _, name := range []string{"plasma.toml", "files.manifest.toml", "a[b]/plasma.toml", "a[b]/c/plasma.toml", "a[b]/c/one.manifest.toml", "a[b]/c/manifest.toml", "a[b]/c/policy.manifest.toml"} {
		write(name)
		if got := nearest(policy); got != filepath.Join(dir, name) {
			t.Errorf("%s, want %s", got, name)
		}
	}
}

func TestPositions(t *testing.T) {
	d := document{text: []byte("a😀b\r\nü\n")}
	for offset, want := range map[int]position{0: {0, 0}, 1: {0, 1}, 5: {0, 3}, 6: {0, 4}, 8: {1, 0}, 10: {1, 1}, 11: {2, 0}} {
		if got := d.position(offset); got != want {
			t.Errorf("position(%d) is %v, want %v", offset, got, want)
		}
		if got := d.offset(want); got != offset {
			t.Errorf("offset(%v) is %d, want %d", want, got, offset)
		}
	}
	if got := d.offset(position{9, 9}); got != len(d.text) {
		t.Errorf("beyond the end: %d", got)
	}
}

func TestFrames(t *testing.T) {
	for in, want := range map[string]string{
		"Content-Length: 2\r\n\r\n{}":                           "{}",
		"content-length:2\nContent-Type: x\n\n{}":               "{}",
		"Content-Length: 3\r\n\r\n{}":                           "ends too early",
		"Content-Length: -1\r\n\r\n":                            "want a number",
		"Content-Length: x\r\n\r\n":                             "want a number",
		"Content-Type: x\r\n\r\n{}":                             "no Content-Length",
		"nonsense\r\n\r\n":                                      "no colon",
		"X: " + strings.Repeat("x", maxHeader):                  "more than",
		strings.Repeat("X: y\r\n", maxHeader):                   "more than",
		"Content-Length: 2":                                     "unexpected EOF",
		fmt.Sprintf("Content-Length: %d\r\n\r\n", maxMessage+1): "want a number",
	} {
		body, err := readFrame(bufio.NewReader(strings.NewReader(in)))
		if err != nil && !strings.Contains(err.Error(), want) || err == nil && string(body) != want {
			t.Errorf("%.40q: %q, %v", in, body, err)
		}
	}
	if _, err := readFrame(bufio.NewReader(strings.NewReader(""))); !errors.Is(err, io.EOF) {
		t.Errorf("nothing: %v", err)
	}
}

// FuzzServe: no bytes from an editor stop the server in another way than with an error.
func FuzzServe(f *testing.F) {
	hello := `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}`
	frame := func(bodies ...string) []byte {
		var s strings.Builder
		for _, b := range bodies {
			fmt.Fprintf(&s, "Content-Length: %d\r\n\r\n%s", len(b), b)
		}
		return []byte(s.String())
	}
	f.Add(frame(hello, `{"jsonrpc":"2.0","method":"exit"}`))
	f.Add(frame(hello, `{"method":"textDocument/didOpen","params":{"textDocument":{"uri":"x","text":"A(a).cpu.perc > 3 => pin(a);"}}}`,
		`{"id":2,"method":"textDocument/completion","params":{"textDocument":{"uri":"x"},"position":{"line":0,"character":5}}}`,
		`{"id":"3","method":"textDocument/hover","params":{"textDocument":{"uri":"x"},"position":{"line":-1,"character":-5}}}`,
		`{"id":null,"method":"textDocument/formatting","params":{"textDocument":{"uri":"x"}}}`))
	f.Add([]byte("Content-Length: 5\r\n\r\n[1,2]Content-Length"))
	f.Fuzz(func(t *testing.T, in []byte) {
		_ = Serve(strings.NewReader(string(in)), io.Discard, epl.Full)
	})
}

// FuzzPlaces: any place of any text can be asked about.
func FuzzPlaces(f *testing.F) {
	f.Add("client.call(Folder(fo).open).perc > 40 and File(fi) in ref(fo.files) => reserve(fo, cpu);", 0, 30)
	f.Add("server.metric(\"x", 0, 16)
	f.Fuzz(func(t *testing.T, text string, line, character int) {
		s := &server{out: io.Discard, documents: map[string]*document{}, manifests: map[string]string{}}
		if err := s.update("x", text); err != nil {
			t.Fatal(err)
		}
		p := positionParams{identifier{"x"}, position{line % 1000, character % 10000}}
		if _, err := s.complete(p); err != nil {
			t.Error(err)
		}
		if _, err := s.hover(p); err != nil {
			t.Error(err)
		}
	})
}
