// Package plan is what the shim tells the init of a cube to do. It holds data only: the
// shim decides, the init does. File descriptors travel beside a plan; the plan names
// them by their position there.
package plan

// None is a position of no file descriptor.
const None = -1

// Container makes a container of an init, which has a mount namespace of its own and is
// in the container's pid namespace.
type Container struct {
	ID string // names the session keyring

	// CgroupNamespace has the init make one, after it was put into its cgroup.
	CgroupNamespace bool `json:",omitempty"`

	Root            int // position of the detached mount that becomes the root
	RootReadonly    bool
	RootPropagation uintptr `json:",omitempty"` // MS_SHARED and the like, 0: none asked for

	Mounts   []Mount  `json:",omitempty"`
	Devices  []Device `json:",omitempty"` // made in /dev unless it is a bind mount
	SetupDev bool     // whether /dev is the container's to fill

	Hostname   string            `json:",omitempty"`
	Domainname string            `json:",omitempty"`
	Sysctl     map[string]string `json:",omitempty"`

	MaskedPaths   []string `json:",omitempty"`
	ReadonlyPaths []string `json:",omitempty"`

	NewKeyring bool
	Process    Process
}

// Join is a namespace for the init to enter with setns(2), instead of its own, before it
// has the plan. A mount namespace is a cube's.
type Join struct {
	FD   int // position
	Type int // CLONE_NEW*
}

// Mount is one mount, at Destination below the root of the container.
type Mount struct {
	Destination string
	// FD is the position of a detached mount, made ready by the shim, that is attached as
	// it is; with None the init mounts a filesystem by Type, Source, Flags and Data as
	// mount(2) has them.
	FD     int
	File   bool `json:",omitempty"` // what FD has is no directory
	Type   string
	Source string  `json:",omitempty"`
	Flags  uintptr `json:",omitempty"`
	Data   string  `json:",omitempty"`
	// Propagation is set one after the other, once it is mounted.
	Propagation []uintptr `json:",omitempty"`
	// Proc is whether FD is a procfs: only such a mount may cover /proc.
	Proc bool `json:",omitempty"`
	// Symlinks are made in what was mounted: name to target.
	Symlinks map[string]string `json:",omitempty"`
	// ReadonlyAfter makes it read-only when everything below it is in place.
	ReadonlyAfter bool `json:",omitempty"`
}

// Device is a node to make.
type Device struct {
	Path string
	Mode uint32 // type and permissions, as mknod(2) has them
	Rdev uint64
	UID  uint32
	GID  uint32
}

// Process is the program a container or an exec becomes.
type Process struct {
	Args []string
	Env  []string
	Cwd  string

	Stdio    [3]int // positions; None with a terminal
	Terminal bool   `json:",omitempty"`
	Width    uint16 `json:",omitempty"` // columns of the terminal, 0: leave it
	Height   uint16 `json:",omitempty"` // lines

	UID    uint32
	GID    uint32
	Groups []uint32 `json:",omitempty"`
	Umask  uint32

	Rlimits      []Rlimit `json:",omitempty"`
	Capabilities Capabilities
	OOMScoreAdj  *int `json:",omitempty"`

	NoNewPrivileges bool   `json:",omitempty"`
	AppArmor        string `json:",omitempty"` // profile to enter on execve
	Seccomp         []byte `json:",omitempty"` // struct sock_filter[], nil: no filter
	SeccompFlags    uint32 `json:",omitempty"`
}

// Capabilities are sets of capabilities, a bit each.
type Capabilities struct {
	Bounding, Effective, Permitted, Inheritable, Ambient uint64
}

// Rlimit is a resource limit; Type is RLIMIT_*.
type Rlimit struct {
	Type       int
	Soft, Hard uint64
}

// Exec runs a further process in a container.
type Exec struct {
	Init    int // position of a pidfd of the container's init
	Process Process
	// Keyring is the name of the container's session keyring, "" to keep the shim's.
	Keyring string `json:",omitempty"`
}

// Reply is what the init says after each step.
type Reply struct {
	// Error tells what failed, "" is success.
	Error string `json:",omitempty"`
	// Errno is the system call's, if it was one.
	Errno int `json:",omitempty"`
}
