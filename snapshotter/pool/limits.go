package pool

const (
	miB = int64(1) << 20
	giB = int64(1) << 30

	// minImage is the smallest image that mkfs.xfs formats without complaint.
	minImage = 512 * miB
	// growthStep keeps growth in steps worth an xfs_growfs.
	growthStep = 16 * miB
)

// Limits says how much space a pool takes and when it takes more. All values
// are bytes.
type Limits struct {
	// Initial is what a new image file starts with.
	Initial int64
	// Max is what the image file never exceeds; 0 leaves the bound to HostReserve.
	Max int64
	// Headroom is kept free in the pool: with less, the pool grows.
	Headroom int64
	// Reserve is the free space below which Admit refuses, so that running
	// containers keep room for what they write.
	Reserve int64
	// HostReserve is left free on the host's file system by every growth.
	HostReserve int64
}

// DefaultLimits returns the limits for a host file system of total bytes.
// Headroom is what a container may write before the next look at the pool
// (Watch), so it is a matter of the disk's speed as much as of its size.
func DefaultLimits(total int64) Limits {
	headroom := clamp(total/64, minImage/2, 4*giB)
	return Limits{
		Initial:     max(2*headroom, minImage),
		Headroom:    headroom,
		Reserve:     clamp(headroom/8, 32*miB, 256*miB),
		HostReserve: clamp(total/100, 128*miB, 2*giB),
	}
}

// initial is the size of a new image on a host with hostFree bytes: less than
// Initial where the host has less, 0 where it hasn't enough for any pool.
func (l Limits) initial(hostFree int64) int64 {
	size := min(roundDown(l.Initial), roundDown(hostFree-l.HostReserve))
	if l.Max > 0 {
		size = min(size, roundDown(l.Max))
	}
	if size < minImage {
		return 0
	}
	return size
}

// growth is by how many bytes an image of size, with free bytes left in it,
// grows on a host with hostFree bytes. It is 0 when there is enough in the pool
// or nothing to be had.
func (l Limits) growth(size, free, hostFree int64) int64 {
	if free >= l.Headroom {
		return 0
	}
	// An eighth at a time keeps the number of growths logarithmic.
	want := max(2*l.Headroom-free, size/8)
	want = min(want, hostFree-l.HostReserve)
	if l.Max > 0 {
		want = min(want, l.Max-size)
	}
	return max(roundDown(want), 0)
}

func roundDown(n int64) int64 { return n - n%growthStep }

func clamp(n, low, high int64) int64 { return max(low, min(n, high)) }
