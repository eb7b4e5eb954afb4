package images

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

// killMe, if set, makes the test binary a builder that a test kills: it builds
// Debian in the cache that the variable names and prints every step.
const killMe = "PEREGRINE_TEST_BUILDER_CACHE"

func TestMain(m *testing.M) {
	if cache := os.Getenv(killMe); cache != "" {
		_, err := Debian(context.Background(), cache, func(step string, _, _ int64) { fmt.Println(step) })
		fmt.Println("ended:", err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// realCache is the cache that slow images are kept in from run to run.
func realCache(t *testing.T) string {
	t.Helper()
	if cache := os.Getenv("PEREGRINE_CACHE"); cache != "" {
		return cache
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		t.Fatalf("no cache directory, set PEREGRINE_CACHE: %v", err)
	}
	return filepath.Join(dir, "peregrine")
}

// needRoot skips the test for a user who can't run it. As root it must run.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// newCache makes an empty cache with a busybox in it that has two applets. It is a
// script, so that these tests need nothing from Debian.
func newCache(t *testing.T) string {
	t.Helper()
	cache := t.TempDir()
	bin := filepath.Join(cache, "debian", "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	fake := "#!/bin/sh\necho bin/sh\necho usr/bin/env\n"
	if err := os.WriteFile(filepath.Join(bin, "busybox"), []byte(fake), 0o755); err != nil {
		t.Fatal(err)
	}
	return cache
}

// mustBusybox builds the image of newCache's busybox.
func mustBusybox(t *testing.T, cache string) Image {
	t.Helper()
	image, err := Busybox(t.Context(), cache, nil)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// checkCache fails the test unless the cache of images holds these archives, the
// lock files, and nothing else.
func checkCache(t *testing.T, cache string, archives ...string) {
	t.Helper()
	want := map[string]bool{}
	for _, path := range archives {
		want[path] = true
	}
	found, err := filepath.Glob(filepath.Join(cache, "images", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range found {
		if filepath.Ext(path) != ".lock" && !want[path] {
			t.Errorf("left in the cache: %s", path)
		}
		delete(want, path)
	}
	for path := range want {
		t.Errorf("not in the cache: %s", path)
	}
}
