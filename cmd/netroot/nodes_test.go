package main

import (
	"net/netip"
	"testing"

	"netroot/boot/nodes"
)

// A machine is asked for by any name that netroot.yaml may call it by.
func TestCalled(t *testing.T) {
	machines := []nodes.Machine{
		{Name: "vmegr", MAC: "00:20:38:03:37:6c", Addresses: []netip.Addr{netip.MustParseAddr("192.168.2.7")}},
		{Name: "vmegr", MAC: "00:20:38:03:37:6e"}, {MAC: "00:20:38:03:37:70"}, {Name: "002038033771", MAC: "00:20:38:03:37:72"},
	}
	for who, want := range map[string]int{
		"vmegr": 2, "VMEgr": 2, "192.168.2.7": 1, "00:20:38:03:37:6c": 1, "00-20-38-03-37-6C": 1, "0020.3803.376c": 1, "01-00-20-38-03-37-6c": 1, "00203803376e": 1,
		"002038033771": 1, "vme": 0, "00:20:38:03:37:99": 0, "192.168.2.8": 0,
	} {
		if got := called(machines, who); len(got) != want {
			t.Errorf("%s: %d machines", who, len(got))
		}
	}
}
