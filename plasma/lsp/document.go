package lsp

import (
	"bytes"
	"errors"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/peregrine-dev/peregrine/plasma/epl"
	"github.com/peregrine-dev/peregrine/plasma/epl/vet"
	"github.com/peregrine-dev/peregrine/plasma/manifest"
)

// document is an open policy. After a mistake policy has the rules that have none.
type document struct {
	uri      string
	text     []byte
	policy   *epl.Policy
	errs     epl.Errors
	manifest *manifest.Manifest
}

// position is as the protocol has it: both count from 0, Character in units of UTF-16.
type position struct {
	Line      int `json:"line"`
	Character int `json:"character"`
}

type textRange struct {
	Start position `json:"start"`
	End   position `json:"end"`
}

type identifier struct {
	URI string `json:"uri"`
}

type openParams struct {
	TextDocument struct {
		URI  string `json:"uri"`
		Text string `json:"text"`
	} `json:"textDocument"`
}

type changeParams struct {
	TextDocument   identifier `json:"textDocument"`
	ContentChanges []struct {
		Text string `json:"text"`
	} `json:"contentChanges"`
}

type documentParams struct {
	TextDocument identifier `json:"textDocument"`
}

type positionParams struct {
	TextDocument identifier `json:"textDocument"`
	Position     position   `json:"position"`
}

func (s *server) open(p openParams) error {
	if len(s.documents) >= maxDocuments && s.documents[p.TextDocument.URI] == nil {
		return s.say(2, "%s isn't checked: %d documents are open", p.TextDocument.URI, maxDocuments)
	}
	return s.update(p.TextDocument.URI, p.TextDocument.Text)
}

func (s *server) change(p changeParams) error {
	if n := len(p.ContentChanges); n > 0 && s.documents[p.TextDocument.URI] != nil {
		return s.update(p.TextDocument.URI, p.ContentChanges[n-1].Text)
	}
	return nil
}

// save checks again: the manifest may be another.
func (s *server) save(p documentParams) error {
	if d := s.documents[p.TextDocument.URI]; d != nil {
		return s.update(d.uri, string(d.text))
	}
	return nil
}

func (s *server) close(p documentParams) error {
	if s.documents[p.TextDocument.URI] == nil {
		return nil
	}
	delete(s.documents, p.TextDocument.URI)
	delete(s.manifests, p.TextDocument.URI)
	return s.publish(p.TextDocument.URI, []diagnostic{})
}

// language is the paper's for documents that are called so.
func (s *server) language(uri string) epl.Mode {
	if strings.HasSuffix(uri, ".paper.epl") {
		return epl.Paper
	}
	return s.mode
}

// update parses a document's new text and shows what there is to say of it.
func (s *server) update(uri, text string) error {
	d := &document{uri: uri, text: []byte(text)}
	s.documents[uri] = d
	var err error
	d.policy, err = epl.Parse("", d.text, s.language(uri))
	errors.As(err, &d.errs)
	var found []diagnostic
	for _, e := range d.errs {
		found = append(found, diagnostic{Range: d.span(e.Span), Severity: 1, Code: "syntax", Source: source, Message: sentence(e.Message, e.Hint)})
	}
	file, m, err := schema(uri)
	if err != nil {
		found = append(found, diagnostic{Severity: 2, Code: "manifest", Source: source, Message: "names aren't checked: " + err.Error()})
	}
	if s.manifests[uri] != file {
		if s.manifests[uri] = file; file != "" {
			if err := s.say(3, "%s: names come from %s", uri, file); err != nil {
				return err
			}
		}
	}
	if d.manifest = m; d.errs == nil {
		for _, f := range vet.Check(d.policy, m) {
			found = append(found, d.diagnostic(f))
		}
	}
	return s.publish(uri, found)
}

const source = "plasma"

type diagnostic struct {
	Range    textRange     `json:"range"`
	Severity int           `json:"severity"`
	Code     string        `json:"code"`
	Source   string        `json:"source"`
	Message  string        `json:"message"`
	Related  []relatedInfo `json:"relatedInformation,omitempty"`
}

type relatedInfo struct {
	Location location `json:"location"`
	Message  string   `json:"message"`
}

type location struct {
	URI   string    `json:"uri"`
	Range textRange `json:"range"`
}

func (s *server) publish(uri string, found []diagnostic) error {
	if found == nil {
		found = []diagnostic{}
	}
	return s.notify("textDocument/publishDiagnostics", map[string]any{"uri": uri, "diagnostics": found})
}

func (d *document) diagnostic(f vet.Finding) diagnostic {
	out := diagnostic{
		Range: d.span(f.Span), Code: f.Code, Source: source, Message: sentence(f.Message, f.Hint),
		Severity: map[vet.Severity]int{vet.Error: 1, vet.Warning: 2, vet.Note: 3}[f.Severity],
	}
	for _, r := range f.Related {
		out.Related = append(out.Related, relatedInfo{location{d.uri, d.span(r.Span)}, r.Message})
	}
	return out
}

func sentence(message, hint string) string {
	if hint == "" {
		return message
	}
	return message + " (" + hint + ")"
}

func (d *document) span(s epl.Span) textRange {
	return textRange{d.position(s.Pos.Offset), d.position(s.End.Offset)}
}

// position gives the place of a byte of the text.
func (d *document) position(offset int) position {
	offset = min(max(offset, 0), len(d.text))
	begin := bytes.LastIndexByte(d.text[:offset], '\n') + 1
	p := position{Line: bytes.Count(d.text[:begin], []byte("\n"))}
	for _, r := range string(d.text[begin:offset]) {
		p.Character += utf16.RuneLen(r)
	}
	return p
}

// offset gives the byte at a place: the nearest there is.
func (d *document) offset(p position) int {
	at := 0
	for range p.Line {
		i := bytes.IndexByte(d.text[at:], '\n')
		if i < 0 {
			return len(d.text)
		}
		at += i + 1
	}
	for units := 0; units < p.Character && at < len(d.text) && d.text[at] != '\n'; {
		r, n := utf8.DecodeRune(d.text[at:])
		units += utf16.RuneLen(r)
		at += n
	}
	return at
}

type edit struct {
	Range textRange `json:"range"`
	Text  string    `json:"newText"`
}

// format gives the edit that formats a document; none if it has mistakes, or needs none.
func (s *server) format(p documentParams) ([]edit, error) {
	d := s.documents[p.TextDocument.URI]
	if d == nil || d.errs != nil {
		return []edit{}, nil
	}
	text, err := epl.Format("", d.text, s.language(d.uri))
	if err != nil || bytes.Equal(text, d.text) {
		return []edit{}, nil
	}
	return []edit{{textRange{End: d.position(len(d.text))}, string(text)}}, nil
}
