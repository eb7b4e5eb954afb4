package peers

import "time"

// Hurry makes an etcd source look after its record more often and wait less.
func Hurry(s Source) Source {
	e := s.(*etcdSource)
	e.check, e.timeout, e.grace = 200*time.Millisecond, 3*time.Second, 15*time.Second
	e.retry.BaseDelay, e.retry.MaxDelay = 50*time.Millisecond, 500*time.Millisecond
	return e
}

// Patient makes an etcd source wait longer for answers.
func Patient(s Source) Source {
	s.(*etcdSource).timeout = time.Minute
	return s
}

// NoCheck makes an etcd source rely on its watch alone.
func NoCheck(s Source) Source {
	s.(*etcdSource).check = time.Hour
	return s
}

// Recheck sets how often a file source reads without an event.
func Recheck(s Source, every time.Duration) Source {
	s.(*fileSource).recheck = every
	return s
}

// For tests of what decides.
var (
	DecodeFile   = decodeFile
	DecodeRecord = func(name string, text []byte) (Node, error) { n, _, err := decodeRecord(name, text); return n, err }
	EncodeRecord = encodeRecord
	Delay        = delay
)
