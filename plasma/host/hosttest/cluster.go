package hosttest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"path/filepath"
	"time"

	"github.com/containerd/ttrpc"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// Dirs is where the sockets and the state of a server are, below a root.
type Dirs struct{ Agent, Control, Peers, State string }

// DirsOf gives a server's places. Servers with the same node share a directory of peers.
func DirsOf(root, node, server string) Dirs {
	return Dirs{
		Agent:   filepath.Join(root, server+".agent"),
		Control: filepath.Join(root, server+".ctl"),
		Peers:   filepath.Join(root, node),
		State:   filepath.Join(root, server+".state"),
	}
}

// Move has the host behind a control socket move an actor to another server, as plasmad does, and
// gives for how long it stood still. The move's identity may be repeated.
func (a *Authority) Move(ctx context.Context, control string, actor placement.Actor, to, id string) (time.Duration, error) {
	return a.MoveAt(ctx, control, actor, to, id, a.Owner(actor).Epoch+1)
}

// MoveAt is Move to an epoch, right or wrong.
func (a *Authority) MoveAt(ctx context.Context, control string, actor placement.Actor, to, id string, epoch uint64) (time.Duration, error) {
	h, end, err := dial(ctx, control)
	if err != nil {
		return 0, err
	}
	defer end()
	t := a.Server(to)
	resp, err := h.Move(ctx, &api.MoveRequest{
		Moves: []*api.Move{{Id: id, Actor: actor.API(), To: to, Epoch: epoch}},
		To:    &api.Server{Id: to, Node: t.Node, Instance: t.Instance, Address: t.Address},
	})
	if err != nil {
		return 0, err
	}
	if why := resp.GetRefused()[0]; why != "" {
		return 0, fmt.Errorf("%s stays: %s", actor, why)
	}
	return time.Duration(resp.GetPauses()[0]), nil
}

// Freeze has the host behind a control socket hold back new actors, or not, and gives those that
// it has.
func (a *Authority) Freeze(ctx context.Context, control string, frozen bool) ([]placement.Actor, error) {
	h, end, err := dial(ctx, control)
	if err != nil {
		return nil, err
	}
	defer end()
	resp, err := h.Freeze(ctx, &api.FreezeRequest{Frozen: frozen})
	if err != nil {
		return nil, err
	}
	var actors []placement.Actor
	for _, b := range resp.GetActors() {
		actors = append(actors, placement.Of(b))
	}
	return actors, nil
}

func dial(ctx context.Context, control string) (api.HostService, func(), error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", control)
	if err != nil {
		return nil, nil, err
	}
	client := ttrpc.NewClient(conn)
	return api.NewHostClient(client), func() {
		client.Close()
		_ = client.UserOnCloseWait(context.Background())
	}, nil
}

// Certificate makes a certificate for a service, in PEM.
func Certificate() (certificate, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: Service},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return nil, nil, err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return certificate, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), nil
}
