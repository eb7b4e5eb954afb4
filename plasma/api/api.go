// Package api is the protocol between hosts of actors, plasmad and plasmactl.
package api

//go:generate ./generate.sh
