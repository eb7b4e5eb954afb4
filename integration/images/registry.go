package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Registry is a registry on loopback that speaks plain HTTP. It serves the blobs of
// an image from the image's archive: nothing is copied, to disk or to memory. Its
// methods may be called by many goroutines at once.
type Registry struct {
	addr   string
	server *http.Server
	client *http.Transport
	served chan struct{}  // closed when no connection is accepted any more
	conns  sync.WaitGroup // one for each connection

	mu       sync.RWMutex
	closed   bool
	archives []*archive
}

// NewRegistry starts a registry on a port of 127.0.0.1 that is free. The caller
// closes it. ctx is for the start only.
func NewRegistry(ctx context.Context) (*Registry, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start a registry: %w", err)
	}
	r := &Registry{addr: listener.Addr().String(), served: make(chan struct{}), client: &http.Transport{}}
	quiet := log.New(io.Discard, "", 0)
	r.server = &http.Server{
		Handler:           registry.New(registry.Logger(quiet), registry.WithBlobHandler(blobs{r})),
		ErrorLog:          quiet,
		ReadHeaderTimeout: time.Minute,
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				r.conns.Add(1)
			case http.StateClosed, http.StateHijacked:
				r.conns.Done()
			}
		},
	}
	go func() {
		defer close(r.served)
		// It ends by Close and in no other way that there was a remedy for:
		// the pulls fail then and say why.
		_ = r.server.Serve(listener)
	}()
	return r, nil
}

// Addr returns the host and port that the registry listens on.
func (r *Registry) Addr() string { return r.addr }

// Push makes an image available and returns its reference in this registry, such
// as 127.0.0.1:40123/peregrine/busybox:latest. The archive is held open until
// Close: meanwhile it may be deleted or replaced, but not written to.
func (r *Registry) Push(ctx context.Context, image Image) (string, error) {
	tag, err := name.NewTag(image.Name, name.StrictValidation)
	if err != nil {
		return "", fmt.Errorf("name of an image: %w", err)
	}
	ref, err := name.NewTag(r.addr+"/"+tag.RepositoryStr()+":"+tag.TagStr(), name.StrictValidation, name.Insecure)
	if err != nil {
		return "", fmt.Errorf("name of an image: %w", err)
	}
	a, err := openArchive(image.Archive)
	if err != nil {
		return "", fmt.Errorf("push %s: %w", image.Name, err)
	}
	if err := r.add(a); err != nil {
		return "", errors.Join(fmt.Errorf("push %s: %w", image.Name, err), a.Close())
	}
	// The blobs are there already.
	if err := remote.Put(ref, a.image, remote.WithContext(ctx), remote.WithTransport(r.client)); err != nil {
		return "", fmt.Errorf("push %s: %w", image.Name, err)
	}
	return ref.String(), nil
}

// add gives the registry an archive, which it closes at its own end.
func (r *Registry) add(a *archive) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return errors.New("the registry is closed")
	}
	r.archives = append(r.archives, a)
	return nil
}

// Close breaks off the pulls that are under way and returns when every goroutine of
// the registry has ended. It may be called more than once.
func (r *Registry) Close() error {
	r.mu.Lock()
	closed := r.closed
	r.closed = true
	r.mu.Unlock()
	if closed {
		return nil
	}
	err := r.server.Close()
	<-r.served
	r.conns.Wait()
	r.client.CloseIdleConnections()
	for _, a := range r.archives {
		err = errors.Join(err, a.Close())
	}
	if err != nil {
		return fmt.Errorf("close the registry: %w", err)
	}
	return nil
}

// blobs is what the registry's handler finds blobs with.
type blobs struct{ registry *Registry }

func (b blobs) find(digest v1.Hash) (blob, error) {
	b.registry.mu.RLock()
	defer b.registry.mu.RUnlock()
	for _, a := range b.registry.archives {
		if found, err := a.blob(digest); err == nil {
			return found, nil
		}
	}
	return blob{}, registry.ErrNotFound
}

// Get returns a reader of a blob.
func (b blobs) Get(_ context.Context, _ string, digest v1.Hash) (io.ReadCloser, error) {
	found, err := b.find(digest)
	if err != nil {
		return nil, err
	}
	return found.Compressed()
}

// Stat returns the size of a blob in bytes.
func (b blobs) Stat(_ context.Context, _ string, digest v1.Hash) (int64, error) {
	found, err := b.find(digest)
	if err != nil {
		return 0, err
	}
	return found.Size()
}
