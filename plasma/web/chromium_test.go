package web

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// slow is how long a browser may take for anything on a loaded machine.
const slow = 60 * time.Second

// browser is a headless Chromium, which is spoken to by the DevTools protocol on a pipe.
type browser struct {
	to   *os.File
	last int

	lock    sync.Mutex
	answers map[int]chan answer
	errors  map[string][]string // what the consoles have of them, by page
	end     chan struct{}
}

// page is a page of a browser, for one test.
type page struct {
	*browser
	t       *testing.T
	session string
}

type answer struct {
	ID     int             `json:"id"`
	Page   string          `json:"sessionId"`
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
	Result json.RawMessage `json:"result"`
	Error  *struct {
		Message string `json:"message"`
	} `json:"error"`
}

// browse starts a browser, which ends with the test. A root without one fails: the machines that
// run all tests have it.
func browse(t *testing.T) *browser {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		if os.Getuid() == 0 {
			t.Fatal("there is no chromium: install Debian's package of that name")
		}
		t.Skip("there is no chromium, which only root's tests insist on")
	}
	commands, to := pipe(t)
	from, answers := pipe(t)
	dir := t.TempDir()
	var log strings.Builder
	c := exec.Command(path, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions", "--disable-breakpad",
		"--disable-dev-shm-usage", "--no-proxy-server", "--force-color-profile=srgb", "--hide-scrollbars",
		"--user-data-dir="+filepath.Join(dir, "profile"), "--remote-debugging-pipe", "about:blank")
	// What it keeps is in its own directory, which ends with the test.
	c.Env = append(os.Environ(), "HOME="+dir, "XDG_CONFIG_HOME="+dir, "XDG_CACHE_HOME="+dir, "DBUS_SESSION_BUS_ADDRESS=disabled:")
	c.Stderr = &log
	c.ExtraFiles = []*os.File{commands, answers}
	c.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	c.WaitDelay = slow
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	commands.Close()
	answers.Close()
	b := &browser{to: to, answers: map[int]chan answer{}, errors: map[string][]string{}, end: make(chan struct{})}
	go b.read(from)
	t.Cleanup(func() { b.close(t, c, from, &log) })
	return b
}

// open shows a page in a window of a size.
func (b *browser) open(t *testing.T, url string, width, height int) *page {
	t.Helper()
	p := &page{browser: b, t: t}
	var target struct {
		TargetID string `json:"targetId"`
	}
	p.ask("Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	t.Cleanup(func() {
		p.session = ""
		p.ask("Target.closeTarget", target, nil)
	})
	var attached struct{ SessionID string }
	p.ask("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached)
	p.session = attached.SessionID
	for _, domain := range []string{"Page", "Runtime", "Log"} {
		p.ask(domain+".enable", nil, nil)
	}
	p.resize(width, height)
	p.ask("Page.navigate", map[string]any{"url": url}, nil)
	return p
}

func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	return r, w
}

// close ends the browser with all of its processes.
func (b *browser) close(t *testing.T, c *exec.Cmd, from *os.File, log *strings.Builder) {
	if err := b.send("", "Browser.close", nil, nil); err != nil {
		t.Errorf("the browser does not close: %v", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("the browser: %v\n%s", err, log)
		}
	case <-time.After(slow):
		_ = unix.Kill(-c.Process.Pid, unix.SIGKILL) // some may be gone
		<-ended
		t.Errorf("the browser has not ended\n%s", log)
	}
	b.to.Close()
	// Its helpers end by themselves; they write into its directory until then.
	for deadline := time.Now().Add(slow); !errors.Is(unix.Kill(-c.Process.Pid, 0), unix.ESRCH); {
		if time.Now().After(deadline) {
			t.Error("processes of the browser are left")
			_ = unix.Kill(-c.Process.Pid, unix.SIGKILL)
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	<-b.end
	from.Close()
}

// read takes what the browser says, until it ends.
func (b *browser) read(from *os.File) {
	defer close(b.end)
	r := bufio.NewReader(from)
	for {
		text, err := r.ReadBytes(0)
		if err != nil {
			return
		}
		var a answer
		if err := json.Unmarshal(text[:len(text)-1], &a); err != nil {
			continue
		}
		b.lock.Lock()
		switch {
		case a.ID != 0:
			b.answers[a.ID] <- a
			delete(b.answers, a.ID)
		case a.Method == "Runtime.exceptionThrown",
			a.Method == "Log.entryAdded" && strings.Contains(string(a.Params), `"level":"error"`),
			a.Method == "Runtime.consoleAPICalled" && strings.Contains(string(a.Params), `"type":"error"`):
			b.errors[a.Page] = append(b.errors[a.Page], string(a.Params))
		}
		b.lock.Unlock()
	}
}

func (b *browser) send(session, method string, params, result any) error {
	b.last++
	message := map[string]any{"id": b.last, "method": method}
	if params != nil {
		message["params"] = params
	}
	if session != "" {
		message["sessionId"] = session
	}
	text, err := json.Marshal(message)
	if err != nil {
		return err
	}
	got := make(chan answer, 1)
	b.lock.Lock()
	b.answers[b.last] = got
	b.lock.Unlock()
	if _, err := b.to.Write(append(text, 0)); err != nil {
		return err
	}
	select {
	case a := <-got:
		if a.Error != nil {
			return fmt.Errorf("%s: %s", method, a.Error.Message)
		}
		if result == nil {
			return nil
		}
		return json.Unmarshal(a.Result, result)
	case <-b.end:
		return fmt.Errorf("%s: the browser has ended", method)
	case <-time.After(slow):
		return fmt.Errorf("%s: no answer in %s", method, slow)
	}
}

func (p *page) ask(method string, params, result any) {
	p.t.Helper()
	if err := p.send(p.session, method, params, result); err != nil {
		p.t.Fatal(err)
	}
}

// resize gives the window another size.
func (p *page) resize(width, height int) {
	p.t.Helper()
	p.ask("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false}, nil)
}

// eval gives the value of an expression of JavaScript, or a promise's, as JSON has it.
func (p *page) eval(expression string, into any) {
	p.t.Helper()
	var r struct {
		Result struct {
			Value json.RawMessage
		}
		ExceptionDetails json.RawMessage
	}
	p.ask("Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true, "awaitPromise": true}, &r)
	if r.ExceptionDetails != nil {
		p.t.Fatalf("%s: %s", expression, r.ExceptionDetails)
	}
	if err := json.Unmarshal(r.Result.Value, into); err != nil {
		p.t.Fatalf("%s: %s: %v", expression, r.Result.Value, err)
	}
}

// wait waits until an expression is true. It polls: what a page draws tells nobody.
func (p *page) wait(expression string) {
	p.t.Helper()
	for deadline := time.Now().Add(slow); ; time.Sleep(20 * time.Millisecond) {
		var ok bool
		if p.eval("Boolean("+expression+")", &ok); ok {
			return
		}
		if time.Now().After(deadline) {
			var text string
			p.eval("document.body.innerText", &text)
			p.t.Fatalf("it never came to be that %s; the page has\n%s\nand the errors %q", expression, text, p.console())
		}
	}
}

// console gives the errors that there were.
func (p *page) console() []string {
	p.lock.Lock()
	defer p.lock.Unlock()
	return p.errors[p.session]
}

// picture writes what the window shows to a file, for someone to look at.
func (p *page) picture(file string) {
	p.t.Helper()
	var r struct{ Data string }
	p.ask("Page.captureScreenshot", map[string]any{"format": "png"}, &r)
	png, err := base64.StdEncoding.DecodeString(r.Data)
	if err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(file, png, 0o644); err != nil {
		p.t.Fatal(err)
	}
}
