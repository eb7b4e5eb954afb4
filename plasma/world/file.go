package world

// file is a world as it is written in TOML.
type file struct {
	Name     string `toml:"name"`
	Seed     uint64 `toml:"seed,omitempty"`
	Duration span   `toml:"duration"`
	Warmup   span   `toml:"warmup,omitempty"`
	Period   span   `toml:"period"`
	Servers  int    `toml:"servers"`
	Peak     int    `toml:"peak,omitempty"`
	Mean     int    `toml:"mean,omitempty"`

	Server      serverPart          `toml:"server"`
	Costs       costsPart           `toml:"costs,omitempty"`
	Nodes       []nodePart          `toml:"node"`
	Types       map[string]typePart `toml:"type"`
	Actors      []actorPart         `toml:"actor,omitempty"`
	Populations []populationPart    `toml:"population,omitempty"`
	Streams     []streamPart        `toml:"stream,omitempty"`
	Events      []eventPart         `toml:"event,omitempty"`
}

type serverPart struct {
	Cores   float64 `toml:"cores"`
	Max     float64 `toml:"max,omitempty"`
	Memory  size    `toml:"memory"`
	Network size    `toml:"network"`
}

type nodePart struct {
	ID      string  `toml:"id"`
	Zone    string  `toml:"zone,omitempty"`
	Cores   float64 `toml:"cores"`
	Memory  size    `toml:"memory"`
	Network size    `toml:"network"`
}

type costsPart struct {
	LocalCall  span `toml:"local_call,omitempty"`
	NodeCall   span `toml:"node_call,omitempty"`
	RemoteCall span `toml:"remote_call,omitempty"`
	ZoneCall   span `toml:"zone_call,omitempty"`
	Serialize  span `toml:"serialize,omitempty"`
	MovePause  span `toml:"move_pause,omitempty"`
	MovePerMiB span `toml:"move_per_mib,omitempty"`
	MoveCPU    span `toml:"move_cpu,omitempty"`
	Start      span `toml:"start,omitempty"`
	Stop       span `toml:"stop,omitempty"`
	Resize     span `toml:"resize,omitempty"`
}

type typePart struct {
	Functions map[string]functionPart `toml:"function,omitempty"`
}

type functionPart struct {
	Service span       `toml:"service,omitempty"`
	Shape   string     `toml:"shape,omitempty"`
	Sigma   float64    `toml:"sigma,omitempty"`
	Bytes   size       `toml:"bytes,omitempty"`
	Calls   []callPart `toml:"call,omitempty"`
}

type callPart struct {
	Property    string  `toml:"property"`
	Function    string  `toml:"function"`
	All         bool    `toml:"all,omitempty"`
	Probability float64 `toml:"probability,omitempty"`
	Wait        bool    `toml:"wait,omitempty"`
}

type actorPart struct {
	ID     string              `toml:"id"`
	Type   string              `toml:"type"`
	Server *int                `toml:"server,omitempty"` // nil: the least used
	State  size                `toml:"state,omitempty"`
	Memory size                `toml:"memory,omitempty"`
	Scale  float64             `toml:"scale,omitempty"`
	Refs   map[string][]string `toml:"refs,omitempty,inline"`
	Fixed  bool                `toml:"fixed,omitempty"`
}

// populationPart stands for Count actors: ID "p" makes p0, p1 and so on.
type populationPart struct {
	ID     string    `toml:"id"`
	Type   string    `toml:"type"`
	Count  int       `toml:"count"`
	State  size      `toml:"state"`
	Memory size      `toml:"memory"`
	Scale  float64   `toml:"scale"`
	Fixed  bool      `toml:"fixed"`
	Refs   []refRule `toml:"refs"`
}

// refRule gives each actor of a population Count references to actors of a type: in turn, so
// that all are referred to alike, or drawn.
type refRule struct {
	Property string `toml:"property"`
	To       string `toml:"to"`
	Count    int    `toml:"count"`
	Pick     string `toml:"pick"` // "turn" (if it is ""), or "random"
}

type streamPart struct {
	Type     string       `toml:"type"`
	Function string       `toml:"function"`
	Rate     *points      `toml:"rate,omitempty"`
	Zipf     *float64     `toml:"zipf,omitempty"`  // weights of all actors of the type, in order
	Trace    string       `toml:"trace,omitempty"` // a file's name
	Arrivals string       `toml:"arrivals,omitempty,multiline"`
	Targets  []targetPart `toml:"target,omitempty"`
}

type targetPart struct {
	ID     string  `toml:"id"`
	Weight *points `toml:"weight"`
}

type eventPart struct {
	At      span       `toml:"at"`
	Born    *actorPart `toml:"born,omitempty"`
	Dies    string     `toml:"dies,omitempty"`
	Fails   string     `toml:"fails,omitempty"`
	Recover span       `toml:"recover,omitempty"`
	Refs    *refsPart  `toml:"refs,omitempty"`
}

type refsPart struct {
	ID   string              `toml:"id"`
	Refs map[string][]string `toml:"to,inline"`
}
