#!/bin/sh
# The first program of a machine without a disk: find the network card, get an address, mount the root over NFS (under a
# writable overlay in memory when asked to) and start its init. All it runs besides itself comes from that same root.
#
# The kernel command line it understands is dracut's where dracut has a word for it:
#   root=nfs:[SERVER:]/PATH[:OPTIONS]   root=[SERVER:]/PATH[,OPTIONS]   root=/dev/nfs nfsroot=[SERVER:]/PATH[,OPTIONS]
#   ip=dhcp   ip=CARD:dhcp   ip=CLIENT:[PEER]:GATEWAY:MASK:[HOST]:[CARD]:none[:DNS1[:DNS2]]
#   BOOTIF=01-MAC   bootdev=CARD   ifname=CARD:MAC   nameserver=ADDRESS   ro rw init=PROGRAM
#   rd.overlay[=tmpfs:size=50%|=bind:size=50%]   rd.break[=STAGE]   rd.shell   rd.debug   rd.retry=SECONDS   rd.peerdns=0
#   rd.net.timeout.iflink= rd.net.timeout.carrier= rd.net.timeout.dhcp=SECONDS   rd.net.dhcp.retry=N
# and its own:
#   rd.reboot=SECONDS (0: never)   netroot.image=IMAGE@GENERATION   netroot.hostname=NAME   netroot.shell=TTY
#
# What a command line leaves out is in init_defaults. Sourced under another name it only defines its functions.
# shellcheck disable=SC3043 # every sh of a distribution (dash, bash, busybox) has local

new=/sysroot       # becomes /
keep=/run/netroot  # handed over to the root
lower=             # where NFS is mounted, once it is

init_defaults() {
	root='' nfsroot='' server='' path='' options='' rw=ro init='' ips='' method='' card='' bootif='' bootdev='' ifnames=''
	address='' peer='' gateway='' mask='' hostname='' nameservers='' peerdns=1
	overlay='' break='' shell='' debug='' retry=90 reboot=30 image='' generation='' netroot_image='' netroot_hostname='' tty=''
	wait_card=30 wait_carrier=30 wait_dhcp='' dhcp_tries=5
	dhcp_address='' dhcp_mask='' dhcp_gateway='' dhcp_dns='' dhcp_domain='' dhcp_hostname='' dhcp_server=''
	prefix='' mac='' dns='' domain=''
	told='' seen='' error='' advice=''
}

say() { printf 'netroot: %s\n' "$*"; }

# seconds since the kernel started
uptime() {
	local up rest
	read -r up rest </proc/uptime
	echo "${up%%.*}"
}

# ---- the command line ----

# parse_cmdline WORDS: sets the variables of init_defaults. Of words that count once the last one wins.
parse_cmdline() {
	local word value
	set -f
	# shellcheck disable=SC2086 # words is what they are
	set -- $1
	set +f
	for word; do
		value=${word#*=}
		value=${value#\"}
		value=${value%\"}
		case $word in
		root=*) root=$value ;;
		nfsroot=*) nfsroot=$value ;;
		ip=*) ips="$ips $value" ;;
		BOOTIF=*) bootif=$(mac_of_bootif "$value") ;;
		bootdev=*) bootdev=$value ;;
		ifname=*) ifnames="$ifnames $value" ;;
		nameserver=*) nameservers="$nameservers $value" ;;
		ro | rw) rw=$word ;;
		init=*) init=$value ;;
		rd.overlay | rd.overlay=1 | rd.overlay=yes) overlay=tmpfs ;;
		rd.overlay=0 | rd.overlay=no) overlay='' ;;
		rd.overlay=*) overlay=$value ;;
		rd.break) break=pre-pivot ;;
		rd.break=*) break=$value ;;
		rd.shell | rd.shell=1) shell=1 ;;
		rd.shell=0) shell='' ;;
		rd.debug | rd.debug=1) debug=1 ;;
		rd.peerdns=0 | rd.peerdns=no) peerdns='' ;;
		rd.retry=*) retry=$(number "$word" "$value" "$retry") ;;
		rd.reboot=*) reboot=$(number "$word" "$value" "$reboot") ;;
		rd.net.timeout.iflink=*) wait_card=$(number "$word" "$value" "$wait_card") ;;
		rd.net.timeout.carrier=*) wait_carrier=$(number "$word" "$value" "$wait_carrier") ;;
		rd.net.timeout.dhcp=*) wait_dhcp=$(number "$word" "$value" "$wait_dhcp") ;;
		rd.net.dhcp.retry=*) dhcp_tries=$(number "$word" "$value" "$dhcp_tries") ;;
		netroot.image=*) netroot_image=$value ;;
		netroot.hostname=*) netroot_hostname=$value ;;
		netroot.shell=*) tty=${value#/dev/} ;;
		esac
	done
}

# number WORD VALUE DEFAULT
number() {
	case $2 in
	'' | *[!0-9]*) say "$1: not a number of seconds or tries, taking ${3:-the default}" >&2 && echo "$3" ;;
	*) echo "$2" ;;
	esac
}

# mac_of_bootif 01-AA-bb-…: the address as the kernel writes it. The first byte is the hardware type (RFC 1700).
mac_of_bootif() {
	local rest="$1" mac='' pair
	case $rest in
	??-??-??-??-??-??-??) rest=${rest#??-} ;;
	esac
	while [ -n "$rest" ]; do
		pair=${rest%%[-:]*}
		mac=$mac${mac:+:}$(lower "$pair")
		case $rest in
		*[-:]*) rest=${rest#*[-:]} ;;
		*) rest='' ;;
		esac
	done
	echo "$mac"
}

lower() {
	local out="$1" pair from
	for pair in Aa Bb Cc Dd Ee Ff; do
		from=${pair%?}
		while :; do
			case $out in
			*"$from"*) out=${out%%"$from"*}${pair#?}${out#*"$from"} ;;
			*) break ;;
			esac
		done
	done
	echo "$out"
}

# parse_root: server, path and options out of root= and nfsroot=. Fails with error and advice set.
parse_root() {
	local value="$root"
	case $value in
	/dev/nfs | nfs | /dev/nfs:*) value=$nfsroot ;;
	esac
	case $value in
	'')
		error="the kernel command line has no root=${root:+$root nfsroot=}"
		advice="add root=nfs:SERVER:/IMAGE to it"
		return 1
		;;
	nfs://*)
		value=${value#nfs://}
		server=${value%%/*}
		path=/${value#*/}
		case $server in
		*:*) options=port=${server#*:} server=${server%%:*} ;;
		esac
		return
		;;
	nfs4:*)
		options=vers=4
		value=${value#nfs4:}
		;;
	nfs:*) value=${value#nfs:} ;;
	*=* | /dev/* | live:* | block:* | dhcp)
		case $value in
		*:/*) ;;
		*)
			error="root=$value is not an NFS root"
			advice="this initramfs mounts its root over NFS only: root=nfs:SERVER:/IMAGE"
			return 1
			;;
		esac
		;;
	esac
	case $value in
	/*) ;;
	*:/*)
		server=${value%%:/*}
		value=${value#"$server":}
		;;
	*)
		error="root=$root names no path"
		advice="write root=nfs:SERVER:/IMAGE"
		return 1
		;;
	esac
	path=${value%%[:,]*}
	value=${value#"$path"}
	[ -z "$value" ] || options=$options${options:+,}${value#?}
}

# parse_ip: method (dhcp or static), card and the rest out of the ip= words. Without any: dhcp on whatever card works.
parse_ip() {
	local word chosen=''
	method=dhcp
	# The last one counts: what a machine's own entry says comes behind ip=dhcp. Unless one is for the boot card.
	# shellcheck disable=SC2086
	for word in $ips; do
		case ":$chosen:" in
		*":${bootdev:-no card has this name}:"*) ;;
		*) chosen=$word ;;
		esac
	done
	card=$bootdev
	case $chosen in
	'' | dhcp | on | any | single-dhcp) return ;;
	off | none | dhcp6 | auto6 | either6 | link6 | ibft | auto | bootp | rarp)
		error="ip=$chosen does not give this machine an IPv4 address"
		advice="use ip=dhcp, or ip=CLIENT::GATEWAY:MASK:HOST:CARD:none"
		return 1
		;;
	*[!0-9.]*) ;;
	*)
		error="ip=$chosen has no netmask"
		advice="write ip=$chosen::GATEWAY:MASK:HOST:CARD:none"
		return 1
		;;
	esac
	case $chosen in
	[0-9]*.*.*.*:* | :*) ;;
	*:dhcp | *:on | *:any | *:dhcp:* | *:on:* | *:any:*) # CARD:dhcp[:MTU[:MAC]]
		card=${chosen%%:*}
		return
		;;
	*)
		error="ip=$chosen: not understood"
		advice="use ip=dhcp, ip=CARD:dhcp, or ip=CLIENT::GATEWAY:MASK:HOST:CARD:none"
		return 1
		;;
	esac
	parse_tuple "$chosen"
}

# parse_tuple CLIENT:PEER:GATEWAY:MASK:HOST:CARD:METHOD[:DNS1[:DNS2]], or [:MTU[:MAC]] at the end, which is ignored
parse_tuple() {
	local old="$IFS" how
	IFS=:
	set -f
	# shellcheck disable=SC2086
	set -- $1
	set +f
	IFS=$old
	address=${1-} peer=${2-} gateway=${3-} mask=${4-} hostname=${5-}
	card=${6:-$card} how=${7-}
	case $how in
	dhcp | on | any)
		address='' gateway='' mask=''
		return
		;;
	esac
	method=static
	if ! prefix=$(prefix_of "$mask") || [ -z "$address" ]; then
		error="ip=: the address '$address' with the netmask '$mask' is not complete"
		advice="write ip=CLIENT::GATEWAY:255.255.255.0:HOST:CARD:none"
		return 1
	fi
	case ${8-} in
	*.*.*.*) nameservers="$nameservers $8" ;;
	esac
	case ${9-} in
	*.*.*.*) nameservers="$nameservers $9" ;;
	esac
}

# prefix_of 255.255.255.0 or 24: 24
prefix_of() {
	local n=0 octet end='' old="$IFS"
	case $1 in
	'' | *[!0-9.]*) return 1 ;;
	*.*.*.*) ;;
	*)
		[ "${1%%.*}" = "$1" ] && [ "$1" -le 32 ] && echo "$1"
		return
		;;
	esac
	IFS=.
	for octet in $1; do
		[ -z "$end" ] || [ "$octet" = 0 ] || return 1
		case $octet in
		255) n=$((n + 8)) ;;
		254) n=$((n + 7)) end=1 ;;
		252) n=$((n + 6)) end=1 ;;
		248) n=$((n + 5)) end=1 ;;
		240) n=$((n + 4)) end=1 ;;
		224) n=$((n + 3)) end=1 ;;
		192) n=$((n + 2)) end=1 ;;
		128) n=$((n + 1)) end=1 ;;
		0) end=1 ;;
		*) return 1 ;;
		esac
	done
	IFS=$old
	echo "$n"
}

# nfs_options: what mount(2) gets. The kernel speaks the MOUNT protocol itself when it is told the address, so no
# mount.nfs is needed. What the command line says stands; version 3 over TCP without lockd is what is added.
nfs_options() {
	local out="$options"
	case ,$out, in
	*,vers=* | *,nfsvers=* | *,v[234]*) ;;
	*) out=$out${out:+,}vers=3 ;;
	esac
	case ,$out, in
	*,proto=* | *,tcp,* | *,udp,*) ;;
	*) out=$out,proto=tcp ;;
	esac
	case ,$out, in
	*,nolock,* | *,lock,*) ;;
	*) out=$out,nolock ;;
	esac
	case $overlay in
	'') out=$rw,$out ;;
	*) out=ro,$out ;;
	esac
	echo "$out,addr=$server"
}

# overlay_options: for the tmpfs that takes the changes
overlay_options() {
	case $overlay in
	tmpfs | bind) echo mode=0755,size=50% ;;
	tmpfs:* | bind:*) echo "mode=0755,${overlay#*:}" ;;
	*) return 1 ;;
	esac
}

# parse_image: image and generation, for whoever reads the console
parse_image() {
	local name="${netroot_image:-${path##*/}}"
	case $name in
	*@*) image=${name%@*} generation=${name##*@} ;;
	*) image=$name generation=- ;;
	esac
}

is_hostname() {
	case $1 in
	'' | -* | .* | *[!A-Za-z0-9.-]*) return 1 ;;
	esac
}

is_ipv4() {
	case $1 in
	*[!0-9.]* | *.*.*.*.* | *..* | .* | *.) return 1 ;;
	*.*.*.*) ;;
	*) return 1 ;;
	esac
}

# ---- failure ----

# give_up WHAT WHAT-TO-DO
give_up() {
	say "cannot go on: $1"
	say "what to do: $2"
	[ $$ = 1 ] || exit 1 # whoever tries these functions on a machine that runs does not want it rebooted
	if [ -n "$shell" ]; then
		rescue "rd.shell"
	elif [ "$reboot" = 0 ]; then
		say "waiting for ever (rd.reboot=0)"
		while :; do sleep 3600; done
	else
		say "rebooting in $reboot seconds (rd.reboot=SECONDS; rd.shell on the kernel command line gives a shell instead)"
		sleep "$reboot"
	fi
	say "rebooting"
	echo b >/proc/sysrq-trigger
	sleep 10
	exit 1 # the kernel panics: panic=SECONDS reboots
}

rescue() {
	say "shell because of $1; leave it with exit"
	PS1='initramfs# ' setsid sh -i </dev/console >/dev/console 2>&1
}

# at STAGE: the place of rd.break=STAGE
at() {
	[ "$break" != "$1" ] || rescue "rd.break=$1"
}

# stage NAME: says on the console how far it is, and to the server with a LOOKUP of a name that is never there.
stage() {
	local up rest one
	say "image=$image generation=$generation stage=$1"
	read -r up rest </proc/uptime
	told="$told .netroot.stage=$1,up=$up"
	[ -n "$lower" ] || return 0
	for one in $told; do
		[ ! -e "$lower/$one" ] || say "the server has a file $one?"
	done
	told=''
}

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

# ---- the root ----

# try_mount: mounts once, at most for half a minute. The reason of a failure is in /run/mount.log.
try_mount() {
	local end pid
	end=$(($(uptime) + 30))
	mount -i -t nfs -o "$(nfs_options)" "$server:$path" "$lower" >/run/mount.log 2>&1 &
	pid=$!
	while [ -e "/proc/$pid/exe" ]; do # a process that has ended has none
		if [ "$(uptime)" -ge "$end" ]; then
			kill -9 "$pid"
			wait "$pid"
			echo "no answer in 30 seconds" >/run/mount.log
			return 1
		fi
		sleep 0.1
	done
	wait "$pid"
}

# explain_mount: error and advice for what mount or the kernel said. Fails when another try is of no use.
explain_mount() {
	local said='' line where="$server:$path" port=2049 rc=0
	while read -r line; do
		case $line in
		'' | "dmesg(1) may"*) ;;
		*) said="$said${said:+; }$line" ;;
		esac
	done </run/mount.log
	case ,$options in
	*,port=*)
		port=${options#*port=}
		port=${port%%,*}
		;;
	esac
	case $said in
	*"does not exist"* | *"No such file"*)
		error="server $server has no export $path"
		advice="is the image there? netroot images on the server lists them"
		;;
	*denied* | *ermission* | *"not permitted"* | *" read-only."*) # util-linux words EACCES so for a read-only mount
		error="server $server refused the mount of $path"
		advice="is the image there, and may this machine ($address) have it? netroot images on the server lists them; so does its log"
		;;
	*efused*)
		error="server $server is up, but nothing answers on its NFS port $port"
		advice="is netroot serve running there? a firewall may also refuse"
		;;
	*oute* | *unreachable*)
		error="server $server cannot be reached from $address/$prefix, gateway ${gateway:-none}"
		advice="is the server's address on the kernel command line the one on this network?"
		;;
	*"no answer"* | *"imed out"*)
		error="server $server does not answer on its NFS port $port"
		advice="is the server up? does a firewall drop what goes to TCP port $port?"
		;;
	*"unknown filesystem"* | *"No such device"*)
		error="the kernel has no NFS client for $where"
		advice="the modules in this initramfs do not fit the kernel that runs: serve kernel and initramfs of one generation"
		rc=1
		;;
	*"wrong fs type"* | *"bad option"* | *nvalid*)
		error="the kernel does not take the options $(nfs_options)"
		advice="check the options behind the path in root="
		rc=1
		;;
	*)
		error="$where cannot be mounted"
		advice="see the message above"
		;;
	esac
	say "$error (${said:-mount said nothing})"
	return $rc
}

mount_nfs() {
	local end pause=1 try=1 final=" (rd.retry=SECONDS tries longer)"
	is_ipv4 "$server" || give_up "root= names ${server:-no server}${server:+, which is no IPv4 address}" "write root=nfs:ADDRESS:/IMAGE: names are not resolved this early"
	case $path in
	*%s*) path=${path%%%s*}${hostname:-$address}${path#*%s} ;;
	esac
	lower=$new
	if [ -n "$overlay" ]; then
		overlay_options >/dev/null || give_up "rd.overlay=$overlay is not understood" "use rd.overlay, rd.overlay=tmpfs:size=50% or rd.overlay=bind:size=50%"
	fi
	case $overlay in
	tmpfs*)
		lower=$keep/ro
		mkdir -p "$lower"
		;;
	esac
	end=$(($(uptime) + retry))
	until try_mount; do
		explain_mount || final=''
		if [ -z "$final" ] || [ "$(uptime)" -ge "$end" ]; then
			give_up "$error (tries: $try)" "$advice$final"
		fi
		say "trying again in $pause seconds"
		sleep "$pause"
		try=$((try + 1))
		pause=$((pause < 8 ? pause * 2 : 10))
	done
	if [ ! -d "$lower/proc" ] || [ ! -d "$lower/dev" ]; then
		give_up "$server:$path has no /proc or no /dev: not the root of an operating system" "check the path in root=; netroot images on the server lists what there is"
	fi
}

mount_overlay() {
	[ -n "$overlay" ] || return 0
	mkdir -p "$keep/rw"
	mount -t tmpfs -o "$(overlay_options)" netroot "$keep/rw" || give_up "no memory file system for the changes: $(overlay_options)" "check the size in rd.overlay="
	case $overlay in
	bind*)
		copy_folders
		return
		;;
	esac
	mkdir "$keep/rw/upper" "$keep/rw/work"
	mount -t overlay -o "lowerdir=$lower,upperdir=$keep/rw/upper,workdir=$keep/rw/work" netroot "$new" || give_up "this kernel cannot put an overlay over NFS" "use rd.overlay=bind (writable: bind in the recipe), or leave rd.overlay out: the root is then read-only"
}

# copy_folders: what a kernel without overlayfs can do (2.6.32 of EL6): copies of some folders in memory are put over those of the
# root. Which ones the root says itself; for one that does not, those that programs write to.
copy_folders() {
	local folder list="$new/usr/lib/netroot/folders"
	if [ ! -r "$list" ]; then
		list=$keep/folders
		printf '%s\n' /etc /var /root /tmp /home >"$list"
	fi
	while read -r folder; do
		case $folder in
		/?*) copy_folder "$folder" ;;
		esac
	done <"$list"
	rm -f /run/cp.log
}

# copy_folder FOLDER. A link is left alone: an absolute one means something else here than in the root.
copy_folder() {
	local line said='' lost=0 copy="$keep/rw$1" size
	size=$(overlay_options)
	if [ -L "$new$1" ] || [ ! -d "$new$1" ]; then
		say "nothing can be written to $1: it is no folder of the root"
		return 0
	fi
	mkdir -p "${copy%/*}"
	if ! cp -a "$new$1" "$copy" >/run/cp.log 2>&1; then
		while read -r line; do
			case $line in
			*"o space left"*) give_up "$1 of the root does not fit into the memory for changes (${size#*size=} of $(memory))" \
				"allow more with size: below root: in the recipe (rd.overlay=bind:size=80% on the kernel command line), take $1 out of folders:, or make it smaller in the image" ;;
			esac
			said=${said:-$line}
			lost=$((lost + 1))
		done </run/cp.log
		say "of $1 could not all be copied ($lost messages): $said"
	fi
	mount --bind "$copy" "$new$1" || give_up "the copy of $1 cannot be put over the root's" "leave rd.overlay=bind out: the root is then read-only"
}

# memory: how much the machine has
memory() {
	local key value
	while read -r key value; do
		case $key in
		MemTotal:) echo "$((${value%% *} / 1024)) MB" ;;
		esac
	done </proc/meminfo
}

# put FILE COPY: replaces a file of the root by one of /run/netroot. A read-only root gets it bound over the file it has.
put() {
	if { rm -f "$new$1" && cat "$2" >"$new$1"; } 2>/dev/null; then
		return 0
	fi
	[ -f "$new$1" ] && [ ! -L "$new$1" ] && mount --bind "$2" "$new$1" && return 0
	say "$1 of the root cannot be written; what belongs there is in $2"
}

# spare_card: keeps udev and every network manager of the root away from the card that / comes over. One moment without it,
# and nothing can be read any more that would bring it back. udev could not rename a card that is up (Linux 6.2 can).
spare_card() {
	mkdir -p /run/systemd/network /run/NetworkManager/conf.d
	printf '[Match]\nType=ether\nMACAddress=%s\n[Link]\nNamePolicy=keep\nAlternativeNamesPolicy=database onboard slot path\n' "$mac" >/run/systemd/network/00-netroot.link
	printf '[Match]\nName=%s\n[Link]\nUnmanaged=yes\nRequiredForOnline=no\n' "$card" >/run/systemd/network/00-netroot.network
	printf '[keyfile]\nunmanaged-devices=interface-name:%s\n' "$card" >/run/NetworkManager/conf.d/00-netroot.conf
}

# spare_ifcfg: the same for initscripts. "service network restart" takes down every card that has an ifcfg file, and ifup sets one
# up anew; ifcfg files of the card that / comes over are therefore put where nobody looks for them.
spare_ifcfg() {
	local file line device hwaddr
	for file in "$new"/etc/sysconfig/network-scripts/ifcfg-*; do
		[ -f "$file" ] || continue
		device=${file##*/ifcfg-} hwaddr=''
		while read -r line || [ -n "$line" ]; do
			line=${line%\"} line=${line%\'}
			case $line in
			DEVICE=*) line=${line#DEVICE=} line=${line#\"} device=${line#\'} ;;
			HWADDR=*) line=${line#HWADDR=} line=${line#\"} hwaddr=$(lower "${line#\'}") ;;
			esac
		done <"$file"
		[ "$device" = "$card" ] || [ "$hwaddr" = "$mac" ] || continue
		cat "$file" >"$keep/${file##*/}"
		if ! rm -f "$file" 2>/dev/null; then
			printf 'DEVICE=%s\nONBOOT=no\nNM_CONTROLLED=no\n' "$card" >"$keep/ifcfg"
			put "${file#"$new"}" "$keep/ifcfg"
		fi
		say "${file##*/} is put aside, in /run/netroot: / comes over $card"
	done
}

# name_network: HOSTNAME in /etc/sysconfig/network, which rc.sysinit takes rather than what it finds set
name_network() {
	local line
	[ -f "$new/etc/sysconfig/network" ] || return 0
	while read -r line || [ -n "$line" ]; do
		case $line in
		HOSTNAME=*) line=HOSTNAME=$hostname ;;
		esac
		printf '%s\n' "$line"
	done <"$new/etc/sysconfig/network" >"$keep/network"
	put /etc/sysconfig/network "$keep/network"
}

# name_hosts: the line of /etc/hosts with the machine's own name, which may be another than the image's. sudo wants to find it.
name_hosts() {
	local line word found=''
	[ -f "$new/etc/hosts" ] || return 0
	while read -r line || [ -n "$line" ]; do
		set -f
		for word in $line; do
			[ "$word" != "$hostname" ] || found=1
		done
		set +f
		case $line in
		127.0.1.1[!0-9.]*)
			word=${hostname%%.*}
			[ "$word" != "$hostname" ] || word=''
			line="127.0.1.1	$hostname${word:+ $word}"
			;;
		esac
		printf '%s\n' "$line"
	done <"$new/etc/hosts" >"$keep/hosts"
	[ -n "$found" ] || put /etc/hosts "$keep/hosts"
}

# hand_over: what the root must know of its network. Values hold nothing but what plain in dhcp.sh lets through and
# what was checked here.
hand_over() {
	local one
	{
		echo "IMAGE='$image'"
		echo "GENERATION='$generation'"
		echo "SERVER='$server'"
		echo "IFACE='$card'"
		echo "MAC='$mac'"
		echo "ADDRESS='$address'"
		echo "PREFIX='$prefix'"
		echo "GATEWAY='$gateway'"
		echo "DNS='$dns'"
		echo "DOMAIN='$domain'"
		echo "HOSTNAME='$hostname'"
	} >"$keep/boot"
	{
		[ -z "$domain" ] || echo "search $domain"
		for one in $dns; do
			echo "nameserver $one"
		done
	} >"$keep/resolv.conf"
	spare_card
	spare_ifcfg
	if [ -n "$hostname" ]; then
		echo "$hostname" >/proc/sys/kernel/hostname
		echo "$hostname" >"$keep/hostname"
		put /etc/hostname "$keep/hostname"
		name_hosts
		name_network
	fi
	# shellcheck disable=SC2012 # the target of one link; readlink is not in the initramfs
	one=''
	[ ! -L "$new/etc/resolv.conf" ] || one=$(ls -l "$new/etc/resolv.conf" 2>/dev/null)
	case $one in
	*/systemd/resolve/*)
		mkdir -p /run/systemd/resolved.conf.d
		printf '[Resolve]\nDNS=%s\nDomains=%s\n' "$dns" "$domain" >/run/systemd/resolved.conf.d/netroot.conf
		;;
	*) [ -z "$dns$domain" ] || put /etc/resolv.conf "$keep/resolv.conf" ;;
	esac
}

# start_shell: a root shell on a serial line for whoever tests the machine, alive for as long as the machine is. Behind
# a pipe it does not take itself for interactive: such a shell ignores SIGTERM, and shutdown would wait for it.
start_shell() {
	[ -n "$tty" ] || return 0
	if [ ! -c "/dev/$tty" ]; then
		say "netroot.shell=$tty: there is no /dev/$tty"
		return 0
	fi
	PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb \
		setsid chroot "$new" /bin/sh -c '/bin/sh 2>&1 | /bin/cat' <"/dev/$tty" >"/dev/$tty" 2>&1 &
}

# leave ARGUMENTS: becomes the root's init. Its arguments are the words that the kernel did not know ("single", "3").
leave() {
	local prog one
	for prog in $init /sbin/init /etc/init /bin/init; do
		# A link may be absolute, which means something else here than there.
		if [ ! -e "$new$prog" ] && [ ! -L "$new$prog" ]; then
			[ "$prog" != "$init" ] || say "init=$init: the root has no such program, trying /sbin/init"
			continue
		fi
		stop_dhcp
		start_shell
		stage switch-root
		rm -f /run/mount.log /run/dhcp.log
		for one in dev sys run proc; do # proc last: mount reads it
			if [ -d "$new/$one" ] && [ ! -L "$new/$one" ]; then
				mount --move "/$one" "$new/$one"
			elif [ "$one" != run ]; then
				give_up "the root has no folder /$one" "a complete root has /dev /proc /sys: look at the image"
			fi
			# Systems older than /run (EL6) keep what was handed over nowhere yet.
		done
		# shellcheck disable=SC2093 # only a failed exec comes back
		exec switch_root "$new" "$prog" "$@" </dev/console >/dev/console 2>&1
		break
	done
	give_up "the root has no init: ${init:-/sbin/init}" "add systemd-sysv (Debian) or its like to the packages, or set init="
}

main() {
	export PATH=/usr/sbin:/usr/bin:/sbin:/bin
	export HOME=/ TERM="${TERM:-linux}"
	umask 022
	init_defaults
	mount -t proc -o nosuid,noexec,nodev proc /proc
	mount -t sysfs -o nosuid,noexec,nodev sysfs /sys
	mount -t devtmpfs -o mode=0755,nosuid dev /dev
	mount -t tmpfs -o mode=0755,nosuid,nodev run /run
	exec </dev/console >/dev/console 2>&1
	mkdir -p "$keep"
	# A kernel begins to gather randomness only when somebody asks for some (try_to_generate_entropy in
	# drivers/char/random.c), and a DHCP client that asks waits for a second. This gathers it while the link comes up.
	{ read -r line; } </dev/urandom &
	local line
	read -r line </proc/cmdline
	parse_cmdline "$line"
	echo # what the firmware or the kernel wrote last may have no end of line
	[ -z "$debug" ] || set -x
	at cmdline
	parse_root || give_up "$error" "$advice"
	parse_ip || give_up "$error" "$advice"
	parse_image
	stage initramfs
	at initqueue
	start_network
	stage network
	at pre-mount
	wait
	mount_nfs
	stage nfs-root
	at mount
	mount_overlay
	hand_over
	at pre-pivot
	at cleanup
	leave "$@"
}

case ${0##*/} in
init) main "$@" ;;
esac
