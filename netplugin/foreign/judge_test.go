package foreign

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/netplugin/firewall"
)

func TestJudgeRulesOfNft(t *testing.T) {
	shared := newNode(t)
	for name, test := range map[string]struct{ rules, want string }{
		"a policy": {rules: `table inet filter { chain forward { type filter hook forward priority filter; policy drop; }; }`},
		"stateless": {rules: `table inet filter {
			set hosts { type ipv4_addr; flags interval; elements = { 10.0.0.0/8, 192.0.2.7 }; }
			counter seen { }
			chain forward { type filter hook forward priority filter;
				counter name seen iifname "fb*" ip saddr @hosts tcp dport { 80, 443 } counter accept comment "web"
				ip6 saddr 2001:db8::/32 ip6 daddr 2001:db8:1::1 meta l4proto { tcp, udp } th dport 53 mark set 7 return
				ether saddr 02:00:00:00:00:01 fib daddr type local jump last
				icmp type echo-request reject with icmp admin-prohibited
				icmpv6 type nd-neighbor-solicit meta mark & 0xff == 1 goto last; }
			chain last { drop; }; }`},
		"translation": {rules: `table ip nat {
			map ports { type inet_service : ipv4_addr . inet_service; elements = { 8080 : 10.88.1.2 . 80 }; }
			chain pre { type nat hook prerouting priority dstnat; ct state new dnat to tcp dport map @ports; tcp dport 81 redirect to :80; }
			chain post { type nat hook postrouting priority srcnat; oifname "eth0" masquerade; snat to 192.0.2.1; }; }`},
		"state":        {`table inet filter { chain forward { type filter hook forward priority filter; ct state established,related accept; }; }`, "table inet filter, chain forward: a rule asks for the state of connections, which needs every packet"},
		"state by map": {`table ip f { chain forward { type filter hook forward priority filter; ct state vmap { invalid : drop }; }; }`, "state of connections"},
		"output only": {rules: `table inet filter {
			chain output { type filter hook output priority filter; ct state new limit rate 1/second log jump deeper; }
			chain deeper { quota over 1 mbytes drop; }
			chain unused { limit rate 1/second; }; }`},
		"limit": {`table inet filter { chain input { type filter hook input priority filter; udp dport 4789 limit rate over 1000/second drop; }; }`, "table inet filter, chain input: a rule limits rates"},
		"limit behind a verdict map": {`table ip t {
			chain deep { limit rate 1/second; }
			map m { type inet_service : verdict; elements = { 1 : accept, 80 : goto deep }; }
			chain pre { type filter hook prerouting priority 0; tcp dport vmap @m; }; }`, "table ip t, chain deep: a rule limits rates"},
		"a verdict map to nothing bad": {rules: `table ip t {
			chain deep { limit rate 1/second; }
			chain pre { type filter hook prerouting priority 0; tcp dport vmap { 80 : accept, 100-200 : drop }; }; }`},
		"limits by address":     {`table ip t { chain c { type filter hook forward priority 0; meter m { ip saddr limit rate 10/second } accept; }; }`, "remembers"},
		"a set of limits":       {`table ip t { set s { type ipv4_addr; limit rate 1/second; elements = { 10.88.1.2 limit rate 1/second }; }; chain c { type filter hook forward priority 0; ip saddr @s drop; }; }`, "limits rates"},
		"a set that forgets":    {`table ip t { set s { type ipv4_addr; timeout 1h; }; chain c { type filter hook forward priority 0; ip saddr @s drop; }; }`, "the set s"},
		"quota":                 {`table ip t { quota q { over 1 mbytes }; chain c { type filter hook forward priority 0; quota name q drop; }; }`, "quota"},
		"connections":           {`table ip t { chain c { type filter hook forward priority 0; ct count over 9 drop; }; }`, "number of connections"},
		"helper":                {`table ip t { ct helper ftp { type "ftp" protocol tcp; }; chain c { type filter hook prerouting priority 0; tcp dport 21 ct helper set "ftp"; }; }`, "helper"},
		"log":                   {`table ip t { chain c { type filter hook postrouting priority 0; log; }; }`, "logs"},
		"copies":                {`table ip t { chain c { type filter hook prerouting priority 0; dup to 192.0.2.9; }; }`, "copies"},
		"proxy":                 {`table ip t { chain c { type filter hook prerouting priority 0; tcp dport 80 tproxy to :3128; }; }`, "proxy"},
		"chance":                {`table ip t { chain c { type filter hook forward priority 0; numgen random mod 2 0 drop; }; }`, "by chance"},
		"mangling":              {`table ip t { chain c { type filter hook forward priority 0; ip dscp set 1; }; }`, "packets"},
		"clamping":              {`table ip t { chain c { type filter hook forward priority 0; tcp flags syn tcp option maxseg size set rt mtu; }; }`, "which needs every packet"},
		"priority":              {`table ip t { chain c { type filter hook forward priority 0; meta priority set 5; }; }`, "more than marks"},
		"trace":                 {`table ip t { chain c { type filter hook prerouting priority 0; meta nftrace set 1; }; }`, "traces"},
		"hours":                 {`table ip t { chain c { type filter hook forward priority 0; meta hour "08:00"-"18:00" accept; }; }`, "the time"},
		"length":                {`table ip t { chain c { type filter hook forward priority 0; meta length > 1000 drop; }; }`, "differs"},
		"TTL":                   {`table inet t { chain c { type filter hook forward priority 0; ip ttl 1 drop; }; }`, "differs"},
		"no tracking":           {rules: `table ip t { chain c { type filter hook prerouting priority raw; udp dport 4789 notrack; }; }`},
		"dormant":               {rules: `table ip t { flags dormant; chain c { type filter hook forward priority 0; log; }; }`},
		"ARP":                   {rules: `table arp t { chain c { type filter hook input priority 0; limit rate 1/second accept; }; }`},
		"bridge":                {`table bridge t { chain c { type filter hook output priority 0; limit rate 1/second accept; }; }`, "table bridge t, chain c"},
		"ingress of the NIC":    {`table netdev t { chain c { type filter hook ingress device eth0 priority 0; limit rate 1/second accept; }; }`, "table netdev t, chain c"},
		"ingress of some":       {`table netdev t { chain c { type filter hook ingress devices = { lo, fb1 } priority 0; limit rate 1/second accept; }; }`, "limits rates"},
		"ingress of another":    {rules: `table netdev t { chain c { type filter hook ingress device lo priority 0; limit rate 1/second accept; }; }`},
		"ingress, stateless":    {rules: `table netdev t { chain c { type filter hook ingress device eth0 priority 0; ip saddr 203.0.113.0/24 drop; }; }`},
		"ours in another table": {`table ip falcon { chain c { type filter hook forward priority 0; log; }; }`, "table ip falcon"},
	} {
		t.Run(name, func(t *testing.T) {
			n := shared.in(t)
			n.nft("flush ruleset\n" + test.rules)
			n.expect(test.want, nil)
		})
	}
}

func TestJudgeRulesOfIptables(t *testing.T) {
	shared := newNode(t)
	for name, test := range map[string]struct{ commands, want string }{
		"stateless": {commands: `
			iptables-nft -A FORWARD -i fb+ -p tcp -m tcp --dport 80 -m comment --comment web -j ACCEPT
			iptables-nft -A FORWARD -m iprange --src-range 10.0.0.1-10.0.0.9 -m multiport -p udp --dports 53,5353 -j DROP
			iptables-nft -A FORWARD -m mac --mac-source 02:00:00:00:00:01 -m physdev --physdev-in eth0 -j RETURN
			ip6tables-nft -A FORWARD -p icmpv6 --icmpv6-type echo-request -j REJECT
			iptables-nft -t mangle -A PREROUTING -m addrtype --dst-type LOCAL -j MARK --set-mark 1`},
		"docker": {`
			iptables-nft -P FORWARD DROP
			iptables-nft -N DOCKER
			iptables-nft -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
			iptables-nft -A FORWARD -o docker0 -j DOCKER`, "table ip filter, chain FORWARD: a rule asks for the state of connections"},
		"docker's translation": {commands: `
			iptables-nft -t nat -N DOCKER
			iptables-nft -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
			iptables-nft -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
			iptables-nft -t nat -A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80`},
		"kube-proxy": {`
			iptables-nft -N KUBE-FORWARD
			iptables-nft -A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
			iptables-nft -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
			iptables-nft -A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT`, "chain KUBE-FORWARD"},
		"kube-proxy's translation": {`
			iptables-nft -t nat -N KUBE-SVC
			iptables-nft -t nat -A PREROUTING -d 10.96.0.1/32 -p tcp -m tcp --dport 443 -j KUBE-SVC
			iptables-nft -t nat -A KUBE-SVC -p tcp -m statistic --mode random --probability 0.5 -j DNAT --to 10.88.1.2:80
			iptables-nft -t nat -A KUBE-SVC -p tcp -j DNAT --to 10.88.1.3:80`, "chain KUBE-SVC: a rule chooses by turns or by chance"},
		"a host's own firewall": {commands: `
			iptables-nft -P INPUT DROP
			iptables-nft -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
			iptables-nft -A INPUT -p udp --dport 4789 -j ACCEPT`},
		"state in nat":     {commands: `iptables-nft -t nat -A PREROUTING -m conntrack --ctstate NEW -p tcp -j REDIRECT --to-ports 80`},
		"limit":            {`ip6tables-nft -A FORWARD -m limit --limit 1/s -j ACCEPT`, "table ip6 filter, chain FORWARD: a rule limits rates"},
		"limit by address": {`iptables-nft -A FORWARD -m hashlimit --hashlimit-name x --hashlimit-above 1/s -j DROP`, "limits rates"},
		"log":              {`iptables-nft -A FORWARD -j LOG`, "logs"},
		"recent":           {`iptables-nft -A INPUT -m recent --set --name x`, "remembers"},
		"TCP flags":        {`iptables-nft -A FORWARD -p tcp --tcp-flags SYN,ACK SYN -j DROP`, "differs"},
		"clamping":         {`iptables-nft -t mangle -A FORWARD -p tcp --syn -j TCPMSS --clamp-mss-to-pmtu`, "which needs every packet"},
		"output":           {commands: `iptables-nft -A OUTPUT -m conntrack --ctstate NEW -j LOG`},
		"bridge":           {`ebtables-nft -A FORWARD --limit 1/second -j ACCEPT`, "table bridge filter, chain FORWARD: a rule limits rates"},
		"listed only":      {commands: `iptables-nft -L -n; iptables-nft -t nat -L -n; ip6tables-nft -L -n`},
	} {
		t.Run(name, func(t *testing.T) {
			n := shared.in(t)
			n.nft("flush ruleset")
			n.sh(test.commands)
			n.expect(test.want, nil)
		})
	}
}

func TestJudgeLegacyTables(t *testing.T) {
	for commands, want := range map[string]string{
		`iptables-legacy -A FORWARD -j ACCEPT`:                 "iptables-legacy: the tables filter are loaded",
		`ip6tables-legacy -t nat -A POSTROUTING -j MASQUERADE`: "ip6tables-legacy: the tables nat are loaded",
		`iptables-legacy -t mangle -L -n`:                      "iptables-legacy: the tables mangle are loaded",
	} {
		t.Run(commands, func(t *testing.T) {
			n := newNode(t)
			n.sh(commands)
			n.expect(want, nil)
		})
	}
}

func TestJudgeOurOwnRules(t *testing.T) {
	n := newNode(t)
	n.expect("", nil)
	n.Do(func() {
		f, err := firewall.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := f.Replace(firewall.State{Port: 4789}); err != nil {
			t.Fatal(err)
		}
	})
	n.expect("", nil)
}

func TestJudgePlugins(t *testing.T) {
	n := newNode(t)
	const ports = `{"capabilities": {"portMappings": true}, "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}}`
	n.plugin("ADD", "portmap", ports)
	n.expect("", nil)
	n.plugin("DEL", "portmap", ports)

	const rates = `{"ingressRate": 8000000, "ingressBurst": 800000}`
	n.plugin("ADD", "bandwidth", rates)
	n.expect("", map[string]string{containerLink: "link " + containerLink + ": its queueing discipline tbf needs every packet"})
	n.plugin("DEL", "bandwidth", rates)
	if err := n.Netlink().QdiscDel(&netlink.Tbf{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: n.index(containerLink), Parent: netlink.HANDLE_ROOT}}); err != nil {
		t.Fatal(err)
	}
	n.expect("", nil)

	const back = `{"egressRate": 8000000, "egressBurst": 800000}`
	n.plugin("ADD", "bandwidth", back)
	n.expect("", map[string]string{containerLink: "a filter of traffic control (u32)"})

	n.plugin("ADD", "firewall", `{"backend": "iptables"}`)
	n.expect("state of connections", map[string]string{containerLink: "filter"})
}

// accepting is a BPF program that does nothing.
func accepting(t *testing.T, name string, kind ebpf.ProgramType) *ebpf.Program {
	t.Helper()
	code := int32(0) // TC_ACT_OK
	if kind == ebpf.XDP {
		code = 2 // XDP_PASS
	}
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: name, Type: kind, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, code), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// clsact gives a link a clsact and a BPF filter there.
func (n *node) clsact(name string, parent uint32, p *ebpf.Program, filter string) {
	n.t.Helper()
	h, index := n.Netlink(), n.index(name)
	err := h.QdiscReplace(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Parent: netlink.HANDLE_CLSACT, Handle: netlink.MakeHandle(0xffff, 0)}})
	if err == nil {
		err = h.FilterAdd(&netlink.BpfFilter{
			FilterAttrs: netlink.FilterAttrs{LinkIndex: index, Parent: parent, Protocol: unix.ETH_P_ALL},
			Fd:          p.FD(), Name: filter, DirectAction: true,
		})
	}
	if err != nil {
		n.t.Fatal(err)
	}
}

func TestJudgeFilters(t *testing.T) {
	n := newNode(t)
	p := accepting(t, "anything", ebpf.SchedCLS)
	for _, name := range []string{"eth0", "fb1", "fx1", containerLink} {
		n.clsact(name, netlink.HANDLE_MIN_INGRESS, p, "falcon_ingress")
		n.clsact(name, netlink.HANDLE_MIN_EGRESS, p, "falcon_egress")
	}
	n.expect("", nil)
	n.clsact("eth0", netlink.HANDLE_MIN_EGRESS, p, "theirs") // passed in any case
	n.expect("", nil)
	n.clsact("fx1", netlink.HANDLE_MIN_EGRESS, p, "theirs")
	n.expect("", map[string]string{"fx1": "link fx1: a filter of traffic control (bpf theirs)"})
	n.clsact("eth0", netlink.HANDLE_MIN_INGRESS, p, "theirs")
	n.expect("link eth0: a filter of traffic control (bpf theirs) may need every packet", map[string]string{"fx1": "theirs"})
}

func TestJudgePrograms(t *testing.T) {
	n := newNode(t)
	ours, theirs := accepting(t, "falcon_to_container", ebpf.SchedCLS), accepting(t, "theirs", ebpf.SchedCLS)
	attach := func(name string, at ebpf.AttachType, p *ebpf.Program) {
		t.Helper()
		index := n.index(name)
		n.Do(func() {
			l, err := link.AttachTCX(link.TCXOptions{Interface: index, Program: p, Attach: at})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
		})
	}
	attach("eth0", ebpf.AttachTCXIngress, ours)
	attach(containerLink, ebpf.AttachTCXEgress, ours)
	attach("eth0", ebpf.AttachTCXEgress, theirs) // passed in any case
	n.expect("", nil)
	attach(containerLink, ebpf.AttachTCXEgress, theirs)
	n.expect("", map[string]string{containerLink: `the BPF program "theirs" (tcx egress)`})
	attach("eth0", ebpf.AttachTCXIngress, theirs)
	n.expect(`link eth0: the BPF program "theirs" (tcx ingress)`, map[string]string{containerLink: "theirs"})
}

func TestJudgeXDP(t *testing.T) {
	n := newNode(t)
	p := accepting(t, "theirs", ebpf.XDP)
	for _, name := range []string{"eth0", "fb1"} {
		l := n.link(name)
		n.Do(func() {
			if err := netlink.LinkSetXdpFdWithFlags(l, p.FD(), unix.XDP_FLAGS_SKB_MODE); err != nil {
				t.Fatal(err)
			}
		})
	}
	n.expect("", map[string]string{"fb1": `link fb1: the BPF program "theirs" (XDP)`})
}

func TestJudgeLinksThatHaveGone(t *testing.T) {
	n := newNode(t)
	if err := n.Netlink().LinkDel(n.link(containerLink)); err != nil {
		t.Fatal(err)
	}
	n.expect("", nil)
}
