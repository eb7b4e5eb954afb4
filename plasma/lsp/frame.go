package lsp

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

const (
	maxMessage = 4 << 20
	maxHeader  = 4 << 10 // all lines before a message
)

// readFrame gives the next message: lines of a header, of which Content-Length counts, an empty
// line, and so many bytes. It is io.EOF if the other side has ended between messages.
func readFrame(r *bufio.Reader) ([]byte, error) {
	length, seen := -1, 0
	for {
		line, err := readLine(r, maxHeader-seen)
		if err != nil {
			if errors.Is(err, io.EOF) && (seen > 0 || line != "") {
				return nil, io.ErrUnexpectedEOF
			}
			return nil, err
		}
		seen += len(line)
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			break
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			return nil, fmt.Errorf("a line of a message's header has no colon: %q", line)
		}
		if strings.EqualFold(name, "Content-Length") {
			length, err = strconv.Atoi(strings.TrimSpace(value))
			if err != nil || length < 0 || length > maxMessage {
				return nil, fmt.Errorf("a message's length is %q, want a number up to %d", strings.TrimSpace(value), maxMessage)
			}
		}
	}
	if length < 0 {
		return nil, errors.New("a message has no Content-Length")
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, fmt.Errorf("a message ends too early: %w", io.ErrUnexpectedEOF)
	}
	return body, nil
}

// readLine reads up to the end of a line, which may be so long.
func readLine(r *bufio.Reader, most int) (string, error) {
	var b strings.Builder
	for {
		c, err := r.ReadByte()
		if err != nil {
			return b.String(), err
		}
		b.WriteByte(c)
		if c == '\n' {
			return b.String(), nil
		}
		if b.Len() >= most {
			return "", fmt.Errorf("a message's header has more than %d bytes", maxHeader)
		}
	}
}

func writeFrame(w io.Writer, body []byte) error {
	frame := append(fmt.Appendf(nil, "Content-Length: %d\r\n\r\n", len(body)), body...)
	_, err := w.Write(frame)
	return err
}
