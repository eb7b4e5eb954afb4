package agent

import (
	"encoding/json"
	"os"
	"path/filepath"
)

// saveJSON writes a file as a whole, or not at all.
func saveJSON(dir, name string, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}
