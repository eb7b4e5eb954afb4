package pipeline

import (
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestListsOfCPUs(t *testing.T) {
	for text, want := range map[string][]int{
		"":              nil,
		"\n":            nil,
		"(null)\n":      nil,
		"0\n":           {0},
		"0-3,8,10-11\n": {0, 1, 2, 3, 8, 10, 11},
		"5,1-2,1":       {1, 2, 5},
		"8191":          {8191},
	} {
		if got, err := ParseList(text); !slices.Equal(got, want) || err != nil {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{",", "1,", "3-1", "-1", "1-", "a", "0x1", "8192", "0-65535", "1 2", "+1", "0-3:1/2"} {
		if got, err := ParseList(text); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	if got := FormatList([]int{11, 3, 2, 1, 10, 0, 8, 8}); got != "0-3,8,10-11" {
		t.Error(got)
	}
}

func TestMasksOfCPUs(t *testing.T) {
	for text, want := range map[string][]int{
		"0\n":                          nil,
		"00000000,00000000\n":          nil,
		"3":                            {0, 1},
		"f0\n":                         {4, 5, 6, 7},
		"00000001,80000001\n":          {0, 31, 32},
		"1,00000000,00000000,00000002": {1, 96},
	} {
		if got, err := parseMask(text); !slices.Equal(got, want) || err != nil {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", ",", "g", "100000000", "000000001", "1,", "-1", strings.Repeat("0,", 256) + "0"} {
		if got, err := parseMask(text); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	if got := formatMask([]int{96, 1}); got != "1,00000000,00000000,00000002" {
		t.Error(got)
	}
	if got := formatMask(nil); got != "0" {
		t.Error(got)
	}
}

// What was read is written so that it reads the same, and is as the rest relies on.
func FuzzCPUs(f *testing.F) {
	for _, s := range []string{"", "0-3,8", "(null)", "1,2,3", "00000001,0000000c", "8191", "0-8191", "9-1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for name, c := range map[string]struct {
			parse  func(string) ([]int, error)
			format func([]int) string
		}{"list": {ParseList, FormatList}, "mask": {parseMask, formatMask}} {
			cpus, err := c.parse(text)
			if err != nil {
				continue
			}
			if !slices.Equal(cpus, distinct(cpus)) || len(cpus) > 0 && (cpus[0] < 0 || cpus[len(cpus)-1] >= maxCPUs) {
				t.Errorf("%s %q: %v", name, text, cpus)
			}
			if again, err := c.parse(c.format(cpus)); !slices.Equal(again, cpus) || err != nil {
				t.Errorf("%s %q: %v, written and read again %v, %v", name, text, cpus, again, err)
			}
		}
	})
}
