package doctor

import (
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
	q := question{mac: d.MAC, arch: d.Arch, ipxe: d.IPXE, xid: 1}
	req, err := proxydhcp.Parse(q.discover())
	if err != nil {
		return []Finding{{Level: Fault, About: i.Name, What: "make a DISCOVER: " + err.Error()}}
	}
	machine := req.Machine(i.Name, local)
	decision := d.Policy.Decide(machine)
	answer, err := proxydhcp.Reply(req, decision, local, netip.MustParseAddrPort("0.0.0.0:68"), 67, d.DHCP)
	if err != nil {
		level := Fault
		if decision.Ignore {
			level = OK // as the policy wants
		}
		return []Finding{{Level: level, About: i.Name, What: fmt.Sprintf("%v would get no offer: %v", d.MAC, err)}}
	}
	list := []Finding{{Level: OK, About: i.Name, What: fmt.Sprintf("%v would get this offer: %s", d.MAC, decision.Reason), Text: describe(answer.Packet)}}
	name := d.configuration(answer.File)
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

// configuration is the file that the boot file leads to: a script itself, or the one that pxelinux asks for.
func (d *Doctor) configuration(bootFile string) string {
	if strings.HasPrefix(bootFile, "http://") {
		return path.Join("ipxe", path.Base(bootFile))
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
