package doctor

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"path"
	"strings"

	"netroot/boot/host"
	"netroot/boot/proxydhcp"
)

// offer shows what the machine would get on one interface, by the same functions that serve answers with.
func (d *Doctor) offer(i iface) []Finding {
	local := i.addrs[0].Addr()
	q := question{mac: d.MAC, uuid: d.UUID, arch: d.Arch, ipxe: d.IPXE, xid: 1}
	req, err := proxydhcp.Parse(q.discover())
	if err != nil {
		return []Finding{{Level: Fault, About: i.Name, What: "make a DISCOVER: " + err.Error()}}
	}
	machine := req.Machine(i.Name, local)
	decision := d.decide(machine)
	answer, err := proxydhcp.Reply(req, decision, local, netip.MustParseAddrPort("0.0.0.0:68"), proxydhcp.Proxy, d.DHCP)
	list := d.byUUID(i, decision)
	switch {
	case err != nil && !decision.Ignore:
		return append(list, Finding{Level: Fault, About: i.Name, What: fmt.Sprintf("%v would get no offer: %v", d.MAC, err)})
	case err != nil && len(list) > 0:
		return append(list, Finding{Level: Note, About: i.Name, What: fmt.Sprintf("%v would get no offer then: %v", d.MAC, err)})
	case err != nil: // as the policy wants
		return []Finding{{Level: OK, About: i.Name, What: fmt.Sprintf("%v would get no offer: %v", d.MAC, err)}}
	case d.Ports.DHCP == 0:
		list = append(list, Finding{Level: Note, About: i.Name, What: fmt.Sprintf("%v would get no offer from serve with --no-dhcp; should it come by another's: %s", d.MAC, decision.Reason)})
	default:
		list = append(list, Finding{Level: OK, About: i.Name, What: fmt.Sprintf("%v would get this offer: %s", d.MAC, decision.Reason), Text: describe(answer.Packet)})
	}
	name := d.configuration(answer.File, decision)
	server := local
	if decision.Server.IsValid() {
		server = decision.Server
		if !ownAddress(server) {
			return append(list, Finding{Level: Note, About: i.Name, What: fmt.Sprintf("the policy sends it to %v, which is not this machine: what it gets there cannot be seen from here", server)})
		}
	}
	text, err := d.read(server, machine, name)
	if err != nil {
		return append(list, Finding{Level: Fault, About: i.Name, What: fmt.Sprintf("it would ask for %s and not get it: %v", name, err)})
	}
	return append(list, Finding{Level: OK, About: i.Name, What: "it would read " + name, Text: text})
}

// byUUID says what the answer leaves open when the machine's UUID is not known, and the policy lists machines by it.
func (d *Doctor) byUUID(i iface, decision host.Decision) []Finding {
	if d.UUID != "" || decision.Name != "" {
		return nil
	}
	var names []string
	for _, h := range d.Policy.Hosts {
		if h.UUID != "" && !h.Disabled {
			names = append(names, h.Name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	f := Finding{Level: Note, About: i.Name, What: fmt.Sprintf("the policy lists %s by UUID, and that of %v is not known here: the answer is for a machine that is none of them", strings.Join(names, ", "), d.MAC),
		WayOut: "give its --uuid"}
	if d.Forgot != nil {
		f.What += "; what serve remembers was not looked at: " + d.Forgot.Error()
		f.WayOut = cmp.Or(needsRoot(d.Forgot), f.WayOut)
	}
	return []Finding{f}
}

// configuration is the file that the boot file leads to: a script itself, or the one that pxelinux asks for.
func (d *Doctor) configuration(bootFile string, decision host.Decision) string {
	if path.Base(path.Dir(bootFile)) == "ipxe" {
		return path.Join("ipxe", path.Base(bootFile))
	}
	if d.UUID != "" && decision.Name != "" { // which pxelinux asks for first
		return "pxelinux.cfg/" + d.UUID
	}
	return "pxelinux.cfg/01-" + strings.ReplaceAll(d.MAC.String(), ":", "-")
}

func (d *Doctor) read(server netip.Addr, m host.Machine, name string) (string, error) {
	f, err := d.Tree.FS(server, m).Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 1<<20))
	if err != nil {
		return "", err
	}
	if len(text) == 0 {
		return "", errors.New("it is empty")
	}
	return string(text), nil
}
