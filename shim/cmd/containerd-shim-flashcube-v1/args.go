package main

import (
	"syscall"

	"github.com/peregrine-dev/peregrine/shim/claim"
)

// options is the command line of a shim binary, the same since containerd 1.2.
type options struct {
	namespace, address, publishBinary, id, bundle string
	debug, version, info                          bool

	action string
	flags  []string // the flags as they were given
}

// arguments returns the command line without the program's name. It is read from /proc
// because package os takes longer to start.
func arguments() ([]string, error) {
	fd, err := syscall.Open("/proc/self/cmdline", syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, &claim.Error{Op: "open", Path: "/proc/self/cmdline", Err: err}
	}
	defer syscall.Close(fd)
	text, err := readAll(fd)
	if err != nil {
		return nil, &claim.Error{Op: "read", Path: "/proc/self/cmdline", Err: err}
	}
	return split(text)[1:], nil
}

// split takes a command line apart, each word of which ends with a zero byte. The result
// has at least one word.
func split(text []byte) []string {
	var words []string
	begin := 0
	for i, c := range text {
		if c == 0 {
			words = append(words, string(text[begin:i]))
			begin = i + 1
		}
	}
	if len(words) == 0 {
		return []string{string(text)}
	}
	return words
}

// parse reads flags as package flag does: one hyphen or two, the value after an equal
// sign or as the next word, up to the first word that is no flag.
func parse(args []string) (*options, error) {
	o := &options{}
	texts := map[string]*string{
		"namespace": &o.namespace, "address": &o.address, "publish-binary": &o.publishBinary,
		"id": &o.id, "bundle": &o.bundle, "socket": new(string), "debug-socket": new(string),
	}
	switches := map[string]*bool{"debug": &o.debug, "v": &o.version, "version": &o.version, "info": &o.info}
	i := 0
	for ; i < len(args); i++ {
		word := args[i]
		if len(word) < 2 || word[0] != '-' {
			break
		}
		if word = word[1:]; word[0] == '-' {
			if word = word[1:]; word == "" {
				i++
				break
			}
		}
		key, value, given := cut(word)
		if on := switches[key]; on != nil {
			*on = !given || value == "true" || value == "1"
			continue
		}
		text := texts[key]
		if text == nil {
			return nil, claim.Text("unknown flag -" + key)
		}
		if !given {
			if i++; i == len(args) {
				return nil, claim.Text("flag -" + key + " needs a value")
			}
			value = args[i]
		}
		*text = value
	}
	o.flags = args[:i]
	if i < len(args) {
		o.action = args[i]
	}
	return o, nil
}

func cut(word string) (key, value string, found bool) {
	for i := range len(word) {
		if word[i] == '=' {
			return word[:i], word[i+1:], true
		}
	}
	return word, "", false
}
