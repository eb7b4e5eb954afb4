package claim

import "syscall"

// DefaultRoot is where parts are unless the environment has FLASHCUBE_ROOT.
const DefaultRoot = "/run/flashcube"

// Names in the protocol.
const (
	Building = "building" // parts in the making
	Ready    = "ready"    // parts to be claimed
	Claimed  = "claimed"  // parts of containers
	Retired  = "retired"  // parts taken out of the pool
	Stats    = "stats"    // counters

	Socket    = "shim.sock"  // a part's listener
	PidFile   = "pid"        // a part's processes
	ClaimFile = "claim.json" // who claimed a part
	LogFile   = "log"        // a built part's standard error

	ColdPrefix = "cold-" // begins the names of parts that were never in the pool

	Link      = "flashcube"      // in a bundle: points to the part
	StateFile = "flashcube.json" // in a bundle: the container's state, written by the shim

	// ShimBinary is the program that a part runs.
	ShimBinary = "flashcube-shim"
	// InitBinary is the program that a cube runs, installed beside it.
	InitBinary = "flashcube-init"
)

// maxSocketPath is what fits into sockaddr_un beside the closing zero, unix(7).
const maxSocketPath = 107

// Root returns the directory of all profiles: FLASHCUBE_ROOT or [DefaultRoot].
func Root() string {
	if root, ok := syscall.Getenv("FLASHCUBE_ROOT"); ok && root != "" {
		return root
	}
	return DefaultRoot
}

// Profile returns the directory of a profile. There is one, "default".
func Profile(root, name string) string { return root + "/" + name }

// Prepare makes the directories of a profile, of mode 0700. What is there already is
// kept. It is safe to call from many processes at once.
func Prepare(dir string) error {
	if err := mkdirAll(dir); err != nil {
		return err
	}
	for _, name := range []string{Building, Ready, Claimed, Retired, Stats} {
		if err := mkdir(dir + "/" + name); err != nil {
			return err
		}
	}
	return nil
}

func mkdirAll(path string) error {
	for i := 1; i < len(path); i++ {
		if path[i] == '/' && path[i-1] != '/' {
			if err := mkdir(path[:i]); err != nil {
				return err
			}
		}
	}
	return mkdir(path)
}

func mkdir(path string) error {
	if err := syscall.Mkdir(path, 0o700); err != nil && err != syscall.EEXIST {
		return failed("make the directory", path, err)
	}
	return nil
}
