package dnsmasq

import "strings"

// An argument is how a directive takes what stands behind its =.
type argument int

const (
	never argument = iota
	maybe
	always
)

// A directive is what a word at the start of a line means here.
type directive struct {
	argument argument
	read     func(p *parser, l *line) // nil: it has no part in booting, or why says what of it
	server   server                   // the one of dnsmasq's other services that it is for
	why      string                   // why it cannot be translated
	changes  bool                     // see Remark
}

// A server is one of those that dnsmasq is and netroot is not.
type server int

const (
	none server = iota
	dns
	dhcp // one that gives out addresses
)

// directives are the words that dnsmasq 2.90 knows. It does not start with any other in its file.
var directives = table()

func table() map[string]directive {
	t := map[string]directive{}
	add := func(d directive, words string) {
		for _, w := range strings.Fields(words) {
			t[w] = d
		}
	}
	for word, read := range map[string]func(*parser, *line){
		"interface": (*parser).interfaceList, "except-interface": (*parser).except, "no-dhcp-interface": (*parser).except,
		"no-dhcpv4-interface": (*parser).except, "port": (*parser).port, "dhcp-range": (*parser).dhcpRange, "dhcp-host": (*parser).dhcpHost,
		"dhcp-boot": (*parser).dhcpBoot, "pxe-service": (*parser).pxeService, "pxe-prompt": (*parser).pxePrompt,
		"dhcp-ignore": (*parser).dhcpIgnore, "tag-if": (*parser).tagIf, "dhcp-mac": (*parser).dhcpMAC, "dhcp-match": (*parser).dhcpMatch,
		"dhcp-vendorclass": (*parser).classMatch, "dhcp-userclass": (*parser).classMatch, "dhcp-option": (*parser).dhcpOption,
		"dhcp-option-force": (*parser).dhcpOption,
	} {
		t[word] = directive{argument: always, read: read}
	}

	files := "the lines of other files are not read: import a file that holds them all"
	add(directive{argument: always, why: files, changes: true}, "conf-dir conf-script dhcp-hostsfile dhcp-hostsdir")
	add(directive{argument: maybe, why: files, changes: true}, "conf-file")
	add(directive{argument: never, why: "/etc/ethers is not read: list the machines it names under hosts:", changes: true}, "read-ethers")
	add(directive{argument: always, why: "netroot serves its own pxelinux and the images of its store; what lies in this folder, pxelinux.cfg too, is not taken over"},
		"tftp-root")
	add(directive{argument: always, why: "netroot.yaml takes networks by the interface: name it in interfaces:", changes: true}, "listen-address")
	add(directive{argument: always, why: "netroot.yaml cannot tell machines by their relay: list them by mac: or address:", changes: true},
		"dhcp-circuitid dhcp-remoteid dhcp-subscrid")
	add(directive{argument: always, why: "netroot.yaml cannot tell machines by the name they send: list them by mac:", changes: true}, "dhcp-name-match")
	add(directive{argument: always, why: "netroot knows a network by an address that this machine has there", changes: true}, "bridge-interface shared-network")
	add(directive{argument: always, why: "netroot relays nothing"}, "dhcp-relay")
	add(directive{argument: maybe, why: "netroot names itself in every answer, also through a relay"}, "dhcp-proxy")
	add(directive{argument: always, why: "netroot answers the class PXEClient, which PXE firmware sends, and no other", changes: true}, "dhcp-pxe-vendor")
	add(directive{argument: maybe, why: "netroot answers where firmware asks, at ports 67 and 4011", changes: true}, "dhcp-alternate-port")
	add(directive{argument: always, why: "netroot answers at once"}, "dhcp-reply-delay")
	add(directive{argument: always, why: "netroot writes PXE's own options itself"}, "dhcp-optsfile dhcp-optsdir")

	add(directive{argument: never}, `log-dhcp quiet-dhcp quiet-dhcp6 quiet-ra quiet-tftp keep-in-foreground no-daemon leasefile-ro no-ping dhcp-no-override
		bind-interfaces bind-dynamic tftp-secure tftp-no-fail tftp-lowercase tftp-single-port tftp-no-blocksize script-on-renewal script-arp
		version help test no-ident dhcp-ignore-clid conntrack enable-ra log-debug`)
	add(directive{argument: maybe}, `log-queries log-async user group pid-file dhcp-leasefile enable-tftp tftp-unique-root enable-dbus enable-ubus dhcp-broadcast
		bootp-dynamic local-service`)
	add(directive{argument: always}, `log-facility tftp-max tftp-mtu tftp-port-range dumpfile dumpmask dhcp-script dhcp-scriptuser dhcp-luascript
		no-dhcpv6-interface ra-param dhcp-duid dhcp-lease port-limit max-tcp-connections`)

	add(directive{argument: never, server: dhcp}, "dhcp-authoritative dhcp-sequential-ip dhcp-rapid-commit dhcp-fqdn dhcp-client-update")
	add(directive{argument: maybe, server: dhcp}, "dhcp-ignore-names dhcp-generate-names")
	add(directive{argument: always, server: dhcp}, "dhcp-lease-max dhcp-ttl")

	add(directive{argument: never, server: dns}, `no-hosts no-poll selfmx bogus-priv filterwin2k filter-A filter-AAAA strict-order no-resolv expand-hosts localmx
		no-negcache no-round-robin domain-needed localise-queries clear-on-reload stop-dns-rebind all-servers rebind-localhost-ok proxy-dnssec
		dnssec dnssec-debug dnssec-no-timecheck dns-loop-detect`)
	add(directive{argument: maybe, server: dns}, `resolv-file cache-size add-mac strip-mac add-subnet strip-subnet connmark-allowlist-enable
		dnssec-check-unsigned umbrella fast-dns-retry use-stale-cache`)
	add(directive{argument: always, server: dns}, `servers-file mx-host mx-target domain domain-suffix bogus-nxdomain ignore-address filter-rr server rev-server
		local address local-ttl cache-rr addn-hosts hostsdir query-port alias edns-packet-max srv-host txt-record caa-record dns-rr dns-forward-max
		ptr-record naptr-record interface-name rebind-domain-ok neg-ttl max-ttl min-cache-ttl max-cache-ttl min-port max-port cname add-cpe-id
		host-record dynamic-host auth-zone auth-server auth-ttl auth-soa auth-sec-servers auth-peer ipset nftset connmark-allowlist synth-domain
		trust-anchor dnssec-timestamp dnssec-limits`)
	return t
}
