package embed

import (
	"context"
	"slices"
	"sync/atomic"

	"github.com/containerd/log"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// logger hands etcd's warnings and errors to containerd's log, as this program's other messages,
// until closing: etcd takes the end of its listeners for an error.
func logger(closing *atomic.Bool) *zap.Logger { return zap.New(core{closing: closing}) }

// usual is what etcd warns of each time, and what is as it should be here: it is reached from this
// process, or over TLS with certificates, and a new database gets its version a moment later.
var usual = []string{
	"Running http and grpc server on single port. This is not recommended for production.",
	"simple token is not cryptographically signed",
	"Failed to detect schema version",
	"failed to update storage version",
}

// core is a zap core.
type core struct {
	closing *atomic.Bool
	fields  []zapcore.Field
}

// Enabled is for warnings and worse.
func (c core) Enabled(l zapcore.Level) bool { return l >= zapcore.WarnLevel && !c.closing.Load() }

// With adds fields.
func (c core) With(fields []zapcore.Field) zapcore.Core {
	return core{c.closing, append(c.fields[:len(c.fields):len(c.fields)], fields...)}
}

// Check takes what is enabled.
func (c core) Check(e zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) && !slices.Contains(usual, e.Message) {
		return checked.AddCore(e, c)
	}
	return checked
}

// Write writes an entry.
func (c core) Write(e zapcore.Entry, fields []zapcore.Field) error {
	values := zapcore.NewMapObjectEncoder()
	for _, f := range append(c.fields[:len(c.fields):len(c.fields)], fields...) {
		f.AddTo(values)
	}
	entry := log.G(context.Background()).WithFields(values.Fields)
	if e.Level == zapcore.WarnLevel {
		entry.Warn("etcd: " + e.Message)
	} else {
		entry.Error("etcd: " + e.Message)
	}
	return nil
}

// Sync has nothing to do.
func (core) Sync() error { return nil }
