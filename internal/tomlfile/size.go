package tomlfile

import (
	"fmt"
	"strconv"

	"github.com/docker/go-units"
)

// Size is a number of bytes, written as such or with a unit.
type Size int64

// UnmarshalText reads "4096", "512MiB" or "8G"; units are powers of 1024.
func (s *Size) UnmarshalText(text []byte) error {
	n, err := strconv.ParseInt(string(text), 10, 64)
	if err != nil { // RAMInBytes reads everything, but large numbers not to the last digit
		n, err = units.RAMInBytes(string(text))
	}
	if err != nil || n < 0 {
		return fmt.Errorf("%q is no size, want bytes or a number with a unit such as 512MiB", text)
	}
	*s = Size(n)
	return nil
}

// MarshalText is the inverse of UnmarshalText.
func (s Size) MarshalText() ([]byte, error) {
	for _, u := range []struct {
		size Size
		name string
	}{{1 << 30, "GiB"}, {1 << 20, "MiB"}} {
		if s > 0 && s%u.size == 0 {
			return fmt.Appendf(nil, "%d%s", s/u.size, u.name), nil
		}
	}
	return fmt.Append(nil, int64(s)), nil
}
