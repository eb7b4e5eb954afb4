package host

import (
	"cmp"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
)

// Options is what a host is started with.
type Options struct {
	Types []Type
	// Agent is the socket of the node's plasmad for this server.
	Agent string
	// Control is the socket that the host makes for it.
	Control string
	// Peers is the directory that the service's containers of the node share.
	Peers string
	// State is the directory of the stored actors. It is needed if a type is durable.
	State string
	// Address is the IP address by which other nodes reach the host; empty is none.
	Address string
	// Listen is where they do; ":0" if it is empty.
	Listen string
	Limits Limits
}

// Limits bounds a host. The zero value of a limit is its default.
type Limits struct {
	// Mailbox is how many messages may wait for one actor: 1024.
	Mailbox int
	// Actors is how many durable actors are kept in memory when they have nothing to do: 16,384.
	// Eight times as many, busy or not durable, are refused.
	Actors int
}

func (l Limits) withDefaults() Limits {
	l.Mailbox = cmp.Or(l.Mailbox, 1024)
	l.Actors = cmp.Or(l.Actors, 16384)
	return l
}

// FromEnv gives the options that a server's container has in its environment: PLASMA_AGENT,
// PLASMA_CONTROL, PLASMA_PEERS, PLASMA_STATE, PLASMA_ADDRESS and PLASMA_LISTEN.
func FromEnv() Options {
	return Options{
		Agent:   cmp.Or(os.Getenv("PLASMA_AGENT"), "/run/plasma/agent.sock"),
		Control: cmp.Or(os.Getenv("PLASMA_CONTROL"), "/run/plasma/host.sock"),
		Peers:   cmp.Or(os.Getenv("PLASMA_PEERS"), "/run/plasma-peers"),
		State:   cmp.Or(os.Getenv("PLASMA_STATE"), "/var/lib/plasma"),
		Address: os.Getenv("PLASMA_ADDRESS"),
		Listen:  os.Getenv("PLASMA_LISTEN"),
	}
}

// withDefaults fills in from the environment what is empty.
func (o Options) withDefaults() Options {
	env := FromEnv()
	o.Agent = cmp.Or(o.Agent, env.Agent)
	o.Control = cmp.Or(o.Control, env.Control)
	o.Peers = cmp.Or(o.Peers, env.Peers)
	o.State = cmp.Or(o.State, env.State)
	o.Address = cmp.Or(o.Address, env.Address)
	o.Listen = cmp.Or(o.Listen, env.Listen, ":0")
	o.Limits = o.Limits.withDefaults()
	return o
}

func (o *Options) validate() error {
	if len(o.Types) == 0 {
		return fmt.Errorf("a host without types of actors: %w", errdefs.ErrInvalidArgument)
	}
	seen := map[string]bool{}
	for i := range o.Types {
		if err := o.Types[i].validate(); err != nil {
			return err
		}
		if seen[o.Types[i].Name] {
			return fmt.Errorf("two types of actors are called %s: %w", o.Types[i].Name, errdefs.ErrInvalidArgument)
		}
		seen[o.Types[i].Name] = true
	}
	if o.Limits.Mailbox < 1 || o.Limits.Actors < 1 {
		return fmt.Errorf("limits of %d messages and %d actors: %w", o.Limits.Mailbox, o.Limits.Actors, errdefs.ErrInvalidArgument)
	}
	return nil
}
