package fastpath

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/peregrine-dev/peregrine/netplugin/bpf"
)

// TestMeanings has each counter explained, here and in the documentation.
func TestMeanings(t *testing.T) {
	docs, err := os.ReadFile("../../docs/network.md")
	if err != nil {
		t.Fatal(err)
	}
	for reason := bpf.FalconReasonREASON_NONE + 1; reason < bpf.FalconReasonREASONS; reason++ {
		name := names[reason]
		meaning := Meaning(name)
		if name == "" || meaning == "" {
			t.Errorf("reason %d has the name %q, and means %q", reason, name, meaning)
		}
		left := reason > bpf.FalconReasonREASON_LOCAL && reason < bpf.FalconReasonREASON_DEFERRED
		if row := fmt.Sprintf("\n| `%s` | ", name); left && !strings.Contains(string(docs), row) || !strings.Contains(string(docs), "`"+name+"`") {
			t.Errorf("%s is not documented", name)
		}
	}
	if len(meanings) != len(names) {
		t.Errorf("%d of %d names mean something", len(meanings), len(names))
	}
}
