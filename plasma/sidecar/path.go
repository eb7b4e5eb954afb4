package sidecar

import (
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/peregrine-dev/peregrine/plasma/host"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// parsePath reads type, key and function of what follows "/v1/call/" and "/v1/send/" in an
// escaped path. Slashes in keys are escaped: %2F. Errors are ErrInvalidArgument.
func parsePath(escaped string) (to placement.Actor, function string, err error) {
	parts := strings.Split(escaped, "/")
	if len(parts) != 3 {
		return to, "", invalid("want TYPE/KEY/FUNCTION, found %d parts (a slash in a part is %%2F)", len(parts))
	}
	for i := range parts {
		if parts[i], err = url.PathUnescape(parts[i]); err != nil {
			return to, "", invalid("%v", err)
		}
	}
	if err := checkNames(parts...); err != nil {
		return to, "", err
	}
	return placement.Actor{Type: parts[0], Key: parts[1]}, parts[2], nil
}

func checkNames(names ...string) error {
	for _, n := range names {
		switch {
		case n == "":
			return invalid("a name is empty")
		case len(n) > host.MaxName:
			return invalid("a name has %d bytes, it may have %d", len(n), host.MaxName)
		case !utf8.ValidString(n):
			return invalid("%q isn't UTF-8", n)
		}
	}
	return nil
}
