package pipeline

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// maxCPUs bounds what is taken for a CPU's number: the largest NR_CPUS of any architecture.
const maxCPUs = 8192

// ParseList reads the kernel's lists of CPUs, such as "0-3,8\n": ascending, each once. An
// empty list is nil. errdefs.ErrInvalidArgument: it is none.
func ParseList(text string) ([]int, error) {
	text = strings.TrimSpace(text)
	if text == "" || text == "(null)" { // what nohz_full has where none is set
		return nil, nil
	}
	var seen [maxCPUs]bool
	for part := range strings.SplitSeq(text, ",") {
		from, to, isRange := strings.Cut(part, "-")
		first, err := cpu(from)
		last := first
		if err == nil && isRange {
			last, err = cpu(to)
		}
		if err != nil || last < first {
			return nil, fmt.Errorf("%q is no list of CPUs, such as 0-3,8: %w", text, errdefs.ErrInvalidArgument)
		}
		for c := first; c <= last; c++ {
			seen[c] = true
		}
	}
	var cpus []int
	for c, is := range seen {
		if is {
			cpus = append(cpus, c)
		}
	}
	return cpus, nil
}

func cpu(text string) (int, error) {
	c, err := strconv.ParseUint(text, 10, 16)
	if err == nil && c >= maxCPUs {
		err = strconv.ErrRange
	}
	return int(c), err
}

// FormatList is the reverse of [ParseList], as short as the kernel has it.
func FormatList(cpus []int) string {
	cpus = distinct(cpus)
	var parts []string
	for i := 0; i < len(cpus); {
		j := i
		for j+1 < len(cpus) && cpus[j+1] == cpus[j]+1 {
			j++
		}
		part := strconv.Itoa(cpus[i])
		if j > i {
			part += "-" + strconv.Itoa(cpus[j])
		}
		parts = append(parts, part)
		i = j + 1
	}
	return strings.Join(parts, ",")
}

// maskWord is how many CPUs there are between two commas (lib/bitmap-str.c).
const maskWord = 32

// parseMask reads what the kernel shows of a set of CPUs, such as "00000001,0000000c".
func parseMask(text string) ([]int, error) {
	words := strings.Split(strings.TrimSpace(text), ",")
	slices.Reverse(words)
	var cpus []int
	for i, word := range words {
		bits, err := strconv.ParseUint(word, 16, maskWord)
		if err != nil || len(word) > maskWord/4 || i >= maxCPUs/maskWord {
			return nil, fmt.Errorf("%q is no mask of CPUs: %w", text, errdefs.ErrInvalidArgument)
		}
		for bit := range maskWord {
			if bits>>bit&1 == 1 {
				cpus = append(cpus, i*maskWord+bit)
			}
		}
	}
	return cpus, nil
}

func formatMask(cpus []int) string {
	words := []uint32{0}
	for _, c := range cpus {
		for c/maskWord >= len(words) {
			words = append(words, 0)
		}
		words[c/maskWord] |= 1 << (c % maskWord)
	}
	text := fmt.Sprintf("%x", words[len(words)-1])
	for i := len(words) - 2; i >= 0; i-- {
		text += fmt.Sprintf(",%08x", words[i])
	}
	return text
}

// distinct sorts a copy and leaves each CPU once.
func distinct(cpus []int) []int {
	return slices.Compact(slices.Sorted(slices.Values(cpus)))
}
