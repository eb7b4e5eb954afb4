package demo

import (
	"context"
	"os"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/integration/harness"
	"github.com/peregrine-dev/peregrine/integration/images"
	baoverlay "github.com/peregrine-dev/peregrine/snapshotter"
)

// snapshotter runs containers under stock overlayfs and under baoverlay by turns.
func snapshotter(ctx context.Context, b *harness.Bundle, o Options, image images.Image) ([]Row, error) {
	const ours, stock = "baoverlay", "overlayfs"
	refs := map[string]string{}
	for i, name := range []string{stock, ours} {
		o.Progress("pulling the image on "+name, int64(i), 2)
		ref, err := b.Pull(ctx, image, name)
		if err != nil {
			return nil, err
		}
		refs[name] = ref
	}
	// Many small files for untar, packed by a container from its image.
	if _, err := b.Ctr(ctx, "run", "--rm", "--mount", "type=bind,src="+b.Dir()+",dst=/demo,options=rbind:rw",
		refs[stock], "pack", "tar", "-C", "/usr/share", "-cf", "/demo/files.tar", "."); err != nil {
		return nil, err
	}
	write := Row{What: "first write into a file of 1 GiB", Unit: "ms"}
	disk := Row{What: "disk used by that write", Unit: "MiB"}
	untar := Row{What: "untar", Unit: "ms"}
	read := Row{What: "read 1 GiB, not cached", Unit: "ms"}
	rows := []*Row{&write, &disk, &untar, &read}
	for round := range rounds {
		order := []string{stock, ours}
		if round%2 == 1 {
			order = []string{ours, stock}
		}
		for i, name := range order {
			o.Progress("running containers on both", int64(2*round+i), 2*rounds)
			add := func(r *Row, x float64) {
				r.Stock, r.Ours = stock, ours
				if name == ours {
					r.OursTook = append(r.OursTook, x)
				} else {
					r.StockTook = append(r.StockTook, x)
				}
			}
			volume := map[string]string{stock: b.Dir(), ours: baoverlay.PoolDir(b.Snapshotter.Config.Root)}[name]
			before, err := used(volume)
			if err != nil {
				return nil, err
			}
			ns, err := container(ctx, b, o, name, refs[name], func() error {
				after, err := used(volume)
				add(&disk, float64(after-before)/(1<<20))
				return err
			}, "first-write", "/data/1GiB")
			if err != nil {
				return nil, err
			}
			add(&write, ns/1e6)
			nothing := func() error { return nil }
			if ns, err = container(ctx, b, o, name, refs[name], nothing, "untar", "/demo/files.tar", "/untar"); err != nil {
				return nil, err
			}
			add(&untar, ns/1e6)
			if ns, err = container(ctx, b, o, name, refs[name], nothing, "read", "/data/1GiB"); err != nil {
				return nil, err
			}
			add(&read, ns/1e6)
		}
	}
	table := make([]Row, len(rows))
	for i, r := range rows {
		table[i] = *r
	}
	return table, nil
}

// used is how many bytes of a file system are taken, as df tells, once all is written.
func used(dir string) (int64, error) {
	f, err := os.Open(dir)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return 0, err
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return 0, err
	}
	return int64(st.Blocks-st.Bfree) * st.Bsize, nil
}
