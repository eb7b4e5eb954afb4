package suite

import (
	"bytes"
	"maps"
	"os"
	"slices"
	"testing"
)

func TestParser(t *testing.T) {
	for _, test := range []struct {
		name, output string
		died         bool
		want         map[string]Result
	}{
		{"pass", "\x16=== RUN   TestA\n\x16--- PASS: TestA (0.00s)\nPASS\n", false, map[string]Result{"TestA": {Pass, ""}}},
		{
			"skip and fail", "\x16=== RUN   TestA\n    a_test.go:1: no\n\x16--- SKIP: TestA (0.00s)\n" +
				"\x16=== RUN   TestB\n    b_test.go:2: wrong\n\x16--- FAIL: TestB (1.00s)\n",
			false,
			map[string]Result{"TestA": {Skip, "a_test.go:1: no"}, "TestB": {Fail, "b_test.go:2: wrong"}},
		},
		{"parts of tests", "\x16=== RUN   TestA\n\x16=== RUN   TestA/x\n\x16--- FAIL: TestA/x (0.0s)\n\x16--- PASS: TestA (0.0s)\n", false, map[string]Result{"TestA": {Pass, ""}}},
		{"output that looks like it", "\x16=== RUN   TestA\n--- PASS: TestB (0.0s)\n\x16--- PASS: TestA (0.0s)\n", false, map[string]Result{"TestA": {Pass, ""}}},
		{"after output without an end", "\x16=== RUN   TestA\nsome text\x16--- PASS: TestA (0.0s)\n", false, map[string]Result{"TestA": {Pass, ""}}},
		{
			"death", "\x16=== RUN   TestA\n\x16--- PASS: TestA (0.0s)\n\x16=== RUN   TestB\npanic: x\n", true,
			map[string]Result{"TestA": {Pass, ""}, "TestB": {Fail, "the test binary died"}},
		},
		{
			"death among parallel tests", "\x16=== RUN   TestA\n\x16=== PAUSE TestA\n\x16=== RUN   TestB\n\x16=== CONT  TestA\npanic: x\n", true,
			map[string]Result{"TestA": {Fail, "the test binary died"}},
		},
	} {
		// However the output is cut into writes.
		for step := 1; step < len(test.output)+1; step += 3 {
			p := &parser{results: map[string]Result{}}
			for chunk := range slices.Chunk([]byte(test.output), step) {
				if _, err := p.Write(chunk); err != nil {
					t.Fatal(err)
				}
			}
			p.end(test.died)
			if !maps.Equal(p.results, test.want) {
				t.Fatalf("%s, in pieces of %d: got %v, want %v", test.name, step, p.results, test.want)
			}
		}
	}
}

func TestList(t *testing.T) {
	text := []byte("# comment\n\nTestA pass\nTestB   skip no criu\n")
	list, err := ParseList(text)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]Result{"TestA": {Pass, ""}, "TestB": {Skip, "no criu"}}
	if !maps.Equal(list, want) {
		t.Errorf("got %v, want %v", list, want)
	}
	var out bytes.Buffer
	now := map[string]Result{"TestA": {Fail, "why"}, "TestB": {Skip, "the machine's words"}}
	if err := WriteList(&out, now, list); err != nil {
		t.Fatal(err)
	}
	again, err := ParseList(out.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if want := (map[string]Result{"TestA": {Fail, "why"}, "TestB": {Skip, "no criu"}}); !maps.Equal(again, want) {
		t.Errorf("got %v, want %v", again, want)
	}
	for _, bad := range []string{"TestA", "TestA maybe", "TestA pass\nTestA pass", "TestA skip"} {
		if _, err := ParseList([]byte(bad)); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

// TestCommittedList: what is left out has a reason, and it is not much.
func TestCommittedList(t *testing.T) {
	text, err := os.ReadFile("tests.txt")
	if err != nil {
		t.Fatal(err)
	}
	list, err := ParseList(text)
	if err != nil {
		t.Fatal(err)
	}
	passes := 0
	for _, r := range list {
		if r.Outcome == Pass {
			passes++
		}
	}
	if passes < 98 {
		t.Errorf("only %d of %d tests pass with runc", passes, len(list))
	}
}

func TestWorse(t *testing.T) {
	want := map[string]Result{"TestA": {Pass, ""}, "TestB": {Pass, ""}, "TestC": {Skip, "x"}, "TestD": {Pass, ""}}
	got := map[string]Result{"TestA": {Pass, ""}, "TestB": {Fail, "y"}, "TestE": {Fail, ""}}
	worse := Worse(want, got)
	if !slices.Equal(worse, []string{"TestB: fail: y", "TestD: fail: was not run"}) {
		t.Errorf("got %q", worse)
	}
}

func FuzzParser(f *testing.F) {
	f.Add([]byte("\x16=== RUN   TestA\n\x16--- FAIL: TestA (0.0s)\n"), true)
	f.Add([]byte("\x16---"), false)
	f.Fuzz(func(_ *testing.T, output []byte, died bool) {
		p := &parser{results: map[string]Result{}}
		_, _ = p.Write(output)
		p.end(died)
	})
}

func FuzzParseList(f *testing.F) {
	f.Add([]byte("TestA pass\nTestB skip no criu\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		list, err := ParseList(text)
		if err != nil {
			return
		}
		var out bytes.Buffer
		if err := WriteList(&out, list, nil); err != nil {
			t.Fatal(err)
		}
		again, err := ParseList(out.Bytes())
		if err != nil || !maps.Equal(list, again) {
			t.Fatalf("%v became %v (%v)", list, again, err)
		}
	})
}

func TestChange(t *testing.T) {
	for before, after := range map[string]string{
		`Pause: "registry.k8s.io/pause:3.10.2",`: `Pause: peregrineRegistry + "/pause:3.10.2",`,
		`"ghcr.io/containerd/busybox@sha256:7b3ccabffc97de872a30dfd234fd972a66d247c8cfc69b0550f276481852627c"`: `peregrineRegistry + "/containerd/busybox@" + peregrineDigest`,
		`"docker.io/lib/img:ok"`: `"docker.io/lib/img:ok"`,
	} {
		if got := change(before); got != after {
			t.Errorf("%s: got %s, want %s", before, got, after)
		}
	}
}
