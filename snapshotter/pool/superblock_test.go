package pool

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
)

// mkfs returns the first bytes of an image that mkfs.xfs made, and the image's size.
func mkfs(tb testing.TB, args ...string) ([]byte, int64) {
	tb.Helper()
	image := filepath.Join(tb.TempDir(), "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		tb.Fatal(err)
	}
	if err := os.Truncate(image, minImage); err != nil {
		tb.Fatal(err)
	}
	if len(args) == 0 {
		if err := format(tb.Context(), image); err != nil {
			tb.Fatal(err)
		}
	} else if out, err := exec.CommandContext(tb.Context(), "mkfs.xfs", append(args, "-q", image)...).CombinedOutput(); err != nil {
		tb.Fatalf("mkfs.xfs: %v: %s", err, out)
	}
	f, err := os.Open(image)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	head := make([]byte, 8192)
	if _, err := f.ReadAt(head, 0); err != nil {
		tb.Fatal(err)
	}
	return head, minImage
}

// sum corrects the checksum of a superblock in a sector of 4 KiB.
func sum(head []byte) {
	clear(head[sbCRC : sbCRC+4])
	binary.LittleEndian.PutUint32(head[sbCRC:], crc32.Checksum(head[:4096], castagnoli))
}

func setLabel(head []byte, label string) {
	clear(head[sbLabel : sbLabel+sbLabelLen])
	copy(head[sbLabel:], label)
	sum(head)
}

// judge is what a medium's superblock amounts to.
func judge(head []byte, size int64) error {
	sb, err := readSuperblock(bytes.NewReader(head))
	if err != nil {
		return err
	}
	return sb.usable(size)
}

func TestSuperblock(t *testing.T) {
	made, size := mkfs(t)
	for name, c := range map[string]struct {
		change func(head []byte) []byte
		size   int64
		want   error // nil: usable
	}{
		"as made":            {nil, size, nil},
		"on a larger medium": {nil, 2 * size, nil},
		"cut short":          {nil, size - 4096, errdefs.ErrDataLoss},
		"zeroed":             {func(b []byte) []byte { clear(b); return b }, size, errNotXFS},
		"empty":              {func([]byte) []byte { return nil }, 0, errNotXFS},
		"one sector":         {func(b []byte) []byte { return b[:4096] }, size, nil},
		"half a sector":      {func(b []byte) []byte { return b[:2048] }, 2048, errdefs.ErrDataLoss},
		"no whole header":    {func(b []byte) []byte { return b[:sbEnd-1] }, sbEnd - 1, errNotXFS},
		"wrong magic":        {func(b []byte) []byte { b[sbMagic]++; return b }, size, errNotXFS},
		"wrong checksum":     {func(b []byte) []byte { b[sbCRC]++; return b }, size, errdefs.ErrDataLoss},
		"one bit":            {func(b []byte) []byte { b[4000] ^= 1; return b }, size, errdefs.ErrDataLoss},
		"in progress":        {func(b []byte) []byte { b[sbInProgress] = 1; sum(b); return b }, size, errUnfinished},
		"no label":           {func(b []byte) []byte { setLabel(b, ""); return b }, size, errdefs.ErrFailedPrecondition},
		"another label":      {func(b []byte) []byte { setLabel(b, "data"); return b }, size, errdefs.ErrFailedPrecondition},
		"another version":    {func(b []byte) []byte { setLabel(b, "baoverlay/2"); return b }, size, errdefs.ErrFailedPrecondition},
		"version 10":         {func(b []byte) []byte { setLabel(b, "baoverlay/10"); return b }, size, errdefs.ErrFailedPrecondition},
		"no reflinks": {func(b []byte) []byte {
			b[sbROCompat+3] &^= roCompatLinks
			sum(b)
			return b
		}, size, errdefs.ErrFailedPrecondition},
		"format version 4":    {func(b []byte) []byte { b[sbVersion+1] = b[sbVersion+1]&^versionMask | 4; sum(b); return b }, size, errdefs.ErrFailedPrecondition},
		"no sector size":      {func(b []byte) []byte { clear(b[sbSectorSize : sbSectorSize+2]); sum(b); return b }, size, errdefs.ErrDataLoss},
		"odd sector size":     {func(b []byte) []byte { b[sbSectorSize+1]++; sum(b); return b }, size, errdefs.ErrDataLoss},
		"no block size":       {func(b []byte) []byte { clear(b[sbBlockSize : sbBlockSize+4]); sum(b); return b }, size, errdefs.ErrDataLoss},
		"more than any disk":  {func(b []byte) []byte { b[sbDataBlocks] = 0xff; sum(b); return b }, size, errdefs.ErrDataLoss},
		"more than this disk": {func(b []byte) []byte { b[sbDataBlocks+3]++; sum(b); return b }, size, errdefs.ErrDataLoss},
	} {
		t.Run(name, func(t *testing.T) {
			head := bytes.Clone(made)
			if c.change != nil {
				head = c.change(head)
			}
			if err := judge(head, c.size); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestSuperblockOfMkfs(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		want superblock
	}{
		"ours":          {nil, superblock{Label: Label, Size: minImage, Reflink: true}},
		"small sectors": {[]string{"-s", "size=512", "-L", "x"}, superblock{Label: "x", Size: minImage, Reflink: true}},
		"small blocks":  {[]string{"-b", "size=1024", "-m", "reflink=1"}, superblock{Size: minImage, Reflink: true}},
		"no reflinks":   {[]string{"-m", "reflink=0"}, superblock{Size: minImage}},
		"longest label": {[]string{"-L", "twelve-bytes"}, superblock{Label: "twelve-bytes", Size: minImage, Reflink: true}},
	} {
		t.Run(name, func(t *testing.T) {
			head, _ := mkfs(t, c.args...)
			if got, err := readSuperblock(bytes.NewReader(head)); err != nil || got != c.want {
				t.Errorf("got %+v, %v; want %+v", got, err, c.want)
			}
		})
	}
}

func FuzzSuperblock(f *testing.F) {
	made, size := mkfs(f)
	f.Add(made, size, false)
	f.Add(made[:4096], size, true)
	f.Add([]byte("XFSB"), int64(0), false)
	f.Fuzz(func(t *testing.T, head []byte, size int64, right bool) {
		if right && len(head) >= 4096 {
			sum(head) // else nearly everything ends at the checksum
		}
		sb, err := readSuperblock(bytes.NewReader(head))
		switch {
		case err == nil:
		case errors.Is(err, errNotXFS), errdefs.IsDataLoss(err), errdefs.IsFailedPrecondition(err):
			return
		default:
			t.Fatalf("%v has no class", err)
		}
		if sb.Size < 0 {
			t.Errorf("%d bytes", sb.Size)
		}
		if sb.usable(size) == nil && (sb.Label != Label || !sb.Reflink || sb.Size > size) {
			t.Errorf("%+v is no pool on %d bytes", sb, size)
		}
	})
}
