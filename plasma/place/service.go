package place

import (
	"context"
	"fmt"
	"strconv"

	"github.com/containerd/errdefs"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// PutService creates a service (version 0) or changes it, if its version is still the one given;
// it returns what is stored. ErrAlreadyExists, ErrAborted: it was created or changed meanwhile.
func (s *Store) PutService(ctx context.Context, v Service) (Service, error) {
	if err := named("store a service", v.Name); err != nil {
		return Service{}, err
	}
	if len(v.Spec)+len(v.Policy)+len(v.Manifest) > maxRecord {
		return Service{}, fmt.Errorf("service %s: its files are together larger than %d bytes: %w", v.Name, maxRecord, errdefs.ErrInvalidArgument)
	}
	key := s.keys.service(v.Name)
	done, err := s.txn(ctx, []clientv3.Cmp{version(key, v.Version)}, []clientv3.Op{clientv3.OpPut(key, encode(v))}, nil)
	if err == nil && !done.Succeeded {
		err = stale(v.Version)
	}
	if err != nil {
		return Service{}, fmt.Errorf("store service %s: %w", v.Name, err)
	}
	v.Version++
	return v, nil
}

// maxRecord bounds a service's files: etcd takes 1.5 MiB.
const maxRecord = 512 << 10

func version(key string, n uint64) clientv3.Cmp {
	return clientv3.Compare(clientv3.Version(key), "=", int64(n))
}

func stale(n uint64) error {
	if n == 0 {
		return fmt.Errorf("it is there already: %w", errdefs.ErrAlreadyExists)
	}
	return fmt.Errorf("version %d was changed meanwhile: %w", n, errdefs.ErrAborted)
}

// DeleteService marks a service for its end; RemoveService is the end. ErrNotFound: there is none.
func (s *Store) DeleteService(ctx context.Context, name string, state bool) error {
	for range attempts {
		response, err := s.client.Get(ctx, s.keys.service(name))
		if err != nil {
			return fmt.Errorf("delete service %s: %w", name, unavailable(err))
		}
		if len(response.Kvs) == 0 {
			return fmt.Errorf("delete service %s: there is none: %w", name, errdefs.ErrNotFound)
		}
		v, err := decodeService(name, response.Kvs[0])
		if err != nil {
			v = Service{Name: name, Version: uint64(response.Kvs[0].Version)} // whatever it was
		}
		v.Deleting, v.DeleteState = true, v.DeleteState || state
		if _, err = s.PutService(ctx, v); !errdefs.IsAborted(err) {
			return err
		}
	}
	return fmt.Errorf("delete service %s: others change it all the time: %w", name, errdefs.ErrUnavailable)
}

// RemoveService removes all of a service that is being deleted and has no servers any more.
// ErrFailedPrecondition: it is not, or has some.
func (l *Leadership) RemoveService(ctx context.Context, name string) error {
	k := l.store.keys
	key, servers := k.service(name), k.path("servers", name)+"/"
	read, err := l.store.txn(ctx, nil, []clientv3.Op{
		clientv3.OpGet(key), clientv3.OpGet(servers, clientv3.WithPrefix(), clientv3.WithCountOnly()),
	}, nil)
	if err != nil {
		return fmt.Errorf("remove service %s: %w", name, err)
	}
	kvs := read.Responses[0].GetResponseRange().Kvs
	if len(kvs) == 0 {
		return nil
	}
	v, err := decodeService(name, kvs[0])
	if n := read.Responses[1].GetResponseRange().Count; err != nil || !v.Deleting || n > 0 {
		return fmt.Errorf("remove service %s, which has %d servers: %w", name, n, errdefs.ErrFailedPrecondition)
	}
	then := []clientv3.Op{clientv3.OpDelete(key), clientv3.OpDelete(k.table(name)), clientv3.OpDelete(k.memory(name))}
	for _, kind := range []string{"registered", "instances", "moves", "actors"} {
		then = append(then, clientv3.OpDelete(k.path(kind, name)+"/", clientv3.WithPrefix()))
	}
	// Only a manager makes servers, so there are still none.
	done, err := l.txn(ctx, []clientv3.Cmp{unchanged(key, kvs[0].ModRevision)}, then, nil)
	if err == nil && !done.Succeeded {
		err = stale(v.Version)
	}
	if err != nil {
		return fmt.Errorf("remove service %s: %w", name, err)
	}
	return nil
}

// NextID gives the identity of a new server, SERVICE-N. It is given once and never again.
func (l *Leadership) NextID(ctx context.Context, service string) (string, error) {
	if err := named("number a server", service); err != nil {
		return "", err
	}
	key := l.store.keys.next(service)
	for range attempts {
		response, err := l.store.client.Get(ctx, key)
		if err != nil {
			return "", fmt.Errorf("number a server of %s: %w", service, unavailable(err))
		}
		n, revision, err := decodeNumber(response.Kvs)
		if err != nil {
			return "", err
		}
		next := strconv.FormatUint(n+1, 10)
		done, err := l.txn(ctx, []clientv3.Cmp{unchanged(key, revision)}, []clientv3.Op{clientv3.OpPut(key, next)}, nil)
		if err != nil {
			return "", fmt.Errorf("number a server of %s: %w", service, err)
		}
		if done.Succeeded {
			return service + "-" + next, nil
		}
	}
	return "", fmt.Errorf("number a server of %s: others do all the time: %w", service, errdefs.ErrUnavailable)
}

// PutServer creates a server (version 0) or changes it, if its version is still the one given; it
// returns what is stored. ErrAlreadyExists, ErrAborted: it was created or changed meanwhile.
func (l *Leadership) PutServer(ctx context.Context, v Server) (Server, error) {
	if err := named("store a server", v.Service, v.ID); err != nil {
		return Server{}, err
	}
	if err := v.check(); err != nil {
		return Server{}, fmt.Errorf("store a server: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	key := l.store.keys.server(v.Service, v.ID)
	done, err := l.txn(ctx, []clientv3.Cmp{version(key, v.Version)}, []clientv3.Op{clientv3.OpPut(key, encode(v))}, nil)
	if err == nil && !done.Succeeded {
		err = stale(v.Version)
	}
	if err != nil {
		return Server{}, fmt.Errorf("store server %s: %w", v.ID, err)
	}
	v.Version++
	return v, nil
}

// DeleteServer removes a server, and its instance. One that is not there is no error.
func (l *Leadership) DeleteServer(ctx context.Context, service, id string) error {
	k := l.store.keys
	_, err := l.txn(ctx, nil, []clientv3.Op{
		clientv3.OpDelete(k.server(service, id)), clientv3.OpDelete(k.instance(service, id)), clientv3.OpDelete(k.registered(service, id)),
	}, nil)
	if err != nil {
		return fmt.Errorf("remove server %s: %w", id, err)
	}
	return nil
}
