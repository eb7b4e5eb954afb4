package sim

import (
	"math/rand/v2"

	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/world"
)

// status is what an actor is doing.
type status uint8

const (
	unborn  status = iota // not yet, or no more
	idle                  // waits for a message
	queued                // waits for a core
	running               // runs a turn, or sends what it called
	paused                // is on its way to another server
	down                  // its server has failed
)

// actor is an actor, or what the runtime does on a server: then its typ is none.
type actor struct {
	typ, server int32
	target      int32 // server it is to move to
	before      int32 // server it was on before
	head, tail  int32 // mailbox
	current     int32 // message of its turn
	length      int32 // of its mailbox
	place       int32 // in the list of its type's living
	status      status
	fixed       bool
	dying       bool   // once its turn has ended
	life        uint32 // changes when all that it was doing is void
	epoch       uint32 // changes with its server
	token       uint32 // changes with each turn it is queued for

	// A message that it sends arrives after out, one that is sent to it after in: so that none
	// overtakes one that took a longer way before a move.
	out, in int64

	since int64   // up to when its turn is accounted
	speed float64 // of its turn
	debt  float64 // processor's time to add to its next turn, in ns
	scale float64

	memory, state float64
	cpu, net      float64 // of this window: ns, bytes
	refs          []refs
	rng           rand.PCG
	left          []departure
}

// refs are an actor's references of one property.
type refs struct {
	property int32
	to       []int32
}

// departure is when an actor left a server, for the count of those that come back.
type departure struct {
	server int32
	window int
}

// server is a container that hosts actors.
type server struct {
	id       string
	node     int32
	state    model.State
	stopping bool // on its way out: no longer in snapshots
	gone     bool
	reserved bool
	runtime  int32 // the actor that stands for what the runtime does here
	limit    model.Resources
	pending  model.Resources // limit that it is getting
	slots    int
	busy     int
	speed    float64
	ready    ready
	actors   int   // that are here
	incoming int   // that are on their way here
	placed   int   // since the last window, by the runtime
	snap     int32 // its number in the last snapshot

	cpu, net float64 // of this window: ns, bytes
	started  int64   // it is paid for from then on
	since    int64   // its cores are counted up to then
	up       int64   // it serves from then on
	load     float64 // share of its cores in the last window
}

type node struct {
	world.Node
	down    bool
	servers int
	cores   float64 // that its servers may use together
}

// function is a function of a type, ready to run.
type function struct {
	name      string
	typ       int32
	mean      float64 // ns
	shape     shape
	mu, sigma float64
	calls     []call
	bytes     float64
}

type shape uint8

const (
	exponential shape = iota
	constant
	lognormal
)

type call struct {
	property, function int32
	all, wait          bool
	probability        float64
}

// actorType is a type of actors.
type actorType struct {
	name string
	// functions are indices into run.functions by the function's name, none if there is none.
	functions []int32
	live      []int32
}

// run is a simulation under way.
type run struct {
	world   *world.World
	options Options
	planner Planner
	dice    *dice

	now  int64
	heap heap

	names     []string // of actors
	ids       map[string]int32
	types     []actorType
	typeIDs   map[string]int32
	functions []function
	// functionNames are of all types, sorted: what functions are numbered by in calls.
	functionNames []string
	properties    []string
	actors        []actor // those of the world, then the runtime's
	servers       []server
	nodes         []node
	streams       []stream
	messages      messages
	frames        frames
	homeless      []int32 // actors that no server can take

	costs    costs
	farthest int64 // the longest time a message has taken

	memory  model.Memory
	window  window
	result  *Result
	onStart func(actor, from int32, sent int64) // for tests: a turn starts
}

type costs struct {
	local, node, remote, zone float64
	serialize                 float64
	move, moveMiB, moveCPU    float64
}
