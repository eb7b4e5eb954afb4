package lsp

// word is a word of the language, or of a place in it, with what it means.
type word struct {
	name, doc string
}

var behaviors = []word{
	{"balance", "balance({Type, ...}, resource): spread actors of these types, so that no server is above the condition's upper bound, and none needed below the lower. Starts and stops servers if moves alone don't do."},
	{"reserve", "reserve(actor, resource): the actor has a server of its own; others leave it. What is colocated with it comes along."},
	{"colocate", "colocate(a, b) [at node|zone]: the two are in the same server (or node, or zone)."},
	{"separate", "separate(a, b) [at node|zone]: the two are never in the same server (or node, or zone). It goes before colocate."},
	{"pin", "pin(actor): it stays where it is. It goes before all others."},
}

var resources = []word{
	{"cpu", "the processor. perc: of the server's limit; size: thousandths of a core"},
	{"mem", "memory. perc: of the server's limit; size: bytes"},
	{"net", "the network. perc: of the server's limit; size: bytes per second"},
}

// features are what an entity's measured values begin with, beside resources.
var features = []word{
	{"latency", "how long requests take, in milliseconds: mean, p50, p95 or p99"},
	{"queue", "how many messages wait: len"},
	{"metric", "metric(\"name\"): a number that the application gives"},
}

var call = word{"call", "call(Type.function): what the function is called in a period. count: how often; size: bytes; perc: of all calls by that kind of caller that the server has got"}

var (
	usageStats = []word{
		{"perc", "a percentage: of the server's limit"},
		{"size", "an amount: bytes, bytes per second, or thousandths of a core"},
	}
	callStats = []word{
		{"count", "how many calls in a period"},
		{"size", "bytes of the calls in a period; of a resource, an amount"},
		{"perc", "a percentage: of all calls that the server has got from that kind of caller; of a resource, of the server's limit"},
	}
	latencyStats = []word{
		{"mean", "the mean, in milliseconds"},
		{"p50", "half of all requests take less, in milliseconds"},
		{"p95", "95 % of all requests take less, in milliseconds"},
		{"p99", "99 % of all requests take less, in milliseconds"},
	}
	queueStats = []word{{"len", "how many messages wait"}}
)

// entities are what a comparison can begin with, beside actors.
var entities = []word{
	{"server", "a container that hosts actors: the one where the condition's first actor is, or each if there is none"},
	{"client", "whoever calls from outside: client.call(Type.function)"},
}

var connectives = []word{
	{"and", "both hold; it binds tighter than or"},
	{"or", "one of the two holds"},
	{"not", "the next condition doesn't hold"},
	{"true", "always holds"},
}

var references = []word{
	{"in", "X in ref(Y.property): Y's property has a reference to X"},
	{"ref", "ref(actor.property): the actors that the property has references to"},
}

var times = []word{
	{"over", "over 30s: the feature's mean over that time, instead of a period"},
	{"for", "for 10s: the comparison has held for that time"},
}

var levels = []word{
	{"server", "the same server: a container that hosts actors"},
	{"node", "the same machine"},
	{"zone", "the same zone"},
}

var statements = []word{
	{"rule", "rule NAME priority N: condition => behaviors;"},
	{"priority", "the rule with the higher number goes first; 0 if none is given"},
	{"limits", "limits { servers 2..20; moves 5% per 10s; cooldown up 5s down 120s; period 10s; }"},
	{"mode", "mode shadow; plans are made and explained, and not carried out"},
}

var limits = []word{
	{"servers", "servers 2..20: how many there may be"},
	{"moves", "moves 5% per 10s: how many of all actors may move in that time; or a number of them"},
	{"cooldown", "cooldown up 5s down 120s: how long to wait after the number of servers has changed, before there are more, or fewer"},
	{"period", "period 10s: how often a plan is made, and the time in which features are measured"},
}

var others = []word{
	{"any", "every type"},
	{"shadow", "plans are made and explained, and not carried out"},
	{"at", "at node, at zone: how near, or how far"},
	{"per", "moves 5% per 10s: in which time"},
	{"up", "how long to wait before there are more servers"},
	{"down", "how long to wait before there are fewer servers"},
	call,
}

// lookup finds a word's meaning.
func lookup(name string) (string, bool) {
	for _, group := range [][]word{behaviors, resources, features, entities, connectives, references, times, statements, limits, others, latencyStats, queueStats, callStats, levels} {
		for _, w := range group {
			if w.name == name {
				return w.doc, true
			}
		}
	}
	return "", false
}
