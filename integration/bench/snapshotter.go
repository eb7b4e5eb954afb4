package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/integration/harness"
	"github.com/peregrine-dev/peregrine/integration/images"
	"github.com/peregrine-dev/peregrine/integration/workload"
)

const (
	ours  = "baoverlay"
	stock = "overlayfs"
)

// measure is one or more rows that are had in one fresh root: run returns a value for
// each.
type measure struct {
	rows []rowOf
	run  func(ctx context.Context, root string) ([]float64, error)
}

type rowOf struct {
	name string
	unit Unit
	note string
}

// Snapshotter measures baoverlay against stock overlayfs, both behind one containerd.
func Snapshotter(ctx context.Context, o Options) (rows []Row, err error) {
	began := time.Now()
	image, err := images.DebianData(ctx, o.Cache, o.Progress)
	if err != nil {
		return nil, err
	}
	b, err := harness.StartBundle(ctx, o.Cache, o.Bin, harness.Versions[0], nil)
	if err != nil {
		return nil, err
	}
	defer func() {
		if rerr := b.Remove(ctx); err == nil {
			err = rerr
		}
	}()
	client, err := b.Client()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	o.Progress("pulling the image on both", 0, 0)
	ref, err := b.Pull(ctx, image, ours, stock)
	if err != nil {
		return nil, err
	}
	both := map[string]*roots{}
	for _, name := range []string{ours, stock} {
		if both[name], err = newRoots(ctx, client, ref, name, b.Dir()); err != nil {
			return nil, err
		}
	}
	tar, err := makeTar(ctx, both[stock], b.Dir())
	if err != nil {
		return nil, err
	}
	series := map[string]map[string]Series{ours: {}, stock: {}}
	measures := snapshotterMeasures(tar)
	rounds := o.rounds(7, began.Add(45*time.Second)) // the rest is for taking things down
	for i := 0; rounds.next(); i++ {
		for j, m := range measures {
			o.Progress(fmt.Sprintf("round %d", i+1), int64(j), int64(len(measures)))
			order := []string{ours, stock}
			if i%2 == 1 {
				order = []string{stock, ours}
			}
			for _, name := range order {
				err := both[name].with(ctx, func(root string) error {
					if err := settle(root); err != nil {
						return err
					}
					values, err := m.run(ctx, root)
					if err != nil {
						return err
					}
					for i, r := range m.rows {
						series[name][r.name] = append(series[name][r.name], values[i])
					}
					return nil
				})
				if err != nil {
					return nil, fmt.Errorf("%s on %s: %w", m.rows[0].name, name, err)
				}
			}
		}
	}
	for _, m := range measures {
		for _, r := range m.rows {
			rows = append(rows, Compare(r.name, r.unit, series[ours][r.name], stock, series[stock][r.name], r.note))
		}
	}
	rows = append(rows, Compare("first-write-1GiB-vs-4KiB", Milliseconds, series[ours]["first-write-1GiB"],
		"ours, 4KiB", series[ours]["first-write-4KiB"], "the size of the file must not matter"))
	return rows, nil
}

func snapshotterMeasures(tar string) []measure {
	const (
		writes = 20000
		reads  = 2000
		synced = 1000
	)
	data := func(root, file string) string { return filepath.Join(root, "data", file) }
	took := func(d time.Duration, err error) ([]float64, error) { return []float64{milliseconds(d)}, err }
	// shared is a rate of n writes into 64 MiB whose blocks the image has too, once the
	// first write is on the disk.
	shared := func(n, flags int, sync func(int) error) func(context.Context, string) ([]float64, error) {
		return func(_ context.Context, root string) ([]float64, error) {
			if _, err := workload.FirstWrite(data(root, "64MiB")); err != nil {
				return nil, err
			}
			if err := settle(root); err != nil {
				return nil, err
			}
			d, err := workload.RandomWrite(data(root, "64MiB"), n, flags, sync)
			return []float64{float64(n) / d.Seconds()}, err
		}
	}
	list := []measure{{
		[]rowOf{
			{"first-write-1GiB", Milliseconds, ""},
			{"space-after-4KiB-in-1GiB", KiB, "as the free space of the snapshotter's file system tells"},
			{"random-write-4KiB", PerSecond, "buffered, into 1 GiB, straight after the first write"},
		},
		func(_ context.Context, root string) ([]float64, error) {
			return writeInto(data(root, "1GiB"), root, writes)
		},
	}}
	for _, size := range []string{"64MiB", "1MiB", "4KiB"} {
		list = append(list, measure{
			[]rowOf{{"first-write-" + size, Milliseconds, ""}},
			func(_ context.Context, root string) ([]float64, error) {
				return took(workload.FirstWrite(data(root, size)))
			},
		})
	}
	return append(list, []measure{
		{
			[]rowOf{{"seq-read", MiBPerSecond, "1 GiB, not cached"}},
			func(_ context.Context, root string) ([]float64, error) {
				d, err := workload.SequentialRead(data(root, "1GiB"))
				return []float64{1024 / d.Seconds()}, err
			},
		},
		{
			[]rowOf{{"random-read-4KiB", PerSecond, "of 1 GiB, not cached"}},
			func(_ context.Context, root string) ([]float64, error) {
				d, err := workload.RandomRead(data(root, "1GiB"), reads)
				return []float64{reads / d.Seconds()}, err
			},
		},
		{
			[]rowOf{{"untar", Milliseconds, "/usr/share of the Debian image"}},
			func(ctx context.Context, root string) ([]float64, error) {
				return took(workload.Untar(ctx, tar, filepath.Join(root, "untar")))
			},
		},
		{
			[]rowOf{{"find-stat", Milliseconds, "/usr of the Debian image, just mounted"}},
			func(_ context.Context, root string) ([]float64, error) {
				return took(workload.FindStat(filepath.Join(root, "usr")))
			},
		},
		// What gets worse stands beside what gets better: writes to blocks that are still
		// shared, once the peer's copy is on the disk.
		{
			[]rowOf{{"random-write-4KiB-later", PerSecond, "buffered, into 64 MiB of shared blocks; worse by nature"}},
			shared(writes, 0, nil),
		},
		{
			[]rowOf{{"synced-write-4KiB", PerSecond, "write and fdatasync into 64 MiB of shared blocks; worse by nature"}},
			shared(synced, 0, unix.Fdatasync),
		},
		{
			[]rowOf{{"direct-write-4KiB", PerSecond, "O_DIRECT, one at a time, into 64 MiB of shared blocks; worse by nature"}},
			shared(synced, unix.O_DIRECT, nil),
		},
		{
			[]rowOf{{"mmap-write-64MiB", Milliseconds, "write into each page and msync, blocks shared; worse by nature"}},
			func(_ context.Context, root string) ([]float64, error) {
				return took(workload.TouchMapped(data(root, "64MiB")))
			},
		},
	}...)
}

// writeInto measures the first write into a file of the image, in milliseconds; by how
// many KiB the file system then has less free; and how many of n random writes that follow
// are done in a second.
func writeInto(path, root string, n int) ([]float64, error) {
	before, err := free(root)
	if err != nil {
		return nil, err
	}
	first, err := workload.FirstWrite(path)
	if err != nil {
		return nil, err
	}
	// What is not written to the disk yet is reserved there, and counts.
	after, err := free(root)
	if err != nil {
		return nil, err
	}
	random, err := workload.RandomWrite(path, n, 0, nil)
	return []float64{milliseconds(first), before - after, float64(n) / random.Seconds()}, err
}

// free is the free space, in KiB, of the file system that holds a root's writes:
// overlayfs answers for its upper directory.
func free(root string) (float64, error) {
	var st unix.Statfs_t
	err := unix.Statfs(root, &st)
	return float64(int64(st.Bfree)*st.Bsize) / 1024, err
}

// makeTar packs the image's /usr/share into a file that untar unpacks.
func makeTar(ctx context.Context, r *roots, dir string) (string, error) {
	file := filepath.Join(dir, "usr.tar")
	err := r.with(ctx, func(root string) error {
		return workload.Tar(ctx, filepath.Join(root, "usr/share"), file)
	})
	if err != nil {
		return "", err
	}
	// In the page cache for both.
	_, err = os.ReadFile(file)
	return file, err
}
