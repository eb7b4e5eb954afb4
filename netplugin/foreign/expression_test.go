package foreign

import (
	"encoding/binary"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// exp is an expression with numbers and names as attributes.
func exp(name string, pairs ...any) expression {
	x := expression{name: name, attributes: make(attributes)}
	for i := 0; i < len(pairs); i += 2 {
		kind := uint16(pairs[i].(int))
		switch v := pairs[i+1].(type) {
		case int:
			x.attributes[kind] = binary.BigEndian.AppendUint32(nil, uint32(v))
		case string:
			x.attributes[kind] = []byte(v + "\x00")
		case []byte:
			x.attributes[kind] = v
		}
	}
	return x
}

func load(base, offset, length int) expression {
	return exp("payload", unix.NFTA_PAYLOAD_DREG, 1, unix.NFTA_PAYLOAD_BASE, base, unix.NFTA_PAYLOAD_OFFSET, offset, unix.NFTA_PAYLOAD_LEN, length)
}

func meta(key int) expression {
	return exp("meta", unix.NFTA_META_DREG, 1, unix.NFTA_META_KEY, key)
}

func setMeta(key int) expression {
	return exp("meta", unix.NFTA_META_SREG, 1, unix.NFTA_META_KEY, key)
}

func match(name string, info ...byte) expression {
	return exp("match", unix.NFTA_MATCH_NAME, name, unix.NFTA_MATCH_INFO, info)
}

func target(name string) expression { return exp("target", unix.NFTA_TARGET_NAME, name) }

const (
	network   = unix.NFT_PAYLOAD_NETWORK_HEADER
	transport = unix.NFT_PAYLOAD_TRANSPORT_HEADER
)

func TestObjection(t *testing.T) {
	state := exp("ct", unix.NFTA_CT_DREG, 1, unix.NFTA_CT_KEY, unix.NFT_CT_STATE)
	for name, test := range map[string]struct {
		x      expression
		family byte // inet if 0
		first  bool
		want   string // a part of it; nothing is fine
	}{
		"comparison":            {x: exp("cmp")},
		"bits":                  {x: exp("bitwise")},
		"accept":                {x: expression{name: "immediate"}},
		"jump":                  {x: expression{name: "immediate", chain: "c"}},
		"verdict that queues":   {x: expression{name: "immediate", queue: true}, want: "a program"},
		"counter":               {x: exp("counter")},
		"last use":              {x: exp("last")},
		"translation":           {x: exp("nat")},
		"masquerade":            {x: exp("masq")},
		"redirect":              {x: exp("redir")},
		"reject":                {x: exp("reject")},
		"address type":          {x: exp("fib")},
		"limit":                 {x: exp("limit"), want: "limits rates"},
		"limit of new ones":     {x: exp("limit"), first: true, want: "limits rates"},
		"quota":                 {x: exp("quota"), want: "quota"},
		"connlimit":             {x: exp("connlimit"), want: "number of connections"},
		"log":                   {x: exp("log"), want: "logs"},
		"queue":                 {x: exp("queue"), want: "a program"},
		"dup":                   {x: exp("dup"), want: "copies"},
		"fwd":                   {x: exp("fwd"), want: "another link"},
		"tproxy":                {x: exp("tproxy"), want: "proxy"},
		"synproxy":              {x: exp("synproxy"), want: "proxy"},
		"flowtable":             {x: exp("flow_offload"), want: "flowtable"},
		"numgen":                {x: exp("numgen"), want: "by chance"},
		"dynset":                {x: exp("dynset"), want: "remembers"},
		"option":                {x: exp("exthdr"), want: "options"},
		"unknown":               {x: exp("novelty"), want: `"novelty"`},
		"interface":             {x: meta(unix.NFT_META_IIFNAME)},
		"protocol":              {x: meta(unix.NFT_META_L4PROTO)},
		"mark":                  {x: meta(unix.NFT_META_MARK)},
		"chance":                {x: meta(unix.NFT_META_PRANDOM), want: "by chance"},
		"length":                {x: meta(unix.NFT_META_LEN), want: "differs"},
		"CPU":                   {x: meta(unix.NFT_META_CPU), want: "differs"},
		"hour":                  {x: meta(metaTimeHour), want: "the time"},
		"unknown property":      {x: meta(99), want: "99"},
		"set mark":              {x: setMeta(unix.NFT_META_MARK)},
		"set priority":          {x: setMeta(unix.NFT_META_PRIORITY), want: "more than marks"},
		"trace":                 {x: setMeta(unix.NFT_META_NFTRACE), want: "traces"},
		"set secmark":           {x: setMeta(unix.NFT_META_SECMARK), want: "more than marks"},
		"state":                 {x: state, want: "state of connections"},
		"state of new ones":     {x: state, first: true},
		"set connection's mark": {x: exp("ct", unix.NFTA_CT_SREG, 1, unix.NFTA_CT_KEY, unix.NFT_CT_MARK)},
		"set zone":              {x: exp("ct", unix.NFTA_CT_SREG, 1, unix.NFTA_CT_KEY, unix.NFT_CT_ZONE), want: "more than marks"},
		"ethernet":              {x: load(unix.NFT_PAYLOAD_LL_HEADER, 6, 6)},
		"source":                {x: load(network, 12, 4), family: unix.NFPROTO_IPV4},
		"half a destination":    {x: load(network, 16, 2), family: unix.NFPROTO_IPV4},
		"both":                  {x: load(network, 12, 8)},
		"next protocol":         {x: load(network, 9, 1)},
		"TTL":                   {x: load(network, 8, 1), family: unix.NFPROTO_IPV4, want: "differs"},
		"TTL, perhaps":          {x: load(network, 8, 1), want: "differs"},
		"DSCP":                  {x: load(network, 1, 1), want: "differs"},
		"fragments":             {x: load(network, 6, 2), want: "differs"},
		"IPv4 options":          {x: load(network, 20, 4), family: unix.NFPROTO_IPV4, want: "differs"},
		"IPv6 source":           {x: load(network, 8, 16)},
		"IPv6 source's byte":    {x: load(network, 8, 1), family: unix.NFPROTO_IPV6},
		"IPv6 destination":      {x: load(network, 24, 8)},
		"hop limit":             {x: load(network, 7, 1), family: unix.NFPROTO_IPV6, want: "differs"},
		"behind IPv6":           {x: load(network, 40, 1), want: "differs"},
		"ports":                 {x: load(transport, 0, 4)},
		"destination port":      {x: load(transport, 2, 2)},
		"TCP flags":             {x: load(transport, 13, 1), want: "differs"},
		"inner header":          {x: load(3, 0, 1), want: "differs"},
		"write":                 {x: exp("payload", unix.NFTA_PAYLOAD_SREG, 1, unix.NFTA_PAYLOAD_BASE, network), want: "changes packets"},
		"set":                   {x: exp("lookup", unix.NFTA_LOOKUP_SET, "plain")},
		"set with counters":     {x: exp("lookup", unix.NFTA_LOOKUP_SET, "counted")},
		"set with limits":       {x: exp("lookup", unix.NFTA_LOOKUP_SET, "limited"), want: "limits rates"},
		"set with timeouts":     {x: exp("lookup", unix.NFTA_LOOKUP_SET, "fleeting"), want: "the set fleeting"},
		"absent set":            {x: exp("lookup", unix.NFTA_LOOKUP_SET, "absent"), want: "absent"},
		"counter object":        {x: exp("objref", unix.NFTA_OBJREF_IMM_TYPE, unix.NFT_OBJECT_COUNTER)},
		"quota object":          {x: exp("objref", unix.NFTA_OBJREF_IMM_TYPE, unix.NFT_OBJECT_QUOTA), want: "quota"},
		"limit object":          {x: exp("objref", unix.NFTA_OBJREF_IMM_TYPE, unix.NFT_OBJECT_LIMIT), want: "limits rates"},
		"connlimit object":      {x: exp("objref", unix.NFTA_OBJREF_IMM_TYPE, unix.NFT_OBJECT_CONNLIMIT), want: "connections"},
		"helper":                {x: exp("objref", unix.NFTA_OBJREF_IMM_TYPE, unix.NFT_OBJECT_CT_HELPER), want: "helper"},
		"secmark":               {x: exp("objref", unix.NFTA_OBJREF_IMM_TYPE, unix.NFT_OBJECT_SECMARK), want: "kind 8"},
		"map to limits":         {x: exp("objref", unix.NFTA_OBJREF_SET_NAME, "limits"), want: "limits rates"},
		"absent map":            {x: exp("objref", unix.NFTA_OBJREF_SET_NAME, "absent"), want: "absent"},
		"comment":               {x: match("comment")},
		"conntrack":             {x: match("conntrack"), want: "state of connections"},
		"conntrack of new ones": {x: match("conntrack"), first: true},
		"tcp":                   {x: match("tcp", 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0)},
		"tcp flags":             {x: match("tcp", 0, 0, 0, 1, 0, 0, 0, 1, 0, 2, 2, 0), want: "differs"},
		"tcp option":            {x: match("tcp", 0, 0, 0, 1, 0, 0, 0, 1, 2, 0, 0, 0), want: "differs"},
		"tcp, cut":              {x: match("tcp"), want: "differs"},
		"statistic":             {x: match("statistic"), first: true, want: "by chance"},
		"recent":                {x: match("recent"), want: "remembers"},
		"IP set":                {x: match("set"), want: "IP set"},
		"unknown match":         {x: match("novelty"), want: `match "novelty"`},
		"MASQUERADE":            {x: target("MASQUERADE")},
		"DNAT":                  {x: target("DNAT")},
		"MARK":                  {x: target("MARK")},
		"LOG":                   {x: target("LOG"), want: "logs"},
		"TCPMSS":                {x: target("TCPMSS"), want: "changes packets"},
		"unknown target":        {x: target("NOVELTY"), want: `target "NOVELTY"`},
	} {
		t.Run(name, func(t *testing.T) {
			in := table{family: test.family, sets: map[string]*set{
				"plain":    {},
				"counted":  {expressions: []expression{exp("counter")}},
				"limited":  {expressions: []expression{exp("limit")}},
				"fleeting": {fleeting: true},
				"limits":   {object: unix.NFT_OBJECT_LIMIT},
			}}
			if in.family == 0 {
				in.family = unix.NFPROTO_INET
			}
			got := in.objection(test.x, test.first)
			if (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}
