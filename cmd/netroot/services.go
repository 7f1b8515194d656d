package main

import (
	"fmt"

	"github.com/spf13/pflag"

	"netroot/boot"
)

// services are the flags that say what serve listens on, for serve and for who asks about it.
type services struct {
	interfaces []string
	ports      boot.Ports

	noDHCP, noTFTP, noHTTP, noNFS bool
}

// add adds the flags to those of a verb. look is what is done on an interface.
func (s *services) add(f *pflag.FlagSet, look string) {
	s.ports = boot.DefaultPorts
	f.StringSliceVar(&s.interfaces, "interface", nil, look+" on this interface only; may be repeated (default: those of the policy, else all)")
	f.BoolVar(&s.noDHCP, "no-dhcp", false, "do not answer DHCP")
	f.BoolVar(&s.noTFTP, "no-tftp", false, "do not serve TFTP")
	f.BoolVar(&s.noHTTP, "no-http", false, "do not serve HTTP")
	f.BoolVar(&s.noNFS, "no-nfs", false, "do not serve NFS")
	f.IntVar(&s.ports.DHCP, "dhcp-port", s.ports.DHCP, "UDP port of proxy-DHCP, where something sends on what comes to port 67")
	f.IntVar(&s.ports.PXE, "pxe-port", s.ports.PXE, "UDP port of the PXE boot server, where something sends on what comes to port 4011")
	f.IntVar(&s.ports.TFTP, "tftp-port", s.ports.TFTP, "UDP port of TFTP, where something sends on what comes to port 69")
	f.IntVar(&s.ports.HTTP, "http-port", s.ports.HTTP, "TCP port of HTTP")
	f.IntVar(&s.ports.NFS, "nfs-port", s.ports.NFS, "TCP port of NFS and MOUNT")
	f.IntVar(&s.ports.Portmap, "portmap-port", s.ports.Portmap, "port of the portmapper, left out when it is taken; 0 for none")
}

// chosen returns the ports that the flags leave.
func (s *services) chosen() (boot.Ports, error) {
	p := s.ports
	for _, c := range []struct {
		flag string
		port int
		off  string
	}{
		{"dhcp-port", p.DHCP, "no-dhcp"}, {"pxe-port", p.PXE, "no-dhcp"}, {"tftp-port", p.TFTP, "no-tftp"},
		{"http-port", p.HTTP, "no-http"}, {"nfs-port", p.NFS, "no-nfs"}, {"portmap-port", p.Portmap, ""},
	} {
		if err := checkPort(c.flag, c.port, c.off); err != nil {
			return p, err
		}
	}
	if s.noDHCP {
		p.DHCP, p.PXE = 0, 0
	}
	if s.noTFTP {
		p.TFTP = 0
	}
	if s.noHTTP {
		p.HTTP = 0
	}
	if s.noNFS {
		p.NFS, p.Portmap = 0, 0
	}
	if p == (boot.Ports{}) {
		return p, usageError{fmt.Errorf("--no-dhcp, --no-tftp, --no-http and --no-nfs together leave nothing to serve: take one away")}
	}
	return p, nil
}

// checkPort says whether a flag's port is one. off is the flag that turns the service off, "" when 0 does.
func checkPort(flag string, port int, off string) error {
	switch {
	case port == 0 && off == "", port > 0 && port <= 65535:
		return nil
	case port == 0:
		return usageError{fmt.Errorf("--%s 0: ports go from 1 to 65535; to do without that service, give --%s", flag, off)}
	}
	return usageError{fmt.Errorf("--%s %d: ports go from 1 to 65535", flag, port)}
}
