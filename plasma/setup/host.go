package setup

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/internal/check"
	"github.com/peregrine-dev/peregrine/plasma/config"
)

// slow is for how long a file may take to be stored: each turn of a durable actor waits for that.
const slow = 50 * time.Millisecond

// directory judges where plasmad's state is, or where it would be: whether it lasts, and how long
// a turn waits for it.
func directory(root string) check.Result {
	const probe = "state"
	dir := root
	for {
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) || dir == "/" {
			break
		}
		dir = filepath.Dir(dir)
	}
	took, err := syncs(dir)
	if err != nil {
		return result(probe, check.Missing, fmt.Sprintf("%v: actors can store nothing", err))
	}
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return result(probe, check.Limited, fmt.Sprintf("%s: %v", dir, err))
	}
	switch {
	case s.Type == unix.TMPFS_MAGIC || s.Type == unix.RAMFS_MAGIC:
		return result(probe, check.Limited, root+" is in memory: what actors store is lost with a reboot")
	case took > slow:
		return result(probe, check.Limited, fmt.Sprintf("%s: storing a page takes %s, and each turn of a durable actor waits for that", root, took.Round(time.Millisecond)))
	}
	return result(probe, check.OK, fmt.Sprintf("%s; storing a page takes %s", root, took.Round(10*time.Microsecond)))
}

// syncs measures how long a page takes to be stored, the best of three.
func syncs(dir string) (best time.Duration, err error) {
	f, err := os.CreateTemp(dir, ".plasma-check-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	page := make([]byte, 4096)
	for i := range 3 {
		began := time.Now()
		if _, err := f.Write(page); err != nil {
			return 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, err
		}
		if took := time.Since(began); i == 0 || took < best {
			best = took
		}
	}
	return best, nil
}

// ports tells whether what plasmad will listen on is free.
func ports(cfg config.Config) check.Result {
	const probe = "ports"
	listened := ""
	for _, a := range []struct{ key, address string }{
		{"address", cfg.Address}, {"member.peer", cfg.Member.Peer}, {"web.address", cfg.Web.Address}, {"metrics.address", cfg.Metrics.Address},
	} {
		if a.address == "" {
			continue
		}
		l, err := net.Listen("tcp", a.address)
		if err == nil {
			err = l.Close()
		}
		if err != nil {
			return result(probe, check.Missing, fmt.Sprintf("%s of %s: %v: plasmad doesn't start", a.key, config.DefaultPath, err))
		}
		listened += " " + a.address
	}
	if listened == "" {
		return result(probe, check.OK, "none are needed")
	}
	return result(probe, check.OK, "free:"+listened)
}

// certificate judges the one that other nodes see.
func certificate(cfg config.Config) check.Result {
	const probe, without = "certificate", "this node and others don't know each other"
	pair, err := tls.LoadX509KeyPair(cfg.TLS.Cert, cfg.TLS.Key)
	if err != nil {
		return result(probe, check.Missing, fmt.Sprintf("%v: %s", err, without))
	}
	until := pair.Leaf.NotAfter
	if left := time.Until(until); left <= 0 {
		return result(probe, check.Missing, fmt.Sprintf("%s ended at %s: %s", cfg.TLS.Cert, until.Format(time.RFC3339), without))
	} else if left < 30*24*time.Hour {
		return result(probe, check.Limited, fmt.Sprintf("%s ends at %s; replace it and restart plasmad", cfg.TLS.Cert, until.Format(time.RFC3339)))
	}
	if host, _, err := net.SplitHostPort(cfg.Address); err == nil {
		if err := pair.Leaf.VerifyHostname(host); err != nil {
			return result(probe, check.Missing, fmt.Sprintf("%s: %v: other nodes don't take it", cfg.TLS.Cert, err))
		}
	}
	return result(probe, check.OK, fmt.Sprintf("%s, until %s", cfg.TLS.Cert, until.Format(time.DateOnly)))
}

// clock tells whether something sets this host's. Leases don't go by it, only certificates and
// what people read.
func clock() check.Result {
	const probe = "clock"
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	if err != nil {
		return result(probe, check.OK, fmt.Sprintf("not known: %v", err))
	}
	if state == unix.TIME_ERROR || t.Status&unix.STA_UNSYNC != 0 {
		return result(probe, check.OK, "nothing sets it: times of this node may differ from others'; leases don't go by it")
	}
	return result(probe, check.OK, "is synchronised")
}
