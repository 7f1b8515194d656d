package host

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"netroot/builder/strictyaml"
)

// config is netroot.yaml as it is written.
type config struct {
	Interfaces []string       `yaml:"interfaces"`
	Default    string         `yaml:"default"`
	IPXE       string         `yaml:"ipxe" jsonschema:"enum=script,enum=pxelinux"`
	Loader     string         `yaml:"loader" jsonschema:"enum=pxelinux.0,enum=lpxelinux.0"`
	Menu       menuEntry      `yaml:"menu"`
	Networks   []networkEntry `yaml:"networks"`
	Hosts      []hostEntry    `yaml:"hosts"`
	Monitors   []string       `yaml:"monitors,one"`
}

type menuEntry struct {
	Timeout int    `yaml:"timeout"`
	Serial  string `yaml:"serial"`
}

type networkEntry struct {
	Network   string            `yaml:"network"`
	Interface string            `yaml:"interface"`
	Default   string            `yaml:"default"`
	Server    string            `yaml:"server"`
	IPXE      string            `yaml:"ipxe" jsonschema:"enum=script,enum=pxelinux"`
	Loader    string            `yaml:"loader" jsonschema:"enum=pxelinux.0,enum=lpxelinux.0"`
	Cmdline   []string          `yaml:"cmdline"`
	Vars      map[string]string `yaml:"vars,literal,secret"`
}

type hostEntry struct {
	Name     string            `yaml:"name" jsonschema:"required"`
	MAC      []string          `yaml:"mac,literal,one"`
	UUID     string            `yaml:"uuid,literal"`
	Address  []string          `yaml:"address,one"`
	Image    string            `yaml:"image"`
	Boot     string            `yaml:"boot" jsonschema:"enum=local,enum=once"`
	Cmdline  []string          `yaml:"cmdline"`
	Vars     map[string]string `yaml:"vars,literal,secret"`
	Disabled bool              `yaml:"disabled"`
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
	p.file, p.doc = doc.File, doc
	p.byMAC, p.byUUID, p.byAddress = map[string]entry{}, map[string]entry{}, map[netip.Addr]entry{}
	l.interfaces(p, c.Interfaces)
	if doc.Has("$.default") {
		p.Fallback, p.fallbackLine = l.fallback("$.default", c.Default), doc.Line("$.default")
	}
	p.IPXE, p.Loader = c.IPXE, c.Loader
	l.menu(p, &c.Menu)
	for i := range c.Networks {
		l.network(p, i, &c.Networks[i])
	}
	p.Hosts = make([]Host, len(c.Hosts))
	names := map[string]string{}
	for i := range c.Hosts {
		l.host(p, i, &c.Hosts[i], names)
	}
	for i, text := range c.Monitors {
		if a, err := netip.ParseAddr(text); err == nil && a.Is4() {
			text += "/32"
		}
		network, err := parseNetwork(text)
		if err != nil {
			l.at(fmt.Sprintf("$.monitors[%d]", i), "%v", err)
		}
		p.Monitors = append(p.Monitors, network)
	}
	if err := strictyaml.Join(l.errs...); err != nil {
		return nil, err
	}
	return p, nil
}

// fallback checks what an unlisted machine gets.
func (l *loader) fallback(at, word string) string {
	if err := imageRef(word); err != nil && word != "menu" && word != "ignore" && word != "local" {
		l.at(at, "%v", err).WithHint("default: is ignore, menu, local, or the name of an image")
	}
	return word
}

// interfaceName is what dev_valid_name of Linux (net/core/dev.c) allows, and IFNAMSIZ - 1 long at most.
var interfaceName = regexp.MustCompile(`^[^\s/:]{1,15}$`)

func (l *loader) interfaceName(at, name string) bool {
	if !interfaceName.MatchString(name) || name == "." || name == ".." {
		l.at(at, "%q is not the name of a network interface", name)
		return false
	}
	return true
}

func (l *loader) interfaces(p *Policy, list []string) {
	first := map[string]string{}
	for i, name := range list {
		at := fmt.Sprintf("$.interfaces[%d]", i)
		if !l.interfaceName(at, name) {
			continue
		}
		if before, twice := first[name]; twice {
			l.at(at, "%s is listed twice, first on line %d", name, l.doc.Line(before))
			continue
		}
		first[name] = at
	}
	if l.doc.Has("$.interfaces") {
		if len(list) == 0 {
			l.at("$.interfaces", "an empty list would serve nobody").WithHint("take the key away to serve every interface")
		}
		p.Interfaces, p.interfaceLine = list, l.doc.Line("$.interfaces")
	}
}

// serialPort is what pxelinux can open: COM1 to COM4, at a speed that divides the clock of a 16550.
var serialPort = regexp.MustCompile(`^ttyS[0-3](,(300|600|1200|2400|4800|9600|19200|38400|57600|115200))?$`)

func (l *loader) menu(p *Policy, m *menuEntry) {
	if l.doc.Has("$.menu.timeout") {
		switch p.Menu.Seconds = m.Timeout; {
		case m.Timeout == 0:
			p.Menu.Seconds = -1
		case m.Timeout < 0 || m.Timeout > 3600:
			l.at("$.menu.timeout", "%d is not a number of seconds from 1 to 3600, or 0 to wait for ever", m.Timeout)
		}
	}
	if l.doc.Has("$.menu.serial") {
		if p.Menu.Serial = m.Serial; m.Serial != "none" && !serialPort.MatchString(m.Serial) {
			l.at("$.menu.serial", "%q is not a serial port of a PC", m.Serial).WithHint(`write it as for the kernel, "ttyS0,115200", or none`)
		}
	}
}

func (l *loader) network(p *Policy, i int, e *networkEntry) {
	at := fmt.Sprintf("$.networks[%d]", i)
	n := Network{IPXE: e.IPXE, Loader: e.Loader, Cmdline: e.Cmdline, Vars: e.Vars}
	byPrefix, byInterface := l.doc.Has(at+".network"), l.doc.Has(at+".interface")
	var err error
	switch {
	case byPrefix == byInterface:
		l.at(at, "a network is named by either its addresses or an interface").WithHint("network: 192.168.2.0/24, or interface: eno1")
	case byPrefix:
		if n.Prefix, err = parseNetwork(e.Network); err != nil {
			l.at(at+".network", "%v", err)
		}
	case l.interfaceName(at+".interface", e.Interface):
		n.Interface = e.Interface
		if len(p.Interfaces) > 0 && !slices.Contains(p.Interfaces, n.Interface) {
			l.at(at+".interface", "%s is not among the interfaces on line %d, so nobody comes in on it", n.Interface, p.interfaceLine)
		}
	}
	for k, other := range p.Networks {
		if n.Prefix.IsValid() && other.Prefix == n.Prefix || n.Interface != "" && other.Interface == n.Interface {
			l.at(at, "this network is listed twice, first on line %d", l.doc.Line(fmt.Sprintf("$.networks[%d]", k)))
		}
	}
	if l.doc.Has(at + ".default") {
		n.Fallback, n.fallbackLine = l.fallback(at+".default", e.Default), l.doc.Line(at+".default")
	}
	if l.doc.Has(at + ".server") {
		if n.Server, err = parseAddress(e.Server); err != nil {
			l.at(at+".server", "%v", err)
		}
	}
	l.cmdline(at, e.Cmdline)
	l.vars(at, e.Vars)
	p.Networks = append(p.Networks, n)
}

func (l *loader) cmdline(at string, list []string) {
	if err := strictyaml.KernelParameters(list); err != nil {
		l.at(at+".cmdline", "%v", err)
	}
	for k, s := range list {
		if err := strictyaml.KernelParameter(s); err != nil {
			l.at(fmt.Sprintf("%s.cmdline[%d]", at, k), "%v", err)
		}
	}
}

func (l *loader) host(p *Policy, i int, e *hostEntry, names map[string]string) {
	at := fmt.Sprintf("$.hosts[%d]", i)
	h := &p.Hosts[i]
	h.Name, h.Cmdline, h.Disabled, h.line = e.Name, e.Cmdline, e.Disabled, l.doc.Line(at+".disabled")
	h.Local, h.Once, h.Vars = e.Boot == "local", e.Boot == "once", e.Vars
	if err := strictyaml.HostName(e.Name); err != nil {
		l.at(at+".name", "%v", err)
	} else if before, twice := names[strings.ToLower(e.Name)]; twice {
		l.at(at+".name", "two hosts are called %s, the first on line %d", e.Name, l.doc.Line(before))
	} else {
		names[strings.ToLower(e.Name)] = at + ".name"
	}
	l.addresses(p, h, at, e)
	switch {
	case e.Image == "menu" || !l.doc.Has(at+".image"):
	case e.Image == "ignore":
		l.at(at+".image", "ignore is not an image").WithHint("a host that is not to be served has disabled: true")
	case e.Image == "local":
		l.at(at+".image", "local is not an image").WithHint("a host that is to boot its own disk has boot: local")
	default:
		if err := imageRef(e.Image); err != nil {
			l.at(at+".image", "%v", err)
		}
		h.Image = e.Image
	}
	if h.Once && h.Image == "" {
		l.at(at+".boot", "boot: once, and no image to boot once").WithHint("add image: with what the machine installs itself from")
	}
	l.cmdline(at, e.Cmdline)
	l.vars(at, e.Vars)
}

// variableName is what templates can write behind .Vars.
var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func (l *loader) vars(at string, vars map[string]string) {
	for name := range vars {
		if !variableName.MatchString(name) {
			l.errs = append(l.errs, l.doc.AtKey(at+".vars."+name, "%q is not the name of a variable: letters, digits and underscores, no digit first", name))
		}
	}
}

// addresses reads all that a host is found by.
func (l *loader) addresses(p *Policy, h *Host, at string, e *hostEntry) {
	if len(e.MAC) == 0 && !l.doc.Has(at+".uuid") && len(e.Address) == 0 {
		l.at(at, "host %s has no address", e.Name).WithHint("give it mac:, or uuid:, or address: when it is behind a router")
	}
	twice := func(at, what string, other entry) {
		l.at(at, "%s is listed twice: for %s on line %d and for %s on line %d", what, other.host.Name, other.line, h.Name, l.doc.Line(at))
	}
	for k, text := range e.MAC {
		at := fmt.Sprintf("%s.mac[%d]", at, k)
		mac, err := ParseMAC(text)
		if err != nil {
			l.at(at, "%v", err)
			continue
		}
		if other, listed := p.byMAC[string(mac)]; listed {
			twice(at, mac.String(), other)
			continue
		}
		h.MACs = append(h.MACs, mac)
		p.byMAC[string(mac)] = entry{h, l.doc.Line(at)}
	}
	for k, text := range e.Address {
		at := fmt.Sprintf("%s.address[%d]", at, k)
		a, err := parseAddress(text)
		if err != nil {
			l.at(at, "%v", err)
			continue
		}
		if other, listed := p.byAddress[a]; listed {
			twice(at, a.String(), other)
			continue
		}
		h.Addresses = append(h.Addresses, a)
		p.byAddress[a] = entry{h, l.doc.Line(at)}
	}
	if at += ".uuid"; l.doc.Has(at) {
		id, err := ParseUUID(e.UUID)
		if err != nil {
			l.at(at, "%v", err)
			return
		}
		for _, id := range []string{id, Swapped(id)} {
			if other, listed := p.byUUID[id]; listed && other.host != h {
				twice(at, id, other)
				return
			}
			p.byUUID[id] = entry{h, l.doc.Line(at)}
		}
		h.UUID = id
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
