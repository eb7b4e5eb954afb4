package place

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/containerd/errdefs"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// unwatched is the kind of keys that mirrors don't follow. It comes after all others.
const unwatched = "unwatched"

// keys makes the names of keys.
type keys struct{ prefix string }

func newKeys(cluster string) keys { return keys{"/peregrine/plasma/" + url.PathEscape(cluster) + "/"} }

// path joins texts so that they can be told apart again.
func (k keys) path(kind string, texts ...string) string {
	var b strings.Builder
	b.WriteString(k.prefix)
	b.WriteString(kind)
	for _, t := range texts {
		b.WriteByte('/')
		b.WriteString(url.PathEscape(t))
	}
	return b.String()
}

// split is path's inverse.
func (k keys) split(key string) (kind string, texts []string, ok bool) {
	rest, ok := strings.CutPrefix(key, k.prefix)
	if !ok {
		return "", nil, false
	}
	parts := strings.Split(rest, "/")
	for i, p := range parts {
		var err error
		if parts[i], err = url.PathUnescape(p); err != nil || url.PathEscape(parts[i]) != p {
			return "", nil, false
		}
	}
	return parts[0], parts[1:], true
}

func (k keys) member(node string) string  { return k.path("members", node) }
func (k keys) service(name string) string { return k.path("services", name) }
func (k keys) next(service string) string { return k.path(unwatched, "next", service) }
func (k keys) server(service, id string) string {
	return k.path("servers", service, id)
}

func (k keys) registered(service, id string) string { return k.path("registered", service, id) }
func (k keys) instance(service, id string) string   { return k.path("instances", service, id) }
func (k keys) move(service string, a placement.Actor) string {
	return k.path("moves", service, a.Type, a.Key)
}

// actor gives the actor of a move's or an exception's key.
func (k keys) actor(key string) (placement.Actor, bool) {
	_, texts, ok := k.split(key)
	if !ok || len(texts) != 3 {
		return placement.Actor{}, false
	}
	return placement.Actor{Type: texts[1], Key: texts[2]}, true
}

func (k keys) exception(service string, a placement.Actor) string {
	return k.path("actors", service, a.Type, a.Key)
}
func (k keys) table(service string) string  { return k.path("tables", service) }
func (k keys) memory(service string) string { return k.path(unwatched, "memories", service) }

func (k keys) leaders() string { return k.prefix + "leader/" }
func (k keys) leader(lease clientv3.LeaseID) string {
	return fmt.Sprintf("%s%x", k.leaders(), int64(lease))
}

// named refuses names that are none.
func named(what string, names ...string) error {
	for _, n := range names {
		if n == "" || len(n) > 256 {
			return fmt.Errorf("%s: a name of %d bytes: %w", what, len(n), errdefs.ErrInvalidArgument)
		}
	}
	return nil
}
