// Package lsp serves editors of policies by the Language Server Protocol: it shows mistakes and
// findings, completes and explains words, and formats.
package lsp

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/peregrine-dev/peregrine/internal/version"
	"github.com/peregrine-dev/peregrine/plasma/epl"
)

// maxDocuments is how many may be open at once.
const maxDocuments = 256

// Serve answers an editor's messages until it says exit, or ends. It is an error if it says
// exit without having said shutdown, or what can't be understood as messages at all.
func Serve(in io.Reader, out io.Writer, mode epl.Mode) error {
	s := &server{out: out, mode: mode, documents: map[string]*document{}, manifests: map[string]string{}}
	r := bufio.NewReader(in)
	for {
		body, err := readFrame(r)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("the editor's messages can't be understood: %w", err)
		}
		done, err := s.handle(body)
		if done || err != nil {
			return err
		}
	}
}

type server struct {
	out         io.Writer
	mode        epl.Mode
	initialized bool
	stopping    bool
	documents   map[string]*document // by URI
	manifests   map[string]string    // that were told of, by the document's URI
}

// request is a request, or a notification if it has no ID.
type request struct {
	ID     *json.RawMessage `json:"id"`
	Method string           `json:"method"`
	Params json.RawMessage  `json:"params"`
}

type response struct {
	Version string           `json:"jsonrpc"`
	ID      *json.RawMessage `json:"id"`
	Result  any              `json:"result"`
}

type failure struct {
	Version string           `json:"jsonrpc"`
	ID      *json.RawMessage `json:"id"`
	Error   *problem         `json:"error"`
}

type notification struct {
	Version string `json:"jsonrpc"`
	Method  string `json:"method"`
	Params  any    `json:"params"`
}

// problem is an error as the protocol has it.
type problem struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

func (p *problem) Error() string { return p.Message }

// Codes of problems.
const (
	parseError     = -32700
	invalidRequest = -32600
	noMethod       = -32601
	invalidParams  = -32602
	notInitialized = -32002
)

// handle answers one message. Errors are of the connection only.
func (s *server) handle(body []byte) (done bool, err error) {
	var m request
	if err := json.Unmarshal(body, &m); err != nil {
		return false, s.send(failure{"2.0", nil, &problem{parseError, "no JSON-RPC message: " + err.Error()}})
	}
	if m.Method == "exit" {
		if !s.stopping {
			return true, errors.New("the editor has said exit without shutdown")
		}
		return true, nil
	}
	if m.Method == "" {
		return false, nil // an answer: nothing was asked
	}
	result, err := s.call(m)
	var p *problem
	switch {
	case err != nil && !errors.As(err, &p):
		return false, err
	case m.ID == nil:
		return false, nil // notifications aren't answered
	case p != nil:
		return false, s.send(failure{"2.0", m.ID, p})
	}
	return false, s.send(response{"2.0", m.ID, result})
}

func (s *server) call(m request) (any, error) {
	switch {
	case m.Method == "initialize":
		s.initialized = true
		return abilities(), nil
	case !s.initialized:
		return nil, &problem{notInitialized, "say initialize first"}
	case s.stopping:
		return nil, &problem{invalidRequest, "shutdown was said: only exit may follow"}
	}
	switch m.Method {
	case "shutdown":
		s.stopping = true
		return nil, nil
	case "textDocument/didOpen":
		return nil, with(m, s.open)
	case "textDocument/didChange":
		return nil, with(m, s.change)
	case "textDocument/didSave":
		return nil, with(m, s.save)
	case "textDocument/didClose":
		return nil, with(m, s.close)
	case "textDocument/completion":
		return answer(m, s.complete)
	case "textDocument/hover":
		return answer(m, s.hover)
	case "textDocument/formatting":
		return answer(m, s.format)
	case "initialized", "$/cancelRequest", "$/setTrace", "workspace/didChangeConfiguration", "workspace/didChangeWatchedFiles":
		return nil, nil
	}
	return nil, &problem{noMethod, fmt.Sprintf("there is no method %q", m.Method)}
}

// with gives a notification's parameters to what it does.
func with[P any](m request, do func(P) error) error {
	var p P
	if err := json.Unmarshal(m.Params, &p); err != nil {
		return &problem{invalidParams, err.Error()}
	}
	return do(p)
}

// answer gives a request's parameters to what answers it.
func answer[P, R any](m request, do func(P) (R, error)) (any, error) {
	var p P
	if err := json.Unmarshal(m.Params, &p); err != nil {
		return nil, &problem{invalidParams, err.Error()}
	}
	return do(p)
}

func abilities() any {
	return map[string]any{
		"serverInfo": map[string]any{"name": "plasmactl", "version": version.Version},
		"capabilities": map[string]any{
			"textDocumentSync":           map[string]any{"openClose": true, "change": 1, "save": true},
			"completionProvider":         map[string]any{"triggerCharacters": []string{".", "(", "{", `"`}},
			"hoverProvider":              true,
			"documentFormattingProvider": true,
		},
	}
}

func (s *server) send(v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return writeFrame(s.out, body)
}

func (s *server) notify(method string, params any) error {
	return s.send(notification{"2.0", method, params})
}

// say shows a line in the editor's log. Level 1 is an error, 2 a warning, 3 information.
func (s *server) say(level int, format string, args ...any) error {
	return s.notify("window/logMessage", map[string]any{"type": level, "message": fmt.Sprintf(format, args...)})
}
