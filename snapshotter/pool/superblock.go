package pool

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"

	"github.com/containerd/errdefs"
)

// Label is the XFS label of a pool: the format's name and version. A later
// layout of the directories inside gets a later version.
const Label = "baoverlay/1"

const labelPrefix = "baoverlay/"

// Offsets in the on-disk superblock, struct xfs_dsb of the kernel's
// fs/xfs/libxfs/xfs_format.h; all numbers are big-endian.
const (
	sbMagic      = 0
	sbBlockSize  = 4
	sbDataBlocks = 8
	sbVersion    = 100
	sbSectorSize = 102
	sbLabel      = 108
	sbLabelLen   = 12
	sbInProgress = 126
	sbROCompat   = 212
	sbCRC        = 224
	sbEnd        = 264

	versionMask   = 0xf
	version5      = 5
	roCompatLinks = 1 << 2
)

// superblock is what of an XFS superblock decides whether the file system can
// be a pool.
type superblock struct {
	Label   string
	Size    int64 // bytes the file system spans
	Reflink bool
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var (
	// errNotXFS says that there is no XFS at all, as on a blank device.
	errNotXFS = errors.New("no XFS superblock")
	// errUnfinished says that mkfs was killed: nothing was ever in this file system.
	errUnfinished = fmt.Errorf("mkfs did not finish: %w", errdefs.ErrDataLoss)
)

// readSuperblock reads and verifies the primary superblock at the start of r.
// A superblock that is damaged is errdefs.ErrDataLoss, one that is unfinished is
// errUnfinished, and returned; where there is none, errNotXFS.
func readSuperblock(r io.ReaderAt) (superblock, error) {
	head := make([]byte, sbEnd)
	if _, err := r.ReadAt(head, 0); err != nil {
		if errors.Is(err, io.EOF) {
			return superblock{}, fmt.Errorf("shorter than a superblock: %w", errNotXFS)
		}
		return superblock{}, fmt.Errorf("read superblock: %w", err)
	}
	if string(head[sbMagic:sbMagic+4]) != "XFSB" {
		return superblock{}, errNotXFS
	}
	sector := int(binary.BigEndian.Uint16(head[sbSectorSize:]))
	if sector < 512 || sector > 32768 || sector&(sector-1) != 0 {
		return superblock{}, fmt.Errorf("superblock names a sector of %d bytes: %w", sector, errdefs.ErrDataLoss)
	}
	if v := binary.BigEndian.Uint16(head[sbVersion:]) & versionMask; v != version5 {
		return superblock{}, fmt.Errorf("XFS format version %d has no reflinks, want 5: %w", v, errdefs.ErrFailedPrecondition)
	}
	full := make([]byte, sector)
	if _, err := r.ReadAt(full, 0); errors.Is(err, io.EOF) {
		return superblock{}, fmt.Errorf("nothing is left but a part of the superblock: %w", errdefs.ErrDataLoss)
	} else if err != nil {
		return superblock{}, fmt.Errorf("read superblock: %w", err)
	}
	// The checksum is little-endian and taken with its own field zero.
	want := binary.LittleEndian.Uint32(full[sbCRC:])
	clear(full[sbCRC : sbCRC+4])
	if got := crc32.Checksum(full, castagnoli); got != want {
		return superblock{}, fmt.Errorf("superblock checksum is %08x, want %08x: %w", got, want, errdefs.ErrDataLoss)
	}
	blockSize := int64(binary.BigEndian.Uint32(full[sbBlockSize:]))
	blocks := binary.BigEndian.Uint64(full[sbDataBlocks:])
	if blockSize < 512 || blockSize > 65536 || blocks > 1<<52/uint64(blockSize) {
		return superblock{}, fmt.Errorf("superblock names %d blocks of %d bytes: %w", blocks, blockSize, errdefs.ErrDataLoss)
	}
	sb := superblock{
		Label:   string(bytes.TrimRight(full[sbLabel:sbLabel+sbLabelLen], "\x00")),
		Size:    int64(blocks) * blockSize,
		Reflink: binary.BigEndian.Uint32(full[sbROCompat:])&roCompatLinks != 0,
	}
	if full[sbInProgress] != 0 {
		return sb, errUnfinished
	}
	return sb, nil
}

// usable says why a file system can't be a pool on a medium of size bytes.
func (sb superblock) usable(size int64) error {
	switch {
	case !strings.HasPrefix(sb.Label, labelPrefix):
		return fmt.Errorf("the XFS there is labelled %q, not %q: it is somebody else's: %w", sb.Label, Label, errdefs.ErrFailedPrecondition)
	case sb.Label != Label:
		return fmt.Errorf("the pool has format %q and this program knows %q: use the release that made it: %w", sb.Label, Label, errdefs.ErrFailedPrecondition)
	case !sb.Reflink:
		return fmt.Errorf("the XFS there was made without reflink=1: %w", errdefs.ErrFailedPrecondition)
	case sb.Size > size:
		return fmt.Errorf("the file system spans %d bytes and only %d are there: the image was cut short: %w", sb.Size, size, errdefs.ErrDataLoss)
	}
	return nil
}
