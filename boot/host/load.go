package host

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"

	"netroot/builder/strictyaml"
)

// config is netroot.yaml as it is written.
type config struct {
	Interfaces []string    `yaml:"interfaces"`
	Default    string      `yaml:"default"`
	IPXE       string      `yaml:"ipxe" jsonschema:"enum=pxelinux,enum=script"`
	Hosts      []hostEntry `yaml:"hosts"`
}

type hostEntry struct {
	Name     string   `yaml:"name" jsonschema:"required"`
	MAC      []string `yaml:"mac,literal,one" jsonschema:"required"`
	Image    string   `yaml:"image"`
	Cmdline  []string `yaml:"cmdline"`
	Disabled bool     `yaml:"disabled"`
}

// Load reads netroot.yaml. Every fault of it comes back as strictyaml.Errors.
func Load(path string) (*Policy, error) {
	doc, err := strictyaml.Read(path)
	if err != nil {
		return nil, err
	}
	return fromDocument(doc)
}

// Parse is Load for the bytes of a file that errors call name.
func Parse(name string, data []byte) (*Policy, error) {
	doc, err := strictyaml.Parse(name, data)
	if err != nil {
		return nil, err
	}
	return fromDocument(doc)
}

// loader gathers the faults of one file.
type loader struct {
	doc  *strictyaml.Document
	errs []*strictyaml.Error
}

func (l *loader) at(path, format string, args ...any) *strictyaml.Error {
	e := l.doc.At(path, format, args...)
	l.errs = append(l.errs, e)
	return e
}

func fromDocument(doc *strictyaml.Document) (*Policy, error) {
	var c config
	if err := doc.Decode(&c); err != nil {
		return nil, err
	}
	l := &loader{doc: doc}
	p := Default()
	p.file = doc.File
	p.byMAC = map[string]entry{}
	l.interfaces(p, c.Interfaces)
	if doc.Has("$.default") {
		if err := imageRef(c.Default); err != nil && c.Default != "menu" && c.Default != "ignore" {
			l.at("$.default", "%v", err).WithHint("default: is ignore, menu, or the name of an image")
		}
		p.Fallback, p.fallbackLine = c.Default, doc.Line("$.default")
	}
	if c.IPXE != "" {
		p.IPXE = c.IPXE
	}
	p.Hosts = make([]Host, len(c.Hosts))
	names := map[string]string{}
	for i := range c.Hosts {
		l.host(p, i, &c.Hosts[i], names)
	}
	if err := strictyaml.Join(l.errs...); err != nil {
		return nil, err
	}
	return p, nil
}

// interfaceName is what dev_valid_name of Linux (net/core/dev.c) allows, and IFNAMSIZ - 1 long at most.
var interfaceName = regexp.MustCompile(`^[^\s/:]{1,15}$`)

func (l *loader) interfaces(p *Policy, list []string) {
	first := map[string]string{}
	for i, name := range list {
		at := fmt.Sprintf("$.interfaces[%d]", i)
		switch before, twice := first[name]; {
		case !interfaceName.MatchString(name) || name == "." || name == "..":
			l.at(at, "%q is not the name of a network interface", name)
		case twice:
			l.at(at, "%s is listed twice, first on line %d", name, l.doc.Line(before))
		default:
			first[name] = at
		}
	}
	if l.doc.Has("$.interfaces") {
		if len(list) == 0 {
			l.at("$.interfaces", "an empty list would serve nobody").WithHint("take the key away to serve every interface")
		}
		p.Interfaces, p.interfaceLine = list, l.doc.Line("$.interfaces")
	}
}

func (l *loader) host(p *Policy, i int, e *hostEntry, names map[string]string) {
	at := fmt.Sprintf("$.hosts[%d]", i)
	h := &p.Hosts[i]
	h.Name, h.Cmdline, h.Disabled, h.line = e.Name, e.Cmdline, e.Disabled, l.doc.Line(at+".disabled")
	if err := strictyaml.HostName(e.Name); err != nil {
		l.at(at+".name", "%v", err)
	} else if before, twice := names[strings.ToLower(e.Name)]; twice {
		l.at(at+".name", "two hosts are called %s, the first on line %d", e.Name, l.doc.Line(before))
	} else {
		names[strings.ToLower(e.Name)] = at + ".name"
	}
	if len(e.MAC) == 0 {
		l.at(at+".mac", "host %s has no address", e.Name)
	}
	for k, text := range e.MAC {
		at := fmt.Sprintf("%s.mac[%d]", at, k)
		mac, err := ParseMAC(text)
		if err != nil {
			l.at(at, "%v", err)
			continue
		}
		if other, twice := p.byMAC[string(mac)]; twice {
			l.at(at, "%s is listed twice: for %s on line %d and for %s on line %d", mac, other.host.Name, other.line, e.Name, l.doc.Line(at))
			continue
		}
		h.MACs = append(h.MACs, mac)
		p.byMAC[string(mac)] = entry{h, l.doc.Line(at)}
	}
	switch {
	case e.Image == "menu" || !l.doc.Has(at+".image"):
	case e.Image == "ignore":
		l.at(at+".image", "ignore is not an image").WithHint("a host that is not to be served has disabled: true")
	default:
		if err := imageRef(e.Image); err != nil {
			l.at(at+".image", "%v", err)
		}
		h.Image = e.Image
	}
	for k, s := range e.Cmdline {
		if err := strictyaml.KernelParameter(s); err != nil {
			l.at(fmt.Sprintf("%s.cmdline[%d]", at, k), "%v", err)
		}
	}
}

// imageRef says what is wrong with IMAGE or IMAGE@GENERATION, if anything. Whether the store has it is not known here: it may
// be built later.
func imageRef(s string) error {
	name, generation, pinned := strings.Cut(s, "@")
	if err := strictyaml.ImageName(name); err != nil {
		return err
	}
	if n, err := strconv.Atoi(generation); pinned && (err != nil || n < 1 || strconv.Itoa(n) != generation) {
		return fmt.Errorf("%q is not a generation: %s@1 is the first one of %s", generation, name, name)
	}
	return nil
}

// ParseMAC reads an Ethernet address in any of the notations in use: 00:20:38:03:37:6c, 00-20-38-03-37-6C, 0020.3803.376c,
// 002038-03376c, 00203803376c, and pxelinux's 01-00-20-38-03-37-6c.
func ParseMAC(s string) (net.HardwareAddr, error) {
	text := strings.TrimSpace(s)
	groups := strings.FieldsFunc(text, func(r rune) bool { return r == ':' || r == '-' || r == '.' || r == ' ' })
	switch len(groups) {
	case 7: // ARP's hardware type 1, as pxelinux writes it
		if groups[0] == "01" {
			groups = groups[1:]
		}
	case 6:
		for i, g := range groups {
			if len(g) == 1 { // Solaris and arp(8) of macOS leave out leading zeros
				groups[i] = "0" + g
			}
		}
	}
	length := map[int]int{1: 12, 2: 6, 3: 4, 6: 2}[len(groups)]
	for _, g := range groups {
		if len(g) != length {
			length = 0
		}
	}
	mac, err := hex.DecodeString(strings.Join(groups, ""))
	switch {
	case err != nil || length == 0 || len(mac) != 6:
		return nil, fmt.Errorf("%q is not a MAC address, as in 00:20:38:03:37:6c", s)
	case string(mac) == "\x00\x00\x00\x00\x00\x00":
		return nil, errors.New("the MAC address of zeros belongs to no machine")
	case mac[0]&1 != 0:
		return nil, fmt.Errorf("%s is a multicast address, and no machine's own", net.HardwareAddr(mac))
	}
	return mac, nil
}
