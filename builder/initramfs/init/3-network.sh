# ---- network ----

# load_drivers: for every device that is there and has none yet. Devices appear behind buses whose driver comes first,
# so it is called again until the card is found.
load_drivers() {
	local file alias
	set --
	for file in /sys/bus/*/devices/*/modalias; do
		[ ! -e "${file%/modalias}/driver" ] || continue
		read -r alias <"$file" || continue
		case $seen in
		*" $alias "*) continue ;;
		esac
		seen="$seen $alias "
		set -- "$@" "$alias"
	done 2>/dev/null
	[ $# = 0 ] || modprobe -a -q -b -- "$@" 2>/dev/null
}

# cards: the wired network cards that the kernel has
cards() {
	local dir type
	for dir in /sys/class/net/*; do
		if [ ! -e "$dir/device" ] || [ -e "$dir/wireless" ] || [ -e "$dir/phy80211" ]; then
			continue # virtual, or without a wire
		fi
		read -r type <"$dir/type" && [ "$type" = 1 ] && echo "${dir##*/}"
	done
}

mac_of() {
	local mac=''
	read -r mac <"/sys/class/net/$1/address" 2>/dev/null
	echo "$mac"
}

# candidates: the cards that may be the boot card
candidates() {
	local c all only=''
	all=$(cards)
	for c in $all; do
		if [ -n "$bootif" ]; then
			[ "$(mac_of "$c")" != "$bootif" ] || echo "$c"
		elif [ -z "$card" ] || [ "$card" = "$c" ]; then
			echo "$c"
		fi
		only="$only$c"
	done
	# A name that udev would have given (ens3), and only one card that can be meant.
	if [ -z "$bootif" ] && [ -n "$card" ] && [ "$only" = "$all" ] && [ "$only" != "$card" ]; then
		echo "$only"
	fi
}

# rename_cards: ifname=CARD:MAC
rename_cards() {
	local word c
	for word in $ifnames; do
		for c in $(cards); do
			if [ "$(mac_of "$c")" = "$(lower "${word#*:}")" ] && [ "$c" != "${word%%:*}" ]; then
				ip link set dev "$c" name "${word%%:*}"
			fi
		done
	done
}

# homeless: network devices on PCI without a driver
homeless() {
	local dir class vendor device
	for dir in /sys/bus/pci/devices/*; do
		read -r class <"$dir/class" 2>/dev/null || continue
		case $class in
		0x02*)
			[ ! -e "$dir/driver" ] || continue
			read -r vendor <"$dir/vendor"
			read -r device <"$dir/device"
			echo "${dir##*/} PCI ${vendor#0x}:${device#0x}"
			;;
		esac
	done
}

no_card() {
	local lost what="no network card${bootif:+ with the address $bootif (BOOTIF)}${card:+ called $card}"
	lost=$(homeless)
	if [ -n "$lost" ]; then
		say "network devices without a driver: $lost"
		give_up "$what, but one without a driver" "build the image with a kernel that has a driver for it, or check dmesg for what the driver lacks (firmware)"
	fi
	give_up "$what; there is: $(card_list)" "check BOOTIF=, ip= and bootdev= on the kernel command line; rd.net.timeout.iflink=SECONDS waits longer"
}

find_cards() {
	local end c
	end=$(($(uptime) + wait_card))
	while :; do
		load_drivers
		[ -z "$ifnames" ] || rename_cards
		found=$(candidates)
		[ -z "$found" ] || break
		if [ "$(uptime)" -ge "$end" ]; then
			no_card
		fi
		sleep 0.1
	done
	for c in $found; do
		# ip=ens3:dhcp was written for a machine with udev: the card gets the name it is called by.
		if [ -n "$card" ] && [ "$c" != "$card" ]; then
			ip link set dev "$c" name "$card" && c=$card && found=$card
		fi
		ip link set dev "$c" up
	done
}

card_list() {
	local c out=''
	for c in $(cards); do
		out="$out${out:+, }$c ($(mac_of "$c"))"
	done
	echo "${out:-the kernel found none at all}"
}

has_carrier() {
	local up=0
	read -r up <"/sys/class/net/$1/carrier" 2>/dev/null
	[ "$up" = 1 ]
}

# wait_for_carrier: until one of the candidates has a link. A question sent before is lost.
wait_for_carrier() {
	local end c
	end=$(($(uptime) + wait_carrier))
	while :; do
		for c in $found; do
			! has_carrier "$c" || return 0
		done
		if [ "$(uptime)" -ge "$end" ]; then
			give_up "no carrier on $(card_list) after $wait_carrier seconds" \
				"is the cable plugged in, is the switch port on? rd.net.timeout.carrier=SECONDS waits longer"
		fi
		sleep 0.1
	done
}

# ask_dhcp CARD SECONDS
ask_dhcp() {
	local name="${netroot_hostname:-$hostname}"
	rm -f "$keep/dhcp"
	if command -v dhclient >/dev/null; then
		{
			echo "timeout $2;"
			! is_hostname "$name" || echo "send host-name \"$name\";"
			cat /netroot/dhclient.conf
		} >/run/dhclient.conf
		dhclient -1 -q -cf /run/dhclient.conf -lf "$keep/dhclient.leases" -pf /run/dhclient.pid -sf /netroot/dhcp "$1" >/run/dhcp.log 2>&1
	else
		udhcpc -n -q -f -i "$1" -t "$2" -T 1 -s /netroot/dhcp >/run/dhcp.log 2>&1
	fi
	[ -s "$keep/dhcp" ]
}

# stop_dhcp: the root keeps the lease. Killed without a word, dhclient neither releases it nor touches the card.
stop_dhcp() {
	local pid=''
	read -r pid </run/dhclient.pid && kill -9 "$pid"
	rm -f /run/dhclient.pid /run/dhclient.conf
} 2>/dev/null

configure_dhcp() {
	local try=1 c asked=''
	while [ "$try" -le "$dhcp_tries" ]; do
		for c in $found; do
			has_carrier "$c" || continue
			asked=$c
			say "asking for an address on $c ($(mac_of "$c")), try $try of $dhcp_tries"
			if ask_dhcp "$c" "${wait_dhcp:-$((try * 4))}"; then
				card=$c
				# shellcheck disable=SC1091 # made by dhcp.sh
				. "$keep/dhcp"
				address=$dhcp_address gateway=$dhcp_gateway prefix=$(prefix_of "$dhcp_mask")
				return 0
			fi
		done
		[ -n "$asked" ] || wait_for_carrier
		try=$((try + 1))
	done
	while read -r c; do
		case $c in
		*[Ee]rror* | *fail* | *annot* | *"not "*) say "the DHCP client says: $c" ;;
		esac
	done </run/dhcp.log
	give_up "no DHCP answer on ${asked:-any card} ($(mac_of "$asked")) after $dhcp_tries tries" \
		"is there a DHCP server in this network (VLAN) with a free address for this machine? does the switch port forward at once (portfast)?"
}

configure_static() {
	local c
	for c in $found; do
		! has_carrier "$c" || break
	done
	card=$c
	ip addr add "$address/$prefix" broadcast + dev "$card" || give_up "the address $address/$prefix cannot be set on $card" "check ip= on the kernel command line"
	[ -z "$gateway" ] || ip route replace default via "$gateway" dev "$card" ||
		give_up "the gateway $gateway is not in the network of $address/$prefix" "check ip= on the kernel command line"
}

start_network() {
	find_cards
	case $overlay in
	tmpfs*) modprobe -a -q -- nfs nfsv3 overlay ;;
	*) modprobe -a -q -- nfs nfsv3 ;;
	esac 2>/dev/null & # while the link comes up
	wait_for_carrier
	"configure_$method"
	mac=$(mac_of "$card")
	dns=${nameservers# }
	[ -z "$peerdns" ] || dns="$dns${dns:+ }$dhcp_dns"
	domain=$dhcp_domain
	hostname=${netroot_hostname:-${hostname:-$dhcp_hostname}}
	is_hostname "$hostname" || hostname=''
	server=${server:-${peer:-$dhcp_server}}
	say "$card ($mac) has $address/$prefix, gateway ${gateway:-none}, DNS ${dns:-none}${hostname:+, name $hostname}"
}
