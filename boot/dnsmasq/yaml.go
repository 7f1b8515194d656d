package dnsmasq

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// yaml writes the policy.
func (t *translation) yaml() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "# What %s says, by netroot import-dnsmasq.\n", prose(filepath.Base(t.Name)))
	for _, c := range t.top {
		fmt.Fprintf(&b, "# %s\n", c)
	}
	ifaces := t.serving()
	if len(ifaces) == 0 && t.places[0].network == nil {
		for _, p := range t.places {
			if p.iface != "" {
				ifaces = append(ifaces, p.iface)
			}
		}
	}
	if len(ifaces) > 0 {
		t.above(&b, "", "interface", "no-dhcp-interface")
		fmt.Fprintf(&b, "interfaces: [%s]\n", strings.Join(quoteAll(ifaces), ", "))
	}
	same := func(value func(*place) string) (string, bool) {
		for _, p := range t.places {
			if value(p) != value(t.places[0]) {
				return "", false
			}
		}
		return value(t.places[0]), true
	}
	fallback, oneFallback := same(func(p *place) string { return p.unlisted })
	if len(ifaces) == 0 && t.places[0].network != nil && fallback != "ignore" {
		oneFallback = false // only what has a range is answered
	}
	if !oneFallback {
		fallback = "ignore"
	}
	t.above(&b, "", "dhcp-ignore")
	fmt.Fprintf(&b, "default: %s%s\n", fallback, t.behind("dhcp-ignore"))
	ipxe, oneIPXE := same(func(p *place) string { return p.told.ipxe })
	if oneIPXE && ipxe != "" {
		fmt.Fprintf(&b, "ipxe: %s\n", ipxe)
	}
	loader, oneLoader := same(func(p *place) string { return p.told.loader })
	if oneLoader && loader != "" {
		fmt.Fprintf(&b, "loader: %s\n", loader)
	}
	if s := t.seconds(); s > 0 {
		t.above(&b, "", "pxe-prompt")
		fmt.Fprintf(&b, "menu: {timeout: %d}\n", s)
	}
	t.networks(&b, !oneFallback, !oneIPXE, !oneLoader)
	t.hostList(&b)
	return []byte(b.String())
}

func (t *translation) networks(b *strings.Builder, fallback, ipxe, loader bool) {
	var entries strings.Builder
	written := map[*line]bool{}
	for _, p := range t.places {
		var fields []string
		switch {
		case p.network != nil:
			fields = append(fields, "network: "+p.prefix.String())
		case p.iface != "":
			fields = append(fields, "interface: "+quote(p.iface))
		}
		key := len(fields)
		if fallback && p.unlisted != "ignore" {
			fields = append(fields, "default: "+p.unlisted)
		}
		if p.told.server.IsValid() {
			fields = append(fields, "server: "+p.told.server.String())
		}
		if ipxe && p.told.ipxe != "" {
			fields = append(fields, "ipxe: "+p.told.ipxe)
		}
		if loader && p.told.loader != "" {
			fields = append(fields, "loader: "+p.told.loader)
		}
		comments := t.rangeComments(p)
		if len(fields) == key || key == 0 {
			if key == 0 && len(fields) > 0 {
				t.remark(p.by, true, "which network this is for does not stand here: add to networks: {interface: NAME, %s}", strings.Join(fields, ", "))
			}
			continue
		}
		behind := ""
		if p.by != nil {
			if !written[p.by] {
				comments = slices.Concat(comments, p.by.above)
				behind = p.by.comment
			}
			written[p.by] = true
		}
		for _, c := range comments {
			fmt.Fprintf(&entries, "  # %s\n", c)
		}
		fmt.Fprintf(&entries, "  - {%s}", strings.Join(fields, ", "))
		if behind != "" {
			entries.WriteString(" # " + behind)
		}
		entries.WriteString("\n")
	}
	if entries.Len() > 0 {
		b.WriteString("networks:\n" + entries.String())
	}
}

// rangeComments are what stands at the dhcp-range of a place: of the one it is, or the one that is nearest to its server.
func (t *translation) rangeComments(p *place) []string {
	r := p.network
	if r == nil && p.told.server.IsValid() {
		best := 0
		for _, candidate := range t.ranges {
			if n := commonBits(candidate.start, p.told.server); n > best {
				best, r = n, candidate
			}
		}
	}
	if r == nil {
		return nil
	}
	comments := r.above
	if r.comment != "" {
		comments = append(comments[:len(comments):len(comments)], r.comment)
	}
	return comments
}

func commonBits(a, b netip.Addr) int {
	for n := 32; n > 0; n-- {
		if p, err := a.Prefix(n); err == nil && p.Contains(b) {
			return n
		}
	}
	return 0
}

func (t *translation) hostList(b *strings.Builder) {
	if len(t.machines) == 0 {
		return
	}
	b.WriteString("\n# No image stands in a dnsmasq.conf. A host gets a menu of all images until it has one: image: NAME\n")
	for _, m := range t.machines {
		if len(m.units) > 1 && !m.given {
			b.WriteString("# Several addresses of one host are those whose names in the comments are alike and that lie side by side.\n")
			break
		}
	}
	b.WriteString("hosts:\n")
	for _, m := range t.machines {
		for _, u := range m.units {
			for _, c := range u.above {
				fmt.Fprintf(b, "  # %s\n", c)
			}
		}
		fmt.Fprintf(b, "  - name: %s\n", quote(m.name))
		if len(m.units) == 1 && len(m.units[0].macs) == 1 {
			fmt.Fprintf(b, "    mac: %q%s\n", m.units[0].macs[0].String(), m.said(m.units[0]))
		} else {
			b.WriteString("    mac:\n")
			for _, u := range m.units {
				for _, mac := range u.macs {
					fmt.Fprintf(b, "      - %q%s\n", mac.String(), m.said(u))
				}
			}
		}
		if m.local {
			b.WriteString("    boot: local\n")
		}
		if m.disabled {
			b.WriteString("    disabled: true\n")
		}
	}
}

// said is the comment of a line, when it says more than the name does.
func (m *machine) said(u *unit) string {
	if u.comment == "" || u.comment == m.name && len(m.units) == 1 {
		return ""
	}
	return " # " + u.comment
}

// above writes the prose above the lines of some keys.
func (t *translation) above(b *strings.Builder, indent string, keys ...string) {
	for _, l := range t.lines {
		for _, key := range keys {
			if l.key == key && !l.off {
				for _, c := range l.above {
					fmt.Fprintf(b, "%s# %s\n", indent, c)
				}
			}
		}
	}
}

// behind is the first comment behind a line of that key.
func (t *translation) behind(key string) string {
	for _, l := range t.lines {
		if l.key == key && l.comment != "" {
			return " # " + l.comment
		}
	}
	return ""
}

func quoteAll(words []string) []string {
	list := make([]string, len(words))
	for i, w := range words {
		list[i] = quote(w)
	}
	return list
}

// plain are names that YAML takes for nothing else.
var plain = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9.-]+$`)

// quote writes a name between quotes when YAML might take it for something else: a number, true, null.
func quote(name string) string {
	switch strings.ToLower(name) {
	case "true", "false", "yes", "no", "on", "off", "null":
	default:
		if plain.MatchString(name) {
			return name
		}
	}
	return fmt.Sprintf("%q", name)
}
