package doctor

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// readNFT reads what "nft --json list ruleset" prints (libnftables-json(5)). text is the same by "nft --handle list ruleset", from which
// the words of the rules are taken.
func readNFT(data, text []byte) (*firewall, error) {
	var doc struct {
		Objects []struct {
			Chain *struct {
				Family, Table, Name, Type, Hook, Policy string
				Prio                                    int
			}
			Rule *struct {
				Family, Table, Chain string
				Handle               int
				Expr                 []map[string]json.RawMessage
			}
			Set *nftSet
			Map *nftSet
		} `json:"nftables"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("read the rules of nft: %w", err)
	}
	words := ruleTexts(string(text))
	f := &firewall{chains: map[string]*chain{}, tool: "nftables"}
	sets := map[string][]json.RawMessage{}
	for _, o := range doc.Objects {
		if c := o.Chain; c != nil && ipv4(c.Family) {
			table := c.Family + " " + c.Table
			f.chains[key(table, c.Name)] = &chain{table: table, name: c.Name, priority: c.Prio, drop: c.Policy == "drop",
				base: (c.Hook == "input" || c.Hook == "prerouting") && c.Type == "filter"}
			if c.Hook == "prerouting" {
				f.chains[key(table, c.Name)].priority -= 1 << 20 // before all input chains
			}
		}
		for _, s := range []*nftSet{o.Set, o.Map} {
			if s != nil {
				sets[key(s.Family+" "+s.Table, s.Name)] = s.Elem
			}
		}
	}
	for _, o := range doc.Objects {
		if o.Rule == nil || !ipv4(o.Rule.Family) {
			continue
		}
		table := o.Rule.Family + " " + o.Rule.Table
		c := f.chains[key(table, o.Rule.Chain)]
		if c == nil {
			continue
		}
		e := expressions{table: table, sets: sets}
		c.rules = append(c.rules, e.rules(o.Rule.Expr, words[fmt.Sprintf("%s %s %d", table, c.name, o.Rule.Handle)])...)
	}
	return f, nil
}

type nftSet struct {
	Family, Table, Name string
	Elem                []json.RawMessage
}

func ipv4(family string) bool { return family == "ip" || family == "inet" }

var (
	handle = regexp.MustCompile(` # handle (\d+)$`)
	opens  = regexp.MustCompile(`^(table|chain) (.*) \{`)
)

// ruleTexts finds the words of each rule by "FAMILY TABLE CHAIN HANDLE".
func ruleTexts(text string) map[string]string {
	m := map[string]string{}
	table, chain := "", ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if o := opens.FindStringSubmatch(line); o != nil {
			if o[1] == "table" {
				table = o[2]
			} else {
				chain = o[2]
			}
			continue
		}
		if h := handle.FindStringSubmatch(line); h != nil {
			m[table+" "+chain+" "+h[1]] = strings.TrimSuffix(line, h[0])
		}
	}
	return m
}

// expressions reads the rules of one table.
type expressions struct {
	table string
	sets  map[string][]json.RawMessage
}

// rules makes one rule of a list of expressions, or several of a verdict map.
func (e expressions) rules(list []map[string]json.RawMessage, text string) []rule {
	var conditions []func(packet) truth
	match := func(p packet) truth {
		all := yes
		for _, c := range conditions {
			all = min(all, c(p))
		}
		return all
	}
	for _, x := range list {
		for kind, data := range x {
			switch kind {
			case "match":
				conditions = append(conditions, e.match(data))
			case "counter", "log", "mangle", "notrack", "secmark", "flow", "ct helper":
			case "vmap":
				return e.vmap(data, match, text)
			case "xt": // an extension of iptables
				var x struct{ Type, Name string }
				if json.Unmarshal(data, &x) == nil && x.Type == "target" && x.Name == "REJECT" {
					return []rule{{text, match, verdictDrop, ""}}
				}
				conditions = append(conditions, func(packet) truth { return maybe })
			case "queue": // another program decides
				return []rule{{text, func(p packet) truth { return min(match(p), maybe) }, verdictDrop, ""}}
			default:
				verdict, target, ok := e.verdict(kind, data)
				if ok {
					return []rule{{text, match, verdict, target}}
				}
				conditions = append(conditions, func(packet) truth { return maybe }) // limit, quota, …
			}
		}
	}
	return nil
}

func (e expressions) verdict(kind string, data json.RawMessage) (verdict int, target string, ok bool) {
	switch kind {
	case "accept":
		return verdictAccept, "", true
	case "drop", "reject":
		return verdictDrop, "", true
	case "return":
		return verdictReturn, "", true
	case "continue":
		return verdictNone, "", true
	case "jump", "goto":
		var t struct{ Target string }
		if json.Unmarshal(data, &t) != nil {
			return 0, "", false
		}
		if kind == "jump" {
			return verdictJump, t.Target, true
		}
		return verdictGoto, t.Target, true
	}
	return 0, "", false
}

// vmap makes a rule of every entry of a verdict map.
func (e expressions) vmap(data json.RawMessage, match func(packet) truth, text string) []rule {
	var m struct {
		Key  json.RawMessage
		Data json.RawMessage
	}
	if json.Unmarshal(data, &m) != nil {
		return nil
	}
	var rules []rule
	left := e.left(m.Key)
	for _, entry := range e.elements(m.Data) {
		var pair [2]json.RawMessage
		var verdicts map[string]json.RawMessage
		if json.Unmarshal(entry, &pair) != nil || json.Unmarshal(pair[1], &verdicts) != nil {
			continue
		}
		for kind, data := range verdicts {
			if verdict, target, ok := e.verdict(kind, data); ok {
				equal := e.equal(pair[0])
				rules = append(rules, rule{text, func(p packet) truth { return min(match(p), equal(left(p))) }, verdict, target})
			}
		}
	}
	return rules
}

// match reads one comparison.
func (e expressions) match(data json.RawMessage) func(packet) truth {
	var m struct {
		Op          string
		Left, Right json.RawMessage
	}
	if json.Unmarshal(data, &m) != nil {
		return func(packet) truth { return maybe }
	}
	left, equal := e.left(m.Left), e.equal(m.Right)
	return func(p packet) truth {
		value := left(p)
		switch {
		case m.Op == "==" || m.Op == "in":
			return equal(value)
		case m.Op == "!=" && value.never:
			return no
		case m.Op == "!=":
			return equal(value).not()
		}
		return maybe
	}
}

// An operand is what a packet has where a rule looks. The zero value is one that is not known.
type operand struct {
	words  []string // any of these names for it
	number int      // when numeric
	prefix netip.Prefix
	kind   int
	never  bool // the packet has no such field, and the rule cannot match
}

const (
	unknown = iota
	word
	numeric
	address
)

func (e expressions) left(data json.RawMessage) func(packet) operand {
	var l struct {
		Meta    *struct{ Key string }
		Payload *struct{ Protocol, Field string }
		Ct      *struct{ Key string }
		Fib     *struct {
			Result string
			Flags  []string
		}
	}
	_ = json.Unmarshal(data, &l) // what is not understood is unknown
	return func(p packet) operand {
		switch {
		case l.Meta != nil:
			return p.meta(l.Meta.Key)
		case l.Payload != nil:
			return p.payload(l.Payload.Protocol, l.Payload.Field)
		case l.Ct != nil && l.Ct.Key == "state":
			return operand{kind: word, words: []string{"new"}}
		case l.Fib != nil && l.Fib.Result == "type" && slices.Equal(l.Fib.Flags, []string{"daddr"}):
			return operand{kind: word, words: []string{p.fibType}}
		}
		return operand{}
	}
}

func (p packet) meta(key string) operand {
	switch key {
	case "iif", "iifname":
		return operand{kind: word, words: []string{p.iface}}
	case "l4proto":
		return operand{kind: word, words: []string{p.port.protocol}}
	case "nfproto":
		return operand{kind: word, words: []string{"ipv4"}}
	case "protocol":
		return operand{kind: word, words: []string{"ip"}}
	case "pkttype":
		if p.fibType == "broadcast" {
			return operand{kind: word, words: []string{"broadcast"}}
		}
		return operand{kind: word, words: []string{"host", "unicast"}}
	}
	return operand{}
}

func (p packet) payload(protocol, field string) operand {
	switch protocol {
	case "udp", "tcp", "th":
		switch {
		case protocol != "th" && protocol != p.port.protocol:
			return operand{never: true}
		case field == "dport":
			return operand{kind: numeric, number: int(p.port.number)}
		case field == "sport" && p.sport != 0:
			return operand{kind: numeric, number: int(p.sport)}
		}
	case "ip":
		switch field {
		case "protocol":
			return operand{kind: word, words: []string{p.port.protocol}}
		case "saddr":
			return operand{kind: address, prefix: p.from}
		case "daddr":
			return operand{kind: address, prefix: netip.PrefixFrom(p.to, 32)}
		case "version":
			return operand{kind: numeric, number: 4}
		}
	case "ip6", "icmp", "icmpv6", "sctp", "dccp", "esp", "ah", "igmp", "arp":
		return operand{never: true}
	}
	return operand{}
}

// elements lists what a set holds: one that is written in the rule, or one with a name.
func (e expressions) elements(data json.RawMessage) []json.RawMessage {
	var set struct{ Set []json.RawMessage }
	if json.Unmarshal(data, &set) == nil && set.Set != nil {
		return set.Set
	}
	var list []json.RawMessage
	if json.Unmarshal(data, &list) == nil {
		return list
	}
	var name string
	if json.Unmarshal(data, &name) == nil && strings.HasPrefix(name, "@") {
		return e.sets[key(e.table, name[1:])]
	}
	return nil
}

// equal compares with a value, a range, a prefix, or any of a set.
func (e expressions) equal(right json.RawMessage) func(operand) truth {
	same := e.compare(right)
	return func(o operand) truth {
		switch {
		case o.never:
			return no
		case o.kind == unknown:
			return maybe
		}
		return same(o)
	}
}

func (e expressions) compare(right json.RawMessage) func(operand) truth {
	var name string
	isSet := json.Unmarshal(right, &name) == nil && strings.HasPrefix(name, "@")
	var x struct {
		Set    json.RawMessage
		Elem   *struct{ Val json.RawMessage }
		Range  []json.RawMessage
		Prefix *struct {
			Addr string
			Len  int
		}
		Concat json.RawMessage
	}
	_ = json.Unmarshal(right, &x) // a bare value is none of these
	switch {
	case isSet || x.Set != nil || len(right) > 0 && right[0] == '[':
		var tests []func(operand) truth
		for _, element := range e.elements(right) {
			tests = append(tests, expressions{}.compare(element)) // a set holds no sets
		}
		return func(o operand) truth {
			any := no
			for _, same := range tests {
				any = max(any, same(o))
			}
			return any
		}
	case x.Elem != nil:
		return e.compare(x.Elem.Val)
	case x.Prefix != nil:
		a, err := netip.ParseAddr(x.Prefix.Addr)
		return func(o operand) truth {
			if err != nil || o.kind != address || !a.Is4() {
				return maybe
			}
			return within(o.prefix, netip.PrefixFrom(a, x.Prefix.Len))
		}
	case len(x.Range) == 2:
		return inRange(x.Range[0], x.Range[1])
	case x.Concat != nil:
		return func(operand) truth { return maybe }
	}
	return single(right)
}

func inRange(from, to json.RawMessage) func(operand) truth {
	var lo, hi int
	numbers := json.Unmarshal(from, &lo) == nil && json.Unmarshal(to, &hi) == nil
	var first, last netip.Addr
	addresses := json.Unmarshal(from, &first) == nil && json.Unmarshal(to, &last) == nil
	return func(o operand) truth {
		switch {
		case o.kind == numeric && numbers:
			return is(o.number >= lo && o.number <= hi)
		case o.kind != address || !addresses:
			return maybe
		}
		lowest, highest := o.prefix.Masked().Addr(), lastOf(o.prefix)
		switch {
		case !lowest.Less(first) && !last.Less(highest):
			return yes
		case highest.Less(first) || last.Less(lowest):
			return no
		}
		return maybe
	}
}

func lastOf(p netip.Prefix) netip.Addr {
	a := p.Masked().Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		a[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(a)
}

func single(right json.RawMessage) func(operand) truth {
	var n int
	isNumber := json.Unmarshal(right, &n) == nil
	var a netip.Addr
	isAddress := json.Unmarshal(right, &a) == nil && a.Is4()
	var s string
	isWord := json.Unmarshal(right, &s) == nil
	return func(o operand) truth {
		switch {
		case o.kind == numeric && isNumber:
			return is(n == o.number)
		case o.kind == address && isAddress:
			return within(o.prefix, netip.PrefixFrom(a, 32))
		case o.kind != word || !isWord:
			return maybe
		}
		if prefix, wild := strings.CutSuffix(s, "*"); wild {
			return is(strings.HasPrefix(o.words[0], prefix))
		}
		return is(slices.Contains(o.words, s))
	}
}

func is(b bool) truth {
	if b {
		return yes
	}
	return no
}

// within says whether any address of p is in network: all, none, or some.
func within(p, network netip.Prefix) truth {
	switch {
	case !network.IsValid() || !network.Overlaps(p):
		return no
	case network.Bits() <= p.Bits():
		return yes
	}
	return maybe
}
