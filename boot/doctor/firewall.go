package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// truth is how far a rule is understood.
type truth int

const (
	no truth = iota
	maybe
	yes
)

func (t truth) not() truth { return yes - t }

// A packet is the first one of a client, as far as firewalls look at it.
type packet struct {
	iface   string
	port    port
	from    netip.Prefix // any address of it
	to      netip.Addr
	sport   uint16 // 0 is any
	fibType string // local or broadcast
}

// Verdicts of rules.
const (
	verdictNone = iota // goes on with the next rule
	verdictAccept
	verdictDrop
	verdictJump
	verdictGoto
	verdictReturn
)

// A rule is one of a chain.
type rule struct {
	text    string
	match   func(packet) truth
	verdict int
	target  string // of a jump
}

// A chain is a list of rules.
type chain struct {
	table, name string
	base        bool // packets come here by themselves
	priority    int
	drop        bool // what becomes of those that reach its end
	rules       []rule
}

// A firewall is the chains that packets to this machine go through.
type firewall struct {
	chains map[string]*chain // by table and name
	tool   string
}

func key(table, name string) string { return table + " " + name }

// A fate is what becomes of a packet: certain or not, and by what.
type fate struct {
	dropped truth
	by      string
}

// judge sends a packet through all base chains. One that is accepted by one of them goes on to the next; what is dropped is gone.
func (f *firewall) judge(p packet) fate {
	bases := []*chain{}
	for _, c := range f.chains {
		if c.base {
			bases = append(bases, c)
		}
	}
	slices.SortFunc(bases, func(a, b *chain) int {
		return cmp.Or(a.priority-b.priority, strings.Compare(key(a.table, a.name), key(b.table, b.name)))
	})
	worst := fate{}
	for _, c := range bases {
		w := walk{firewall: f, packet: p}
		verdict, by := w.chain(c, 0)
		if verdict == verdictNone && c.drop {
			verdict, by = verdictDrop, fmt.Sprintf("the end of chain %s %s, whose policy is drop", c.table, c.name)
		}
		this := fate{}
		switch {
		case verdict == verdictDrop && !w.mayAccept:
			return fate{yes, by}
		case verdict == verdictDrop:
			this = fate{maybe, by}
		case w.mayDrop != "":
			this = fate{maybe, w.mayDrop}
		}
		if this.dropped > worst.dropped {
			worst = this
		}
	}
	return worst
}

// A walk goes through one base chain and those it jumps to, and remembers what may have happened.
type walk struct {
	*firewall
	packet
	mayAccept bool
	mayDrop   string
	steps     int
}

// Chains that jump to themselves are refused by the kernel, and jumps go no deeper than NFT_JUMP_STACK_SIZE there; what is read here
// may be anything.
const (
	maxDepth = 16
	maxSteps = 10_000
)

// chain returns what becomes of a packet that came here, as far as that is certain. What may become of it besides is remembered.
func (w *walk) chain(c *chain, depth int) (verdict int, by string) {
	if c == nil || depth > maxDepth {
		return verdictNone, ""
	}
	sure := yes // that it did not go back yet
	for _, r := range c.rules {
		if w.steps++; w.steps > maxSteps {
			w.mayDrop = "more rules than are followed here"
			return verdictNone, ""
		}
		m := r.match(w.packet)
		if m == no {
			continue
		}
		end, by := r.verdict, fmt.Sprintf("rule %q of chain %s %s", r.text, c.table, c.name)
		if end == verdictJump || end == verdictGoto {
			end, by = w.chain(w.chains[key(c.table, r.target)], depth+1)
		}
		if end == verdictNone && r.verdict == verdictGoto {
			end = verdictReturn // the end of that chain leads to where this one came from
		}
		switch {
		case end == verdictNone:
			continue
		case end == verdictReturn && m == yes:
			return verdictNone, ""
		case end == verdictReturn:
			sure = maybe
			continue
		case m == yes && sure == yes:
			return end, by
		case end == verdictAccept:
			w.mayAccept = true
		case w.mayDrop == "":
			w.mayDrop = by
		}
		if m == yes { // it went back before, or ended here
			return verdictNone, ""
		}
	}
	return verdictNone, ""
}

// packets are the first ones that clients send on an interface.
func packets(i iface, listeners []listener) []packet {
	var list []packet
	for _, l := range listeners {
		if l.spare {
			continue
		}
		p := packet{iface: i.Name, port: l.port, from: i.addrs[0].Masked(), to: i.addrs[0].Addr(), fibType: "local"}
		if l.broadcast {
			p.from, p.to, p.sport, p.fibType = netip.MustParsePrefix("0.0.0.0/32"), netip.AddrFrom4([4]byte{255, 255, 255, 255}), 68, "broadcast"
		}
		list = append(list, p)
	}
	return list
}

// judgeFirewall says on which ports clients do not get in.
func judgeFirewall(f *firewall, ifaces []iface, listeners []listener) []Finding {
	var list []Finding
	for _, i := range ifaces {
		open := true
		type cause struct {
			fate
			protocol string
		}
		ports := map[cause][]string{}
		var order []cause
		for _, p := range packets(i, listeners) {
			if what := f.judge(p); what.dropped != no {
				c := cause{what, p.port.protocol}
				if ports[c] == nil {
					order = append(order, c)
				}
				ports[c] = append(ports[c], fmt.Sprint(p.port.number))
				open = false
			}
		}
		for _, c := range order {
			finding := Finding{Level: Fault, About: i.Name, What: fmt.Sprintf("the firewall (%s) drops what machines send to %s %s: %s",
				f.tool, strings.ToUpper(c.protocol), strings.Join(ports[c], ", "), c.by), WayOut: f.wayOut(i.Name, c.protocol, ports[c], c.by)}
			if c.dropped == maybe {
				finding.Level = Note
				finding.What = fmt.Sprintf("the firewall (%s) may drop what machines send to %s %s, which depends on more than can be told here: %s", f.tool,
					strings.ToUpper(c.protocol), strings.Join(ports[c], ", "), c.by)
			}
			list = append(list, finding)
		}
		if open {
			list = append(list, Finding{Level: OK, About: i.Name, What: fmt.Sprintf("the firewall (%s) lets machines in on all ports of serve", f.tool)})
		}
	}
	return list
}

// wayOut is a command of whatever made the rule.
func (f *firewall) wayOut(iface, protocol string, ports []string, by string) string {
	set := strings.Join(ports, ",")
	switch {
	case strings.Contains(by, "ufw"):
		return fmt.Sprintf("ufw allow in on %s to any port %s proto %s", iface, set, protocol)
	case strings.Contains(by, "firewalld"):
		s := "firewall-cmd --permanent"
		for _, p := range ports {
			s += " --add-port=" + p + "/" + protocol
		}
		return s + " && firewall-cmd --reload"
	case f.tool == "iptables":
		return fmt.Sprintf("iptables -I INPUT -i %s -p %s -m multiport --dports %s -j ACCEPT", iface, protocol, set)
	}
	table := "inet filter"
	chain := "input"
	if _, rest, ok := strings.Cut(by, "chain "); ok {
		if words := strings.Fields(strings.ReplaceAll(rest, ",", " ")); len(words) > 2 {
			table, chain = words[0]+" "+words[1], words[2]
		}
	}
	return fmt.Sprintf("nft insert rule %s %s iifname %q %s dport { %s } accept", table, chain, iface, protocol, strings.Join(ports, ", "))
}

// lookFirewall reads the rules in force.
func lookFirewall(ctx context.Context, ifaces []iface, listeners []listener) []Finding {
	var list []Finding
	note := func(what, wayOut string) {
		list = append(list, Finding{Level: Note, About: "firewall", What: what, WayOut: wayOut})
	}
	nft, err := output(ctx, "nft", "--json", "list", "ruleset")
	switch {
	case errors.Is(err, exec.ErrNotFound):
		note("nft is not installed, so rules of nftables were not looked at", "apt-get install nftables")
	case err != nil && os.Geteuid() != 0:
		note("the firewall was not looked at: "+err.Error(), "run it as root")
		return list
	case err != nil:
		note("the firewall was not looked at: "+err.Error(), "")
	default:
		text, _ := output(ctx, "nft", "--handle", "list", "ruleset") // for the words of rules only
		f, err := readNFT(nft, text)
		if err != nil {
			note("the firewall was not looked at: "+err.Error(), "")
			break
		}
		list = append(list, judgeFirewall(f, ifaces, listeners)...)
	}
	// The older kernel interface, which nft does not show.
	if tables, err := os.ReadFile("/proc/thread-self/net/ip_tables_names"); err == nil && strings.Contains(string(tables), "filter") {
		save, err := output(ctx, "iptables-legacy-save", "-t", "filter")
		if errors.Is(err, exec.ErrNotFound) {
			save, err = output(ctx, "iptables-save", "-t", "filter")
		}
		if err != nil {
			note("there are rules of iptables, and they were not looked at: "+err.Error(), "")
		} else {
			list = append(list, judgeFirewall(readIPTables(save), ifaces, listeners)...)
		}
	}
	return list
}

// output runs a program that prints.
func output(ctx context.Context, name string, args ...string) ([]byte, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		if path, err = exec.LookPath("/usr/sbin/" + name); err != nil { // not in the PATH of an ordinary login
			return nil, fmt.Errorf("run %s: %w", name, exec.ErrNotFound)
		}
	}
	cmd := exec.CommandContext(ctx, path, args...)
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("run %s: %w: %s", name, err, strings.TrimSpace(said.String()))
	}
	return out, nil
}
