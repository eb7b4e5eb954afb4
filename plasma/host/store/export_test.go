package store

import "go.etcd.io/bbolt"

// Check checks the whole file, if it is open.
func (s *Store) Check() error {
	err := s.db.View(func(tx *bbolt.Tx) error {
		for err := range tx.Check() {
			return err
		}
		return nil
	})
	if err != nil && s.closed {
		return nil
	}
	return err
}
