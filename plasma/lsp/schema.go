package lsp

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/peregrine-dev/peregrine/plasma/manifest"
)

const (
	// maxManifest is more than a manifest may have: its reader refuses less.
	maxManifest = 2 << 20
	// maxFolders is how far up a manifest is looked for.
	maxFolders = 8
)

// schema finds and reads the manifest that a document's names come from: beside NAME.epl it is
// NAME.manifest.toml, else manifest.toml, else the only *.manifest.toml, else plasma.toml; if
// there is none, one of the last two in a folder above. Without a manifest all is empty.
func schema(uri string) (file string, m *manifest.Manifest, err error) {
	u, err := url.Parse(uri)
	if err != nil || u.Scheme != "file" || u.Path == "" {
		return "", nil, nil
	}
	file = nearest(filepath.FromSlash(u.Path))
	if file == "" {
		return "", nil, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return file, nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxManifest))
	if err != nil {
		return file, nil, fmt.Errorf("%s: %w", file, err)
	}
	m, err = manifest.Read(file, text)
	return file, m, err
}

func nearest(policy string) string {
	folder := filepath.Dir(policy)
	name := strings.TrimSuffix(filepath.Base(policy), ".epl")
	for _, file := range []string{name + ".manifest.toml", "manifest.toml"} {
		if file := filepath.Join(folder, file); exists(file) {
			return file
		}
	}
	for range maxFolders {
		if all, err := filepath.Glob(filepath.Join(escape(folder), "*.manifest.toml")); err == nil && len(all) == 1 {
			return all[0]
		}
		if file := filepath.Join(folder, "plasma.toml"); exists(file) {
			return file
		}
		up := filepath.Dir(folder)
		if up == folder {
			break
		}
		folder = up
	}
	return ""
}

// escape makes a pattern that a name only matches itself.
func escape(name string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(name)
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil || !errors.Is(err, fs.ErrNotExist)
}
