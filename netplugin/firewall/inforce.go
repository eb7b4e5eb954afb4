package firewall

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// InForce tells whether both tables are there. Somebody may have flushed all rules of the
// host, ours among them.
func (f *Firewall) InForce() (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	conn, err := f.kernel.dial()
	if err != nil {
		return false, fmt.Errorf("firewall: %w", explain(err))
	}
	for _, family := range []nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyBridge} {
		_, err := conn.ListTableOfFamily(tableName, family)
		if errors.Is(err, unix.ENOENT) {
			return false, nil
		}
		if err != nil {
			f.kernel.hangUp()
			return false, fmt.Errorf("firewall: look for the tables: %w", explain(err))
		}
	}
	return true, nil
}
