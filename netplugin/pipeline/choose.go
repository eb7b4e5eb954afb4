package pipeline

// Stay is no CPU: packets are processed where they are.
const Stay = -1

// Threshold is the load, in per mille, above which a core is left for another, and above
// which, on average, nothing is moved (EuroSys'21, section 4.3).
const Threshold = 800

// Mix spreads a number over 32 bits: the finaliser of MurmurHash3.
func Mix(h uint32) uint32 {
	h ^= h >> 16
	h *= 0x85ebca6b
	h ^= h >> 13
	h *= 0xc2b2ae35
	return h ^ h>>16
}

// Choose is the core out of a stage's set for the next packets of a flow, ifindex being
// the device the packet comes from: the first by hash, or, if that one is busier than
// [Threshold], another by a second hash unless it is busier still. It is [Stay] while the
// cores are busier than that on average, and for an empty set. Second is whether the
// second hash decided.
//
// Unlike FALCON's the second choice is never the first again, nor a busier one: a move
// costs the flow a pause.
func Choose(flowHash, ifindex uint32, set []int, load Load) (cpu int, second bool) {
	n := uint64(len(set))
	if n == 0 || load.Average > Threshold {
		return Stay, false
	}
	h := Mix(flowHash + ifindex)
	i := uint64(h) * n >> 32
	one := set[i]
	if n == 1 || load.Core[one] <= Threshold {
		return one, false
	}
	j := uint64(Mix(h+0x9e3779b9)) * (n - 1) >> 32
	if j >= i {
		j++
	}
	if two := set[j]; load.Core[two] < load.Core[one] {
		return two, true
	}
	return one, false
}
