// Package sidecar hosts actors whose behaviour is in an application that speaks HTTP and JSON, in
// the same container and in any language. The host of package host keeps the actors' state, their
// mailboxes and timers; the application gets each turn's state and message, and answers with what
// comes of it. So moves, durability and recovery need nothing from the application.
//
// The protocol is described in docs/plasma/sidecar.md. Application is the way to the application,
// API the way from it, and Run is the whole of plasma-sidecar: it is also the parent of the
// application's process.
package sidecar
