package claim

import (
	"strconv"
	"unicode/utf8"
)

// Request is what a part is told of the container it is claimed for. It is in
// claim.json in the part's directory.
type Request struct {
	ID            string `json:"id"`             // of the container
	Namespace     string `json:"namespace"`      // containerd's
	Bundle        string `json:"bundle"`         // absolute path of the bundle
	TTRPCAddress  string `json:"ttrpc_address"`  // where containerd takes events, a path
	GRPCAddress   string `json:"grpc_address"`   // containerd's API, a path
	PublishBinary string `json:"publish_binary"` // containerd's executable, publishes events
	Parent        int    `json:"parent"`         // containerd's process
	Debug         bool   `json:"debug"`          // containerd logs at level debug or trace
}

// appendJSON appends what encoding/json makes of r, or an equal text: that package is
// too large to be loaded twice per container.
func (r *Request) appendJSON(b []byte) []byte {
	b = append(b, '{')
	for _, f := range [...]struct{ key, value string }{
		{"id", r.ID},
		{"namespace", r.Namespace},
		{"bundle", r.Bundle},
		{"ttrpc_address", r.TTRPCAddress},
		{"grpc_address", r.GRPCAddress},
		{"publish_binary", r.PublishBinary},
	} {
		b = appendString(b, f.key)
		b = append(b, ':')
		b = appendString(b, f.value)
		b = append(b, ',')
	}
	b = append(append(b, `"parent":`...), strconv.Itoa(r.Parent)...)
	b = append(b, ',')
	if r.Debug {
		return append(b, `"debug":true}`...)
	}
	return append(b, `"debug":false}`...)
}

// appendString appends s as a JSON string, RFC 8259 section 7. What is no UTF-8 becomes
// U+FFFD, as with encoding/json.
func appendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			b = utf8.AppendRune(b, r)
			i += n
			continue
		}
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < 0x20:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		default:
			b = append(b, c)
		}
		i++
	}
	return append(b, '"')
}
