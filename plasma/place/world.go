package place

import (
	"context"
	"fmt"

	"github.com/containerd/log"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// world is what keys say, decoded.
type world struct {
	keys     keys
	members  map[string]Member
	leaders  map[string]candidate // by key
	services map[string]*part
}

type candidate struct {
	node    string
	created int64
}

// part is of a service.
type part struct {
	service   *Service
	servers   map[string]Server
	instances map[string]Instance
	moves     map[placement.Actor]Move
	actors    map[placement.Actor]placement.Owner
	table     *placement.Table
	tableAt   int64
}

// change is what of a service's placement a key has changed.
type change struct {
	service string // empty: nothing
	table   bool
	actor   *placement.Actor
	server  string
}

func newWorld(k keys) *world {
	return &world{keys: k, members: map[string]Member{}, leaders: map[string]candidate{}, services: map[string]*part{}}
}

func (w *world) part(service string) *part {
	p := w.services[service]
	if p == nil {
		p = &part{
			servers: map[string]Server{}, instances: map[string]Instance{},
			moves: map[placement.Actor]Move{}, actors: map[placement.Actor]placement.Owner{},
		}
		w.services[service] = p
	}
	return p
}

// put takes a key in. One that can't be read is as if it were not there, and said.
func (w *world) put(ctx context.Context, kv *mvccpb.KeyValue) change {
	c := w.remove(string(kv.Key))
	kind, texts, ok := w.keys.split(string(kv.Key))
	err := fmt.Errorf("a key of no kind that is known")
	if ok {
		switch {
		case len(texts) == 1:
			err = w.putOne(kind, texts[0], kv)
		case len(texts) == 2:
			err = w.putTwo(kind, texts[0], texts[1], kv)
		case len(texts) == 3:
			err = w.putActor(kind, texts[0], placement.Actor{Type: texts[1], Key: texts[2]}, kv)
		}
	}
	if err != nil {
		log.G(ctx).WithError(err).WithField("key", string(kv.Key)).Warn("left out of the cluster")
	}
	return c
}

func (w *world) putOne(kind, name string, kv *mvccpb.KeyValue) error {
	switch kind {
	case "members":
		m, err := decodeMember(name, kv)
		if err != nil {
			return err
		}
		w.members[name] = m
	case "leader":
		w.leaders[name] = candidate{string(kv.Value), kv.CreateRevision}
	case "services":
		v, err := decodeService(name, kv)
		if err != nil {
			return err
		}
		w.part(name).service = &v
	case "tables":
		t, err := decodeTable(kv.Value)
		if err != nil {
			return err
		}
		p := w.part(name)
		p.table, p.tableAt = t, kv.ModRevision
	default:
		return fmt.Errorf("kind %q is not known", kind)
	}
	return nil
}

func (w *world) putTwo(kind, service, server string, kv *mvccpb.KeyValue) error {
	switch kind {
	case "servers":
		v, err := decodeServer(service, server, kv)
		if err != nil {
			return err
		}
		w.part(service).servers[server] = v
	case "instances":
		v, err := decodeInstance(service, server, kv)
		if err != nil {
			return err
		}
		w.part(service).instances[server] = v
	case "registered":
	default:
		return fmt.Errorf("kind %q is not known", kind)
	}
	return nil
}

func (w *world) putActor(kind, service string, a placement.Actor, kv *mvccpb.KeyValue) error {
	switch kind {
	case "moves":
		v, err := decodeMove(service, a, kv)
		if err != nil {
			return err
		}
		w.part(service).moves[a] = v
	case "actors":
		e, err := decodeException(kv)
		if err != nil {
			return err
		}
		w.part(service).actors[a] = e.owner()
	default:
		return fmt.Errorf("kind %q is not known", kind)
	}
	return nil
}

// remove forgets a key.
func (w *world) remove(key string) (c change) {
	kind, texts, ok := w.keys.split(key)
	if !ok || len(texts) == 0 {
		return c
	}
	name := texts[0]
	switch {
	case len(texts) == 1 && kind == "members":
		delete(w.members, name)
		return c
	case len(texts) == 1 && kind == "leader":
		delete(w.leaders, name)
		return c
	}
	p := w.services[name]
	if p == nil { // a put follows, or it is of no kind that is known
		p = &part{}
	}
	switch {
	case len(texts) == 1 && kind == "services":
		p.service = nil
	case len(texts) == 1 && kind == "tables":
		p.table, p.tableAt = nil, 0
		c = change{service: name, table: true}
	case len(texts) == 2 && kind == "servers":
		delete(p.servers, texts[1])
		c = change{service: name, server: texts[1]}
	case len(texts) == 2 && kind == "instances":
		delete(p.instances, texts[1])
		c = change{service: name, server: texts[1]}
	case len(texts) == 3 && kind == "moves":
		delete(p.moves, placement.Actor{Type: texts[1], Key: texts[2]})
	case len(texts) == 3 && kind == "actors":
		a := placement.Actor{Type: texts[1], Key: texts[2]}
		delete(p.actors, a)
		c = change{service: name, actor: &a}
	}
	if p.service == nil && p.table == nil && len(p.servers)+len(p.instances)+len(p.moves)+len(p.actors) == 0 {
		delete(w.services, name)
	}
	return c
}
