package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/peregrine-dev/peregrine/plasma/status"
)

func TestStatus(t *testing.T) {
	f := plasmad(t)
	out, err := do(t, "status")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "status.txt", out)
	out, err = do(t, "status", "--json", "files")
	var now status.Cluster
	if err != nil || json.Unmarshal([]byte(out), &now) != nil || now.Services[0].Actors[0].ID != "Folder/home7" || !strings.Contains(f.last(), "files") {
		t.Errorf("%v, %s:\n%s", err, f.last(), out)
	}
	f.now = &status.Cluster{Version: status.Version, Cluster: "plasma", Nodes: []status.Node{{Name: "a", Up: true}}}
	if out, err = do(t, "status"); err != nil {
		t.Fatal(err)
	}
	golden(t, "status.empty.txt", out)
	f.now.Version = 99
	if _, err = do(t, "status"); !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), "version 99") {
		t.Errorf("another version: %v", err)
	}
}

func TestTop(t *testing.T) {
	f := plasmad(t)
	out, err := do(t, "top", "--once", "files")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "top.txt", out)
	go func() {
		later := cluster()
		later.Leader = "node-c"
		f.next <- later
		close(f.next)
	}()
	out, err = do(t, "top")
	if !errdefs.IsUnavailable(err) || strings.Count(out, "\nSERVER ") != 2 || !strings.Contains(out, "led by node-c") || strings.Contains(out, "\x1b") {
		t.Errorf("%v:\n%s", err, out)
	}
	// A user ends it.
	f.next = make(chan *status.Cluster)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	a := app()
	a.Writer = writer(func(p []byte) { cancel() })
	if err := a.RunContext(ctx, []string{"plasmactl", "top"}); err != nil {
		t.Errorf("interrupted: %v", err)
	}
}

type writer func([]byte)

func (w writer) Write(p []byte) (int, error) {
	w(p)
	return len(p), nil
}

// On a terminal what is drawn fits it, and the screen is given back.
func TestScreen(t *testing.T) {
	var b bytes.Buffer
	s := &screen{to: &b, size: func() (int, int, error) { return 40, 10, nil }}
	for range 2 {
		if err := s.draw(cluster()); err != nil {
			t.Fatal(err)
		}
	}
	s.close()
	out := b.String()
	if !strings.HasPrefix(out, enter+home) || !strings.HasSuffix(out, leave) || strings.Count(out, home) != 2 || strings.Count(out, enter) != 1 {
		t.Errorf("%q", out)
	}
	one := strings.Split(out, home)[1]
	if n := strings.Count(one, "\n"); n != 9 {
		t.Errorf("%d lines on a screen of 10", n)
	}
	for line := range strings.SplitSeq(one, "\r\n") {
		if n := len([]rune(strings.NewReplacer(toEnd, "", below, "").Replace(line))); n > 40 {
			t.Errorf("%d letters in a line of 40: %q", n, line)
		}
	}
	s = &screen{to: &b, size: func() (int, int, error) { return 0, 0, errors.New("gone") }}
	if err := s.draw(cluster()); err == nil {
		t.Error("a terminal without a size")
	}
}

func TestOrders(t *testing.T) {
	f := plasmad(t)
	for _, test := range []struct {
		args, want string
	}{
		{"move files Folder/a/b files-2", `UserMoveRequest {"service":"files","actor":{"type":"Folder","key":"a/b"},"to":"files-2"}`},
		{"drain files files-1", `DrainRequest {"service":"files","server":"files-1"}`},
		{"pause files", `PauseRequest {"service":"files","paused":true}`},
		{"resume files", `PauseRequest {"service":"files"}`},
		{"delete --yes files", `DeleteRequest {"service":"files"}`},
		{"delete -y --state files", `DeleteRequest {"service":"files","state":true}`},
	} {
		if out, err := do(t, strings.Fields(test.args)...); err != nil || f.last() != test.want {
			t.Errorf("%s: %v, asked for %s\n%s", test.args, err, f.last(), out)
		}
	}
	if out, err := do(t, "call", "files", "Folder/home", "open", `{"a":1}`); err != nil || out != "{\"n\":7}\n" || !strings.Contains(f.last(), `"key":"home"`) {
		t.Errorf("%v: %s, asked for %s", err, out, f.last())
	}
	if _, err := do(t, "call", "files", "Folder/home", "fail"); err == nil || err.Error() != "fail of Folder/home: the disk is \uFFFD[31mfull" {
		t.Errorf("an actor's error: %v", err)
	}
	if code, out, errs := policies(t, t.TempDir(), "any bytes", "call", "files", "Folder/home", "open", "-"); code != 0 || out != "{\"n\":9}\n" {
		t.Errorf("from standard input: %d %s %s", code, out, errs)
	}
}

func TestDeleteAsks(t *testing.T) {
	f := plasmad(t)
	for answer, code := range map[string]int{"": codeRefused, "n\n": codeRefused, "maybe": codeRefused, "y\n": 0, "YES": 0} {
		got, _, errs := policies(t, t.TempDir(), answer, "delete", "--state", "files")
		deleted := strings.HasPrefix(f.last(), "DeleteRequest")
		if got != code || deleted != (code == 0) || !strings.Contains(errs, "Delete files with 3 servers and 1280 actors? what its actors have stored is LOST. [y/N]") {
			t.Errorf("%q: %d, %s\n%s", answer, got, f.last(), errs)
		}
	}
	if _, err := do(t, "delete", "chat"); !errdefs.IsNotFound(err) {
		t.Errorf("a service that isn't there: %v", err)
	}
}

func TestLiveErrors(t *testing.T) {
	f := plasmad(t)
	for _, test := range []struct{ args, want string }{
		{"status chat", "there is no service chat: not found (`plasmactl status` shows what there is)"},
		{"status a b", "want [SERVICE]"},
		{"top a b", "want [SERVICE]"},
		{"pause", "want SERVICE"},
		{"drain files", "want SERVICE SERVER"},
		{"move files Folder files-2", `"Folder" is no actor: want TYPE/KEY`},
		{"move files /a files-2", `is no actor`},
		{"call files Folder/a", "want SERVICE TYPE/KEY FUNCTION [JSON]"},
		{"call files Folder/a open {", `is not JSON`},
		{"apply", "want SERVICE.toml"},
		{"apply none.toml", "no such file"},
		{"plan --live files a b", "want at most a policy"},
		{"plan --live chat", "there is no service chat"},
		{"vet --live chat", "there is no service chat"},
	} {
		if _, err := do(t, strings.Fields(test.args)...); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.args, err, test.want)
		}
	}
	for _, test := range []struct {
		fail error
		want string
	}{
		{fmt.Errorf("node-b leads and does not answer: %w", errdefs.ErrUnavailable), "try again in a few seconds"},
		{errdefs.ErrNotImplemented, "older than plasmactl"},
		{errdefs.ErrPermissionDenied, "ask as root"},
		{fmt.Errorf("files-9 is up: %w", errdefs.ErrFailedPrecondition), "files-9 is up"},
	} {
		f.fail = test.fail
		for _, command := range []string{"status", "top", "drain files files-1"} {
			if _, err := do(t, strings.Fields(command)...); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%s: %v, want %q", command, err, test.want)
			}
		}
	}
}

func TestNobodyListens(t *testing.T) {
	dir := t.TempDir()
	for _, socket := range []string{filepath.Join(dir, "none"), writePolicy(t, "")} {
		_, err := do(t, "status", "--socket", socket)
		if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "no plasmad listens on "+socket+": start it") {
			t.Errorf("%v", err)
		}
	}
}
