// Package protocol is how the CNI program hands its work to the node's agent: the program
// is executed for every container and waited for, so it imports next to nothing, and
// this package imports nothing that makes it larger.
//
// # The protocol
//
// The agent listens on /run/falcon/cni.sock, a stream socket of mode 0600. A connection is
// one call:
//
//	request   NAME=VALUE\x00 ... \x00 CONFIG   then the caller shuts down writing
//	reply     STATUS OUTPUT                    then the agent closes
//
// NAME=VALUE are the variables of CNI's environment, each at most once, in any order; an
// empty one ends them. CONFIG is what the runtime wrote to the program's standard input.
// The first message may carry one descriptor: the container's network namespace, opened by
// the caller. STATUS is '0' when the call succeeded and '1' when it didn't; OUTPUT is what
// the program prints, a result or an error in JSON. A connection that ends without a
// STATUS was not answered.
//
// Besides the commands of CNI there are
//
//	REPORT        how the agent is, as agent.Report in JSON
//	RESERVE       gives a container a class while it runs. CONFIG is an object with containerID,
//	              ifname (all of the container's if left out), class (high, normal, low), owner
//	              (who it is that asks) and ttl (seconds; for ever if left out). OUTPUT is the
//	              agent.Reservation, which is in force. An owner has one for each ifname: a
//	              second RESERVE renews it
//	RELEASE       ends what an owner has reserved for a container. CONFIG is an object with
//	              containerID and owner. OUTPUT lists what ended, which may be nothing
//	RESERVATIONS  lists all reservations
//	FLOWS         lists flows, as agent.Flow: those that have had the most packets, and these
//	              first. CONFIG is an object with limit (how many at most), or nothing
//	PAIRS         lists what passed between containers, as agent.Pair, with the most bytes first
//
// of which REPORT, RESERVATIONS and PAIRS have no CONFIG. Their errors are as CNI's: code 3 is
// that no such container is attached, 2, 6 and 7 that the request is wrong, 11 that nobody
// counts flows on this node now.
package protocol

import (
	"errors"
	"strings"
)

const (
	// Socket is the name of the socket in the agent's directory.
	Socket = "cni.sock"
	// Root is the agent's directory.
	Root = "/run/falcon"
	// MaxRequest is the size of the largest request that is read, in bytes.
	MaxRequest = 1 << 20
)

// The commands that are none of CNI's.
const (
	Report       = "REPORT"
	Reserve      = "RESERVE"
	Release      = "RELEASE"
	Reservations = "RESERVATIONS"
	Flows        = "FLOWS"
	Pairs        = "PAIRS"
)

// Variables are the names that a request may have.
var Variables = []string{
	"CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH",
}

// Encode makes a request of an environment, of which it takes the variables of CNI, and a
// configuration.
func Encode(environ []string, config []byte) []byte {
	var size int
	for _, e := range environ {
		size += len(e) + 1
	}
	request := make([]byte, 0, size+1+len(config))
	for _, name := range Variables {
		for _, e := range environ {
			if key, _, ok := strings.Cut(e, "="); ok && key == name {
				request = append(append(request, e...), 0)
				break
			}
		}
	}
	return append(append(request, 0), config...)
}

// Decode takes a request apart. It fails for one that isn't whole or that has a variable
// that is unknown or there twice. The configuration is part of the request's memory.
func Decode(request []byte) (variables map[string]string, config []byte, err error) {
	variables = map[string]string{}
	for {
		end := -1
		for i, b := range request {
			if b == 0 {
				end = i
				break
			}
		}
		if end < 0 {
			return nil, nil, errors.New("the request has no end of its variables")
		}
		entry := string(request[:end])
		request = request[end+1:]
		if entry == "" {
			return variables, request, nil
		}
		name, value, ok := strings.Cut(entry, "=")
		if !ok || !known(name) {
			return nil, nil, errors.New("the request has a variable that CNI does not know")
		}
		if _, twice := variables[name]; twice {
			return nil, nil, errors.New("the request has the variable " + name + " twice")
		}
		variables[name] = value
	}
}

func known(name string) bool {
	for _, v := range Variables {
		if v == name {
			return true
		}
	}
	return false
}
