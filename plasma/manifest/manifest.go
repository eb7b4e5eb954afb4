// Package manifest reads what an application says of itself, so that a policy can be checked
// against it and an editor can complete it: its types of actors, their functions and the
// properties that hold references. It is TOML:
//
//	name = "metadata"
//
//	[type.Folder]
//	doc = "a directory"
//	functions = ["open", "list"]
//	properties = { files = "File" }     # a reference, or many: to actors of that type
//	metrics = ["entries"]
//	state = "4KiB"                      # of an actor, typically
//	durable = "each-turn"               # or periodic, none
//
//	[type.File]
//	functions = ["read", "write"]
//
//	[server]
//	metrics = ["http_inflight"]
//	memory = "2GiB"                     # of a container that hosts actors, for what fits it
package manifest

// Manifest is an application's schema.
type Manifest struct {
	Name   string          `toml:"name"`
	Types  map[string]Type `toml:"type"`
	Server Server          `toml:"server"`
}

// Type is a type of actors.
type Type struct {
	Doc        string            `toml:"doc"`
	Functions  []string          `toml:"functions"`
	Properties map[string]string `toml:"properties"` // the type that is referred to, by name
	Metrics    []string          `toml:"metrics"`
	State      string            `toml:"state"`
	Durable    string            `toml:"durable"`
}

// Server is what the application measures of the containers that host actors.
type Server struct {
	Metrics []string `toml:"metrics"`
	Memory  string   `toml:"memory"`
}
