package parity

import (
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for _, test := range []struct {
		name, text, first string
		want              Facts
	}{
		{"nothing", "", "stdout", Facts{}},
		{"no sections", "a\nb\n", "raw", Facts{"raw": {"a", "b"}}},
		{"sections", "[a]\n1\n2\n[b]\n", "stdout", Facts{"a": {"1", "2"}, "b": {}}},
		{"text before", "x\n[a]\n1\n", "stdout", Facts{"stdout": {"x"}, "a": {"1"}}},
		{"twice", "[a]\n1\n[a]\n2\n", "stdout", Facts{"a": {"1"}, "a'": {"2"}}},
		{"of a terminal", "[a]\r\n1\r\n", "stdout", Facts{"a": {"1"}}},
		{"empty lines", "[a]\n\n1\n", "stdout", Facts{"a": {"", "1"}}},
	} {
		if got := Parse(test.text, test.first); !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
}

func TestNormalise(t *testing.T) {
	known := Known{
		ID: "case-x", Text: map[string]string{"/run/1/places/case-x": "PLACE"},
		Namespaces: map[string]string{"net:[1]": "host", "uts:[2]": "other"},
	}
	for _, test := range []struct{ section, line, want string }{
		{"ns", "net net:[1]", "net host"},
		{"ns", "uts uts:[2]", "uts other"},
		{"ns", "uts uts:[3]", "uts own"},
		{"ns'", "uts uts:[3]", "uts own"},
		{"ns", "time (ENOENT)", "time (ENOENT)"},
		{"fds", "1 pipe:[123] 1", "1 pipe 1"},
		{"fds", "3 /sys/fs/cgroup 2100002", "3 /sys/fs/cgroup 2"},
		{"fds", "0 /dev/null 100002", "0 /dev/null"},
		{"fds", "3 /a file", "3 /a file"},
		{"dev", "/dev/pts/3 20620 0:5 136:3", "/dev/pts/N 20620 0:5 136:3"},
		{"process", "ppid 123", "ppid N"},
		{"process", "ppid 0", "ppid 0"},
		{"process", "dumpable 123", "dumpable 123"},
		{"process", "keyring keyring;0;0;3f;_ses.case-x", "keyring keyring;0;0;3f;_ses.ID"},
		{"cgroup", "4:memory:/ns/case-x", "4:memory:/ns/ID"},
		{"anything", "at /run/1/places/case-x/out", "at PLACE/out"},
		{"status", "NSpid:\t1\t77", "NSpid: 1\tN"},
		{"status", "Uid:\t1000\t1000", "Uid: 1000\t1000"},
		{"hook first", "ns net net:[1]", "ns net host"},
		{"hook first", `state {"pid":42,"status":"created","ociVersion":"1.0.2","id":"case-x"}`, `state {"id":"ID","ociVersion":"V","pid":"N","status":"created"}`},
		{"hook first", "state nonsense", "state is not JSON: nonsense"},
	} {
		got := Normalise(Facts{test.section: {test.line}}, known)[test.section]
		if !slices.Equal(got, []string{test.want}) {
			t.Errorf("[%s] %q: got %q, want %q", test.section, test.line, got, test.want)
		}
	}
	if got := Normalise(Facts{"status": {"VmRSS: 12 kB", "SigIgn: 00"}}, known)["status"]; len(got) != 0 {
		t.Errorf("kept %q of the status", got)
	}
	if got := Normalise(Facts{"raw-status": {"SigIgn:\t00"}}, known)["raw-status"]; len(got) != 1 {
		t.Errorf("kept %q of the raw status", got)
	}
}

func TestMountinfo(t *testing.T) {
	one := []string{
		"100 90 0:44 / / rw,relatime master:7 - overlay overlay rw,lowerdir=/s/snapshots/12/fs",
		"101 100 0:45 / /proc rw - proc proc rw",
		"102 100 0:46 / /mnt rw shared:55 master:7 - tmpfs tmpfs rw",
		"103 102 0:47 /x /mnt ro - ext4 /dev/vda rw",
	}
	// Other numbers, and proc mounted last.
	two := []string{
		"200 190 0:54 / / rw,relatime master:1 - overlay overlay rw,lowerdir=/s/snapshots/99/fs",
		"202 200 0:56 / /mnt rw shared:9 master:1 - tmpfs tmpfs rw",
		"203 202 0:57 /x /mnt ro - ext4 /dev/vda rw",
		"201 200 0:55 / /proc rw - proc proc rw",
	}
	a := Normalise(Facts{"mountinfo": one}, Known{})
	b := Normalise(Facts{"mountinfo": two}, Known{})
	if differences := Compare(a, b); len(differences) > 0 {
		t.Errorf("equal tables differ: %v", differences)
	}
	// What lies on top is another.
	swapped := []string{
		two[0],
		"202 200 0:57 /x /mnt ro - ext4 /dev/vda rw",
		"203 202 0:56 / /mnt rw shared:9 master:1 - tmpfs tmpfs rw",
		two[3],
	}
	// The same stack, listed from its top.
	listed := []string{two[0], two[2], two[1], two[3]}
	if differences := Compare(a, Normalise(Facts{"mountinfo": listed}, Known{})); len(differences) > 0 {
		t.Errorf("the order of the list is compared: %v", differences)
	}
	if len(Compare(a, Normalise(Facts{"mountinfo": swapped}, Known{}))) == 0 {
		t.Error("mounts that cover one another in another order are not told apart")
	}
	for _, change := range [][2]string{{" ro ", " rw "}, {"shared:9 ", ""}, {"/x /mnt", "/y /mnt"}, {"proc proc rw", "proc proc rw,hidepid=2"}} {
		text := strings.Replace(strings.Join(two, "\n"), change[0], change[1], 1)
		other := Normalise(Facts{"mountinfo": strings.Split(text, "\n")}, Known{})
		if len(Compare(a, other)) == 0 {
			t.Errorf("the change of %q to %q goes unseen", change[0], change[1])
		}
	}
}

func TestSimplify(t *testing.T) {
	for _, pair := range [][2]string{
		{
			"1 0 0:4 / / rw - overlay overlay rw,lowerdir=/a:/b,upperdir=/c",
			"1 0 0:4 / / rw - overlay overlay rw,lowerdir+=/a,lowerdir+=/b,upperdir=/c,uuid=on",
		},
		{
			"1 0 0:4 /null /proc/keys rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755",
			"1 0 0:5 /null /proc/keys rw,nosuid,relatime - devtmpfs dev rw",
		},
	} {
		a, b := mountinfo(pair[:1]), mountinfo(pair[1:])
		if !slices.Equal(a, b) {
			t.Errorf("%q is not %q", a, b)
		}
	}
}

func FuzzNormalise(f *testing.F) {
	f.Add("[mountinfo]\n100 90 0:44 / / rw master:7 - overlay overlay rw\n[hook a]\nstate {}\n")
	f.Add("[status]\nNSpid:\t1\n[ns]\nnet net:[1]\n")
	f.Add("[")
	f.Fuzz(func(t *testing.T, text string) {
		known := Known{ID: "x"}
		a, b := Normalise(Parse(text, "stdout"), known), Normalise(Parse(text, "stdout"), known)
		if d := Compare(a, b); len(d) > 0 {
			t.Errorf("the same text differs from itself: %v", d)
		}
	})
}
