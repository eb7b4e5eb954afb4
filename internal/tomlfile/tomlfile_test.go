package tomlfile

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"
)

type demo struct {
	Name string     `toml:"name"`
	Addr netip.Addr `toml:"addr"`
	Pool struct {
		Size  Size   `toml:"size"`
		Sizes []Size `toml:"sizes"`
	} `toml:"pool"`
	Lists []struct {
		Name string `toml:"name"`
		In   []struct {
			N int `toml:"n"`
		} `toml:"in"`
	} `toml:"list"`
}

func TestDecode(t *testing.T) {
	for text, want := range map[string]string{
		"":                               "",
		"[pool]\nsize = '1GiB'":          "",
		"[[list]]\nname = 'a'\n[[list]]": "",
		"nam = 1":                        `1:1: unknown key "nam", want one of name, addr, pool, list: `,
		"a.b = 1":                        `1:1: unknown key "a.b", want one of name, addr, pool, list: `,
		"pool.x = 1":                     `1:1: unknown key "pool.x", want one of size, sizes: `,
		"POOL.x = 1":                     `1:1: unknown key "POOL.x", want one of size, sizes: `,
		"[pool.x]\ny = 1":                `1:2: unknown key "pool.x", want one of size, sizes: `,
		"name = 'a'\npool = {x = 1}":     `2:9: unknown key "pool.x", want one of size, sizes: `,
		"[[list]]\nx = 1":                `2:1: unknown key "list.x", want one of name, in: `,
		"list = [{}, {in = [{m = 1}]}]":  `1:21: unknown key "list.in.m", want one of n: `,
		"[[list]]\n[[list.in]]\nm = 1":   `3:1: unknown key "list.in.m", want one of n: `,
		"[[list]]\n[list.name]\nm = 1":   `2:2: `, // a string is no table, the decoder says
		"name = 3":                       `1:8: cannot decode TOML integer into struct field tomlfile.demo.Name of type string: `,
		"addr = 'x'":                     `1:8: ParseAddr("x"): unable to parse IP: `,
		// Values that are no strings, and that others may have, too.
		"name = 'true'\naddr = true":            `2:1: ParseAddr("true"): unable to parse IP: `,
		"[pool]\nsizes = [1, true]":             `2:1: "true" is no size`,
		"addr = '::1'\npool = {size = 1.5e400}": `2:`,
		"name =":                                `1:6: `,
	} {
		var d demo
		err := Decode([]byte(text), &d)
		switch {
		case want == "" && err != nil:
			t.Errorf("%q: %v", text, err)
		case want != "" && (!errdefs.IsInvalidArgument(err) || !strings.HasPrefix(err.Error(), want)):
			t.Errorf("%q: %v, want ErrInvalidArgument that begins %s", text, err, want)
		}
	}
}

func TestPosition(t *testing.T) {
	text := strings.Join([]string{
		"name = 'a'",                          // 1
		"[[list]]",                            // 2
		"  name = 'b'",                        // 3
		"  [[list.in]]",                       // 4
		"  n = 1",                             // 5
		"  [[list.in]]",                       // 6
		"  n = 2",                             // 7
		"[[list]]",                            // 8
		"Name = 'c'",                          // 9
		"in = [{n = 3},",                      // 10
		" {n = 4}, {}]",                       // 11
		"[pool]",                              // 12
		"sizes = [1, 2]",                      // 13
		"deep.er = {x = {y = [{}, {z = 1}]}}", // 14
	}, "\n")
	for key, want := range map[string]string{
		"name":                        "1:1",
		"list[0].name":                "3:3",
		"list[0].in[0].n":             "5:3",
		"list[0].in[1].n":             "7:3",
		"list[0].in[1]":               "6:5",
		"list[1]":                     "8:3",
		"list[1].name":                "9:1",
		"list[1].in[0].n":             "10:8",
		"list[1].in[1].n":             "11:3",
		"list[1].in[2].n":             "10:1", // is not set; its list is
		"list[1].other":               "8:3",
		"list[2].name":                "1:1",
		"pool":                        "12:2",
		"pool.sizes":                  "13:1",
		"pool.size":                   "12:2",
		"pool.deep.er.x.y[1].z":       "14:27",
		"addr":                        "1:1",
		"":                            "1:1",
		"list[0].in[1].n.and.further": "7:3",
	} {
		row, col := Position([]byte(text), key)
		if got := fmt.Sprintf("%d:%d", row, col); got != want {
			t.Errorf("%s is at %s, want %s", key, got, want)
		}
	}
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f.toml")
	none := func([]byte) error { return errors.New("called") }
	if err := Load(path, false, none); err != nil {
		t.Errorf("a file that need not exist: %v", err)
	}
	if err := Load(path, true, none); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that must exist: %v", err)
	}
	if err := os.WriteFile(path, []byte("x = 1"), 0o600); err != nil {
		t.Fatal(err)
	}
	var got string
	if err := Load(path, true, func(text []byte) error { got = string(text); return nil }); err != nil || got != "x = 1" {
		t.Errorf("read %q, %v", got, err)
	}
	bad := errors.New("1:1: bad")
	if err := Load(path, false, func([]byte) error { return bad }); !errors.Is(err, bad) || err.Error() != path+":1:1: bad" {
		t.Errorf("got %v", err)
	}
}

func TestSize(t *testing.T) {
	for text, want := range map[string]Size{
		"0": 0, "4096": 4096, "512MiB": 512 << 20, "2g": 2 << 30, "1.5GiB": 3 << 29, "9223372036854775807": 1<<63 - 1,
	} {
		var s Size
		if err := s.UnmarshalText([]byte(text)); err != nil || s != want {
			t.Errorf("%s is %d, %v", text, s, err)
		}
	}
	for _, text := range []string{"", "-1", "-5GiB", "lots", "12XB", "99999999999GiB"} {
		var s Size
		if err := s.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is %d", text, s)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		"", "name = 'a'", "[[list]]\n[[list.in]]\nn = 1", "list = [{in = [{n = 1, x = 2}]}]", "pool = {size = true}",
		"a.b.c = [1, {d = 2}]", "[list]\nname = 1", "addr = 1979-05-27", "pool.sizes = [[1], ['x']]", "\"\" = 1",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var d demo
		if err := Decode([]byte(text), &d); err != nil {
			var row, col int
			if n, _ := fmt.Sscanf(err.Error(), "%d:%d: ", &row, &col); n != 2 || row < 1 || col < 1 || !errdefs.IsInvalidArgument(err) {
				t.Errorf("%q has no position or class", err)
			}
			return
		}
		for _, pl := range places([]byte(text)) {
			if row, col := Position([]byte(text), pl.key); row < 1 || col < 1 {
				t.Errorf("%s is at %d:%d", pl.key, row, col)
			}
		}
		written, err := toml.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		if err := Decode(written, &demo{}); err != nil {
			t.Errorf("%v in\n%s", err, written)
		}
	})
}
