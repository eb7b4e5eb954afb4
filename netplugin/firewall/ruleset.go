package firewall

import (
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

const tableName = "falcon"

// table is a whole table as it is sent to the kernel.
type table struct {
	family nftables.TableFamily
	sets   []set
	chains []chain
}

// set is a set's definition. IDs are unique in a transaction only.
type set struct {
	name     string
	key      []nftables.SetDatatype // more than one: concatenated
	interval bool
	counters bool // filled by packets, each element with a counter
}

// chain is a base chain if it has a hook.
type chain struct {
	name     string
	kind     nftables.ChainType
	hook     *nftables.ChainHook
	priority *nftables.ChainPriority
	rules    []rule
}

// maxDrops bounds what packets can put into a set of counters; beyond it drops go on
// uncounted until the next Replace.
const maxDrops = 1 << 16

// drops is the set of counters by reason and link. The reason is kept as text in a field
// the size of a link's name: reading needs no table of numbers that could differ between
// versions, and nft shows it.
var drops = set{name: setDrops, key: []nftables.SetDatatype{nftables.TypeIFName, nftables.TypeIFName}, counters: true}

func dropChain(reason string) string { return "drop-" + reason }

// dropChains make one chain for each reason. Counting is a rule of its own: with a full
// set it would end the rule, and the drop must not depend on it.
func dropChains(reasons []string) []chain {
	var chains []chain
	for _, reason := range reasons {
		chains = append(chains, chain{name: dropChain(reason), rules: []rule{
			{
				&expr.Immediate{Register: first, Data: linkName(reason)},
				meta(expr.MetaKeyIIFNAME, second),
				&expr.Dynset{
					SrcRegKey: first, SetName: setDrops, Operation: dynsetAdd,
					Exprs: []expr.Any{&expr.Counter{}},
				},
			},
			{&expr.Verdict{Kind: expr.VerdictDrop}},
		}})
	}
	return chains
}

// dynsetAdd is NFT_DYNSET_OP_ADD (include/uapi/linux/netfilter/nf_tables.h).
const dynsetAdd = 0

// filter is a base chain that drops or accepts.
func filter(name string, hook *nftables.ChainHook, priority nftables.ChainPriority, rules ...rule) chain {
	return chain{name: name, kind: nftables.ChainTypeFilter, hook: hook, priority: &priority, rules: rules}
}
