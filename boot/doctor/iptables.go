package doctor

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// readIPTables reads the filter table as iptables-save prints it.
func readIPTables(data []byte) *firewall {
	f := &firewall{chains: map[string]*chain{}, tool: "iptables"}
	table := ""
	at := func(name string) *chain {
		k := key("iptables", name)
		if f.chains[k] == nil {
			f.chains[k] = &chain{table: "iptables", name: name, base: name == "INPUT"}
		}
		return f.chains[k]
	}
	for line := range strings.Lines(string(data)) {
		words := quotedFields(line)
		switch {
		case len(words) == 0:
		case words[0][0] == '*':
			table = words[0][1:]
		case table != "filter":
		case words[0][0] == ':' && len(words) > 1:
			at(words[0][1:]).drop = words[1] == "DROP"
		case words[0] == "-A" && len(words) > 2:
			if r, ok := iptablesRule(words[2:]); ok {
				r.text = strings.TrimSpace(line)
				c := at(words[1])
				c.rules = append(c.rules, r)
			}
		}
	}
	return f
}

// quotedFields splits at spaces, but not between double quotes.
func quotedFields(s string) []string {
	quoted := false
	return strings.FieldsFunc(s, func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return !quoted && (r == ' ' || r == '\n' || r == '\t')
	})
}

// iptablesRule reads the options of one rule. ok is false when it has no verdict.
func iptablesRule(words []string) (r rule, ok bool) {
	var conditions []func(packet) truth
	doubt := func(packet) truth { return maybe }
	for len(words) > 0 {
		negated := words[0] == "!"
		if negated {
			words = words[1:]
		}
		if len(words) == 0 {
			break
		}
		option, arguments := words[0], 1
		value := ""
		if len(words) > 1 {
			value = words[1]
		}
		var c func(packet) truth
		switch option {
		case "-i":
			c = func(p packet) truth {
				if prefix, wild := strings.CutSuffix(value, "+"); wild {
					return is(strings.HasPrefix(p.iface, prefix))
				}
				return is(p.iface == value)
			}
		case "-p":
			c = func(p packet) truth { return is(value == p.port.protocol || value == "all") }
		case "-s", "-d":
			network, err := parsePrefix(value)
			c = func(p packet) truth {
				switch {
				case err != nil:
					return maybe
				case option == "-s":
					return within(p.from, network)
				}
				return within(netip.PrefixFrom(p.to, 32), network)
			}
		case "--dport", "--dports", "--ports":
			c = func(p packet) truth { return inPorts(value, p.port.number) }
		case "--sport", "--sports":
			c = func(p packet) truth {
				if p.sport == 0 {
					return maybe
				}
				return inPorts(value, p.sport)
			}
		case "--ctstate", "--state":
			c = func(packet) truth { return is(slices.Contains(strings.Split(value, ","), "NEW")) }
		case "--pkt-type":
			c = func(p packet) truth { return is((value == "broadcast") == (p.fibType == "broadcast")) }
		case "--dst-type":
			c = func(p packet) truth { return is(strings.EqualFold(value, p.fibType)) }
		case "-j", "-g":
			r.verdict, r.target, ok = target(option, value)
		case "-m", "--comment", "--reject-with", "--log-prefix", "--log-level":
		default: // one that is not known makes the rule doubtful, with whatever arguments it has
			arguments = 0
			for arguments+1 < len(words) && !strings.HasPrefix(words[arguments+1], "-") && words[arguments+1] != "!" {
				arguments++
			}
			c = doubt
		}
		if c != nil {
			if negated {
				plain := c
				c = func(p packet) truth { return plain(p).not() }
			}
			conditions = append(conditions, c)
		}
		words = words[min(1+arguments, len(words)):]
	}
	r.match = func(p packet) truth {
		all := yes
		for _, c := range conditions {
			all = min(all, c(p))
		}
		return all
	}
	return r, ok
}

func target(option, value string) (verdict int, chain string, ok bool) {
	switch {
	case value == "ACCEPT":
		return verdictAccept, "", true
	case value == "DROP" || value == "REJECT":
		return verdictDrop, "", true
	case value == "RETURN":
		return verdictReturn, "", true
	case value == "LOG" || value == "MARK" || value == "CONNMARK" || value == "NFLOG":
		return verdictNone, "", false
	case option == "-g":
		return verdictGoto, value, true
	}
	return verdictJump, value, true
}

func parsePrefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(a, 32), nil
	}
	return netip.ParsePrefix(s)
}

// inPorts looks for a port in a list of ports and ranges: 67,69,4000:5000.
func inPorts(list string, n uint16) truth {
	for _, item := range strings.Split(list, ",") {
		from, to, isRange := strings.Cut(item, ":")
		if !isRange {
			to = from
		}
		lo, err := strconv.ParseUint(from, 10, 16)
		if from == "" {
			lo, err = 0, nil
		}
		hi, err2 := strconv.ParseUint(to, 10, 16)
		if to == "" {
			hi, err2 = 65535, nil
		}
		if err != nil || err2 != nil {
			return maybe
		}
		if n >= uint16(lo) && n <= uint16(hi) {
			return yes
		}
	}
	return no
}
