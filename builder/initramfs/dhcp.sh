#!/bin/sh
# What happens to the network card when the DHCP client has news. dhclient calls it with $reason and new_... variables,
# busybox udhcpc with the event as argument and variables without prefix. It puts the address on the card and
# writes what it was told to /run/netroot/dhcp for /init. It never takes the card down and never removes an address:
# the root file system comes over it.

# plain VALUE: print it when it holds nothing that a shell or resolv.conf could stumble over. It comes from the network.
plain() {
	case $1 in
	*[!A-Za-z0-9._:/\ -]*) ;;
	*) printf '%s' "$1" ;;
	esac
}

# dhclient and udhcpc export these; not all of them are always there.
if [ -n "${reason-}" ]; then
	event=$reason
	card=${interface-} address=${new_ip_address-} mask=${new_subnet_mask-} routers=${new_routers-} mtu=${new_interface_mtu-}
	dns=${new_domain_name_servers-} domain=${new_domain_name-} name=${new_host_name-} ntp=${new_ntp_servers-}
	server=${new_dhcp_server_identifier-}
else
	event=${1-}
	card=${interface-} address=${ip-} mask=${subnet-} routers=${router-} mtu=${mtu-}
	dns=${dns-} domain=${domain-} name=${hostname-} ntp=${ntpsrv-} server=${serverid-}
fi

case $event in
PREINIT | deconfig)
	ip link set dev "$card" up
	;;
BOUND | RENEW | REBIND | REBOOT | bound | renew)
	[ -n "$(plain "$address")" ] || exit 1
	mask=$(plain "${mask:-255.255.255.255}")
	ip addr add "$address/$mask" broadcast + dev "$card" 2>/dev/null
	case $mtu in
	'' | *[!0-9]*) ;;
	*) [ "$mtu" -ge 576 ] && ip link set dev "$card" mtu "$mtu" ;;
	esac
	gateway=$(plain "${routers%% *}")
	if [ -n "$gateway" ]; then
		# With a /32 (some clouds) the gateway is not on any known network.
		ip route replace default via "$gateway" dev "$card" 2>/dev/null ||
			{ ip route add "$gateway" dev "$card" && ip route replace default via "$gateway" dev "$card"; }
	fi
	{
		echo "dhcp_address='$(plain "$address")'"
		echo "dhcp_mask='$mask'"
		echo "dhcp_gateway='$gateway'"
		echo "dhcp_dns='$(plain "$dns")'"
		echo "dhcp_domain='$(plain "$domain")'"
		echo "dhcp_hostname='$(plain "$name")'"
		echo "dhcp_ntp='$(plain "$ntp")'"
		echo "dhcp_server='$(plain "$server")'"
	} >/run/netroot/dhcp
	;;
esac
exit 0
